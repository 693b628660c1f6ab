"""TokenRequest: a token for a ServiceAccount, perhaps bound to a Pod."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final

from sftjob_sandbox.causes import invalid as invalid_value
from sftjob_sandbox.errors import ApiError, invalid
from sftjob_sandbox.objects import Object, name_of, namespace_of, timestamp, uid_of
from sftjob_sandbox.store import Store
from sftjob_sandbox.strategies import conflict
from sftjob_sandbox.tokens import API_AUDIENCE

_GROUP: Final = "authentication.k8s.io"
_DEFAULT_SECONDS: Final = 3600
_LEAST_SECONDS: Final = 600
_MOST_SECONDS: Final = 1 << 32


def answer_token_request(store: Store, namespace: str, name: str, body: Object) -> Object:
    """The request with the token in its status.

    Raises ApiError 404 (no such ServiceAccount or Pod), 409 (another Pod of that name), 422 (a bad duration).
    """
    if body.get("kind", "TokenRequest") != "TokenRequest":
        text = f'{body["kind"]} in version "v1" cannot be handled as a TokenRequest'
        raise ApiError(400, "BadRequest", text)
    account = store.get("serviceaccounts", namespace, name)
    spec = body.get("spec") or {}
    audiences = list(spec.get("audiences") or (API_AUDIENCE,))
    seconds = _seconds(spec, name)
    reference = spec.get("boundObjectRef")
    pod = _bound_pod(store, account, reference) if reference else None
    now = store.clock()
    expires = now + timedelta(seconds=seconds)
    token = store.tokens.issue(account, audiences=audiences, expires=expires, pod=pod)
    return {
        "kind": "TokenRequest",
        "apiVersion": f"{_GROUP}/v1",
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": timestamp(now)},
        "spec": {"audiences": audiences, "expirationSeconds": seconds, "boundObjectRef": reference},
        "status": {"token": token, "expirationTimestamp": timestamp(expires)},
    }


def _seconds(spec: Mapping[str, Any], name: str) -> int:
    seconds = spec.get("expirationSeconds") or _DEFAULT_SECONDS
    if not isinstance(seconds, int):
        raise ApiError(400, "BadRequest", "spec.expirationSeconds must be a whole number of seconds")
    text = ""
    if seconds < _LEAST_SECONDS:
        text = "may not specify a duration less than 10 minutes"
    if seconds > _MOST_SECONDS:
        text = "may not specify a duration larger than 2^32 seconds"
    if text:
        raise invalid("TokenRequest", _GROUP, name, [invalid_value("spec.expirationSeconds", seconds, text)])
    return seconds


def _bound_pod(store: Store, account: Object, reference: Mapping[str, Any]) -> Object:
    name = name_of(account)
    kind = f"{reference.get('apiVersion', '')}, Kind={reference.get('kind', '')}"
    if kind != "v1, Kind=Pod":
        raise ApiError(400, "BadRequest", f'cannot bind token for serviceaccount "{name}" to type "/{kind}"')
    pod = store.get("pods", namespace_of(account), str(reference.get("name", "")))
    if pod["spec"].get("serviceAccountName", "default") != name:
        text = f'cannot bind token for serviceaccount "{name}" to pod running with different serviceaccount name.'
        raise ApiError(400, "BadRequest", text)
    uid = reference.get("uid")
    if uid and uid != uid_of(pod):
        text = (
            f"the UID in the bound object reference ({uid}) does not match the UID in record. "
            "The object might have been deleted and then recreated"
        )
        raise conflict(store.catalog.resources["pods"], name_of(pod), text, called="Pod")
    return pod
