"""Reviews and TokenRequest: requests that store nothing and answer about tokens and rights."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, NamedTuple

from sftjob_sandbox.apimachinery.causes import invalid as invalid_value
from sftjob_sandbox.apimachinery.errors import ApiError, invalid
from sftjob_sandbox.apimachinery.objects import Object, name_of, namespace_of, timestamp, uid_of
from sftjob_sandbox.cluster.store import Store
from sftjob_sandbox.cluster.tokens import API_AUDIENCE, InvalidTokenError
from sftjob_sandbox.http.auth import AUTHORIZATION, SELF_REVIEW, Authenticator, User, allowed
from sftjob_sandbox.http.requests import RequestInfo
from sftjob_sandbox.storage.strategies import conflict

AUTHENTICATION: Final = "authentication.k8s.io"
VERSION: Final = "v1"


class Review(NamedTuple):
    """A resource that can only be created."""

    group: str
    plural: str
    kind: str


REVIEWS: Final = (
    Review(AUTHENTICATION, "tokenreviews", "TokenReview"),
    Review(AUTHORIZATION, SELF_REVIEW, "SelfSubjectAccessReview"),
    Review(AUTHORIZATION, "subjectaccessreviews", "SubjectAccessReview"),
)


def find_review(info: RequestInfo) -> Review | None:
    """The review that a request is for."""
    asked = (info.group, info.resource) if (info.version, info.name, info.namespace) == (VERSION, "", "") else ()
    return next((review for review in REVIEWS if review[:2] == asked), None)


def answer_review(review: Review, authenticator: Authenticator, user: User, body: Object) -> Object:
    """The review with its status. Raises ApiError 400 or 422."""
    if body.get("kind", review.kind) != review.kind:
        raise ApiError(400, "BadRequest", f'{body["kind"]} in version "v1" cannot be handled as a {review.kind}')
    spec = body.get("spec") or {}
    if review.group == AUTHENTICATION:
        status = _token_status(authenticator, spec)
    else:
        subject = user if review.plural == SELF_REVIEW else _subject(spec)
        status = {"allowed": allowed(subject, _requested(review, spec))}
    metadata = {"creationTimestamp": None, **(body.get("metadata") or {})}
    typed = {"kind": review.kind, "apiVersion": f"{review.group}/{VERSION}"}
    return {**typed, "metadata": metadata, "spec": spec, "status": status}


def _token_status(authenticator: Authenticator, spec: Mapping[str, Any]) -> Object:
    if not spec.get("token"):
        raise ApiError(400, "BadRequest", "token is required for TokenReview in authentication")
    audiences = tuple(spec.get("audiences") or (API_AUDIENCE,))
    try:
        user, matching = authenticator.review(str(spec["token"]), audiences)
    except InvalidTokenError as error:
        why = f"[invalid bearer token, {error}]" if str(error) else "invalid bearer token"
        return {"user": {}, "error": why}
    return {"authenticated": True, "user": user.info(), "audiences": list(matching)}


def _subject(spec: Mapping[str, Any]) -> User:
    if not (spec.get("user") or spec.get("groups")):
        cause = invalid_value("spec.user", "", "at least one of user or group must be specified")
        raise invalid("SubjectAccessReview", AUTHORIZATION, "", [cause])
    return User(str(spec.get("user") or ""), tuple(spec.get("groups") or ()))


def _requested(review: Review, spec: Mapping[str, Any]) -> RequestInfo:
    """What the review asks about."""
    resource, other = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if resource is not None and other is not None:
        text = "cannot be specified in combination with resourceAttributes"
        raise invalid(review.kind, AUTHORIZATION, "", [invalid_value("spec.nonResourceAttributes", other, text)])
    if resource is not None:
        names = ("verb", "group", "version", "namespace", "resource", "name", "subresource")
        return RequestInfo(path="", is_resource=True, **{name: str(resource.get(name) or "") for name in names})
    if other is not None:
        return RequestInfo(path=str(other.get("path") or ""), verb=str(other.get("verb") or ""))
    text = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
    raise invalid(review.kind, AUTHORIZATION, "", [invalid_value("spec.resourceAttributes", None, text)])


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
        "apiVersion": f"{AUTHENTICATION}/v1",
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
        raise invalid("TokenRequest", AUTHENTICATION, name, [invalid_value("spec.expirationSeconds", seconds, text)])
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
