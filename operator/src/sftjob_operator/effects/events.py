"""Events about a job, for `kubectl describe`."""

import hashlib
from collections.abc import Mapping
from typing import Any, Final

from sftjob_contract.names import API_VERSION, KIND, MANAGED_BY
from sftjob_operator.effects.cluster import Object

MESSAGE_LIMIT: Final = 1024
"""The API server's limit."""


def event_body(
    job: Mapping[str, Any], type_: str, reason: str, message: str, time: str, cause: str | None = None
) -> Object:
    """Build a core/v1 Event. Its name is derived from its content, so that a duplicate is a 409 and not a second Event.

    `cause`: the content without its variable parts; None: the whole message.
    """
    metadata = job["metadata"]
    identity = "\0".join((metadata["uid"], type_, reason, cause or message))
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{metadata['name']}.{hashlib.sha256(identity.encode()).hexdigest()[:16]}",
            "namespace": metadata["namespace"],
        },
        "involvedObject": {
            "apiVersion": API_VERSION,
            "kind": KIND,
            "namespace": metadata["namespace"],
            "name": metadata["name"],
            "uid": metadata["uid"],
        },
        "type": type_,
        "reason": reason,
        "message": message[:MESSAGE_LIMIT],
        "firstTimestamp": time,
        "lastTimestamp": time,
        "count": 1,
        "source": {"component": MANAGED_BY},
        "reportingComponent": MANAGED_BY,
        "reportingInstance": "",
    }
