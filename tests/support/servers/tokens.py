"""ServiceAccount tokens by what they claim; nobody here verifies a signature."""

import base64
import json
from typing import Any

from sftjob_contract.names import TOKEN_AUDIENCE
from sftjob_operator.progress.identity import PodIdentity

FAR = 4_000_000_000
"""An expiry that no test outlives."""


def a_jwt(signature: str = "signature", **claims: Any) -> str:
    """A JSON web token with these claims and no others."""
    payload = base64.urlsafe_b64encode(json.dumps(claims).encode()).decode().rstrip("=")
    return f"header.{payload}.{signature}"


def token_of(pod: PodIdentity | None, signature: str = "signature", **claims: Any) -> str:
    """A token as a kubelet projects it into a Pod; None: one that is bound to no Pod."""
    bound = {} if pod is None else {"namespace": pod.namespace, "pod": {"name": pod.name, "uid": pod.uid}}
    usual = {"aud": [TOKEN_AUDIENCE], "exp": FAR, "kubernetes.io": bound}
    return a_jwt(signature, **usual | claims)
