"""ServiceAccount tokens: JSON Web Tokens as a real server's, bound to audiences, a time and perhaps a Pod.

They are signed with HMAC-SHA256 and a key that lives as long as the process; a real server signs with a key pair.
"""

import base64
import hashlib
import hmac
import json
import secrets
import uuid
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sftjob_sandbox.apimachinery.objects import (
    Clock,
    Object,
    is_deleting,
    name_of,
    namespace_of,
    parse_timestamp,
    uid_of,
)

API_AUDIENCE: Final = "https://kubernetes.default.svc.cluster.local"
"""Audience of a token that names none, and of a TokenReview without audiences: this server."""
_HEADER: Final = {"alg": "HS256", "typ": "JWT"}
_CLAIMS: Final = "kubernetes.io"
_DELETION_LEEWAY: Final = timedelta(seconds=60)  # how long a deleted Pod's token still holds, as on a real server

Lookup = Callable[[str, str, str], Object | None]
"""(resource, namespace, name) to the stored object."""


class InvalidTokenError(Exception):
    """An invalid token; the message, if any, is the reason."""


@dataclass(frozen=True)
class VerifiedToken:
    """The owner of a token. `audiences`: those of the token that were requested."""

    namespace: str
    service_account: str
    uid: str
    audiences: tuple[str, ...]
    extra: Mapping[str, tuple[str, ...]]


class TokenAuthority:
    """Issues and verifies tokens."""

    def __init__(self, lookup: Lookup, clock: Clock) -> None:
        self._key = secrets.token_bytes(32)
        self._lookup = lookup
        self._clock = clock

    def issue(self, account: Object, *, audiences: list[str], expires: datetime, pod: Object | None = None) -> str:
        """A token for a ServiceAccount, for these audiences (none: this server), bound to `pod` if one is given."""
        now = int(self._clock().timestamp())
        private: dict[str, Any] = {"namespace": namespace_of(account)}
        if pod is not None:
            if node := pod["spec"].get("nodeName"):
                private["node"] = {"name": node}
            private["pod"] = {"name": name_of(pod), "uid": uid_of(pod)}
        private["serviceaccount"] = {"name": name_of(account), "uid": uid_of(account)}
        claims = {
            "aud": audiences or [API_AUDIENCE],
            "exp": int(expires.timestamp()),
            "iat": now,
            "iss": API_AUDIENCE,
            "jti": str(uuid.uuid4()),
            _CLAIMS: private,
            "nbf": now,
            "sub": f"system:serviceaccount:{namespace_of(account)}:{name_of(account)}",
        }
        signed = f"{_encoded(_HEADER)}.{_encoded(claims)}"
        return f"{signed}.{self._signature(signed)}"

    def verify(self, token: str, audiences: tuple[str, ...]) -> VerifiedToken:
        """Whom a token stands for, if it is meant for one of `audiences` (none: this server).

        Raises InvalidTokenError; also when its time is over or what it is bound to is gone.
        """
        claims = self._claims(token)
        wanted = audiences or (API_AUDIENCE,)
        meant = tuple(audience for audience in wanted if audience in claims["aud"])
        if not meant:
            has, asked = _quoted(claims["aud"]), _quoted(wanted)
            raise InvalidTokenError(f"token audiences [{has}] is invalid for the target audiences [{asked}]")
        if self._clock().timestamp() >= claims["exp"]:
            raise InvalidTokenError("service account token has expired")
        private = claims[_CLAIMS]
        account = private["serviceaccount"]
        self._check_exists("serviceaccounts", private["namespace"], account, "service account")
        extra = {"authentication.kubernetes.io/credential-id": (f"JTI={claims['jti']}",)}
        if pod := private.get("pod"):
            self._check_exists("pods", private["namespace"], pod, "pod")
            if node := private.get("node"):
                extra["authentication.kubernetes.io/node-name"] = (node["name"],)
            extra["authentication.kubernetes.io/pod-name"] = (pod["name"],)
            extra["authentication.kubernetes.io/pod-uid"] = (pod["uid"],)
        return VerifiedToken(private["namespace"], account["name"], account["uid"], meant, extra)

    def _claims(self, token: str) -> dict[str, Any]:
        signed, _, signature = token.rpartition(".")
        if not hmac.compare_digest(signature.encode(), self._signature(signed).encode()):
            raise InvalidTokenError
        claims: dict[str, Any] = json.loads(base64.urlsafe_b64decode(signed.partition(".")[2] + "=="))
        return claims

    def _signature(self, signed: str) -> str:
        digest = hmac.new(self._key, signed.encode(), hashlib.sha256).digest()
        return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()

    def _check_exists(self, resource: str, namespace: str, bound: Mapping[str, str], called: str) -> None:
        found = self._lookup(resource, namespace, bound["name"])
        if found is None or uid_of(found) != bound["uid"]:
            raise InvalidTokenError(f"{called} {namespace}/{bound['name']} of the token is gone")
        if not is_deleting(found):
            return
        if self._clock() > parse_timestamp(found["metadata"]["deletionTimestamp"]) + _DELETION_LEEWAY:
            raise InvalidTokenError(f"{called} {namespace}/{bound['name']} of the token has been deleted")


def _encoded(value: object) -> str:
    text = json.dumps(value, separators=(",", ":")).encode()
    return base64.urlsafe_b64encode(text).rstrip(b"=").decode()


def _quoted(audiences: tuple[str, ...] | list[str]) -> str:
    return " ".join(f'"{audience}"' for audience in audiences)
