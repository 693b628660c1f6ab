"""Reviews: requests that store nothing and answer a question about tokens, users and rights."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from sftjob_sandbox.auth import ADMINISTRATORS, AUTHENTICATED, OPEN_PATHS, SELF_REVIEWS, Authenticator, User, allowed
from sftjob_sandbox.errors import ApiError
from sftjob_sandbox.objects import Object
from sftjob_sandbox.requests import RequestInfo
from sftjob_sandbox.tokens import API_AUDIENCE, InvalidTokenError

_AUTHENTICATION: Final = "authentication.k8s.io"
_AUTHORIZATION: Final = "authorization.k8s.io"
VERSION: Final = "v1"


@dataclass(frozen=True)
class Review:
    """A resource that can only be created."""

    group: str
    plural: str
    kind: str
    namespaced: bool = False


REVIEWS: Final = (
    Review(_AUTHENTICATION, "selfsubjectreviews", "SelfSubjectReview"),
    Review(_AUTHENTICATION, "tokenreviews", "TokenReview"),
    Review(_AUTHORIZATION, "localsubjectaccessreviews", "LocalSubjectAccessReview", namespaced=True),
    Review(_AUTHORIZATION, "selfsubjectaccessreviews", "SelfSubjectAccessReview"),
    Review(_AUTHORIZATION, "selfsubjectrulesreviews", "SelfSubjectRulesReview"),
    Review(_AUTHORIZATION, "subjectaccessreviews", "SubjectAccessReview"),
)


def find_review(info: RequestInfo) -> Review | None:
    """The review that a request names."""
    if info.version != VERSION or info.name or info.subresource:
        return None
    wanted = (info.group, info.resource, bool(info.namespace))
    return next((r for r in REVIEWS if (r.group, r.plural, r.namespaced) == wanted), None)


class Reviewer:
    """Answers reviews."""

    def __init__(self, authenticator: Authenticator) -> None:
        self._authenticator = authenticator

    def answer(self, review: Review, user: User, body: Object) -> Object:
        """The review with its status. Raises ApiError 400 for another kind, or a spec that is none."""
        if body.get("kind", review.kind) != review.kind:
            text = f'{body.get("kind")} in version "{VERSION}" cannot be handled as a {review.kind}'
            raise ApiError(400, "BadRequest", text)
        spec = body.get("spec") or {}
        answers: Mapping[str, Callable[[], Object]] = {
            "SelfSubjectReview": lambda: {"userInfo": user.info()},
            "TokenReview": lambda: self._token(spec),
            "SelfSubjectAccessReview": lambda: _access(user, spec),
            "SubjectAccessReview": lambda: _access(_subject(spec), spec),
            "LocalSubjectAccessReview": lambda: _access(_subject(spec), spec),
            "SelfSubjectRulesReview": lambda: _rules(user),
        }
        typed = {"kind": review.kind, "apiVersion": f"{review.group}/{VERSION}"}
        metadata = {"creationTimestamp": None, **(body.get("metadata") or {})}
        asked = {} if review.kind == "SelfSubjectReview" else {"spec": spec}
        return {**typed, "metadata": metadata, **asked, "status": answers[review.kind]()}

    def _token(self, spec: Mapping[str, Any]) -> Object:
        token = spec.get("token")
        if not token:
            raise ApiError(400, "BadRequest", "token is required for TokenReview in authentication")
        audiences = tuple(spec.get("audiences") or (API_AUDIENCE,))
        try:
            user, meant = self._authenticator.review(str(token), audiences)
        except InvalidTokenError as error:
            why = f"[invalid bearer token, {error}]" if str(error) else "invalid bearer token"
            return {"user": {}, "error": why}
        return {"authenticated": True, "user": user.info(), "audiences": list(meant)}


def _subject(spec: Mapping[str, Any]) -> User:
    groups = list(spec.get("groups") or ())
    name = str(spec.get("user") or "")
    if name and name != "system:anonymous" and AUTHENTICATED not in groups:
        groups.append(AUTHENTICATED)
    return User(name, tuple(groups), str(spec.get("uid") or ""))


def _access(user: User, spec: Mapping[str, Any]) -> Object:
    attributes, path = spec.get("resourceAttributes"), spec.get("nonResourceAttributes")
    if (attributes is None) == (path is None):
        text = "exactly one of nonResourceAttributes or resourceAttributes must be specified"
        raise ApiError(400, "BadRequest", f"spec.resourceAttributes: Invalid value: {text}")
    if path is not None:
        request = RequestInfo(path=str(path.get("path", "")), verb=str(path.get("verb", "")))
    else:
        names = ("verb", "group", "version", "namespace", "resource", "name", "subresource")
        given = {name: str((attributes or {}).get(name) or "") for name in names}
        request = RequestInfo(path="", is_resource=True, **given)
    return {"allowed": allowed(user, request)}


def _rules(user: User) -> Object:
    """What a user may do, as `kubectl auth can-i --list` shows it."""
    if ADMINISTRATORS in user.groups:
        resources = [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}]
        paths = [{"verbs": ["*"], "nonResourceURLs": ["*"]}]
    else:
        own = SELF_REVIEWS.items()
        resources = [{"verbs": ["create"], "apiGroups": [group], "resources": [*names]} for group, names in own]
        urls = [url for path in OPEN_PATHS for url in (path, f"{path}/*")]
        paths = [{"verbs": ["get"], "nonResourceURLs": urls}]
    return {"resourceRules": resources, "nonResourceRules": paths, "incomplete": False}
