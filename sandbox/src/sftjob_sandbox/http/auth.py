"""Who asks, and whether they may. The administrator may do everything; a ServiceAccount's token gives no rights."""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final

from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.cluster.tokens import InvalidTokenError, TokenAuthority
from sftjob_sandbox.http.requests import RequestInfo

ADMINISTRATORS: Final = "system:masters"
AUTHENTICATED: Final = "system:authenticated"

# What every authenticated user may do on a real server: read by the ClusterRoles system:discovery and
# system:public-info-viewer, and ask for the own rights by system:basic-user.
OPEN_PATHS: Final = ("/api", "/apis", "/openapi", "/healthz", "/livez", "/readyz", "/version")
AUTHORIZATION: Final = "authorization.k8s.io"
SELF_REVIEW: Final = "selfsubjectaccessreviews"


@dataclass(frozen=True)
class User:
    """An authenticated user, as authentication.k8s.io UserInfo describes it."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: Mapping[str, tuple[str, ...]] = field(default_factory=dict)

    def info(self) -> dict[str, object]:
        """UserInfo."""
        info: dict[str, object] = {"username": self.name}
        if self.uid:
            info["uid"] = self.uid
        info["groups"] = list(self.groups)
        if self.extra:
            info["extra"] = {key: list(values) for key, values in self.extra.items()}
        return info


ADMINISTRATOR: Final = User("kubernetes-admin", (ADMINISTRATORS, AUTHENTICATED))


class Authenticator:
    """Identifies users by their bearer token: the administrator's, or one that the TokenAuthority issued."""

    def __init__(self, admin_token: str, authority: TokenAuthority) -> None:
        self._admin_token = admin_token.encode()
        self._authority = authority

    def user(self, headers: Mapping[str, str]) -> User:
        """The user of a request. Raises ApiError 401, or 400 for a request to impersonate another one."""
        scheme, _, token = headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token.strip():
            raise ApiError(401, "Unauthorized", "Unauthorized")
        try:
            user, _ = self.review(token.strip(), audiences=())
        except InvalidTokenError as error:
            raise ApiError(401, "Unauthorized", "Unauthorized") from error
        if "Impersonate-User" in headers:
            raise ApiError(400, "BadRequest", "this local server does not support impersonation: use the user's token")
        return user

    def review(self, token: str, audiences: tuple[str, ...]) -> tuple[User, tuple[str, ...]]:
        """The user of a token, and for which of `audiences` (none: this server) it is meant.

        Raises InvalidTokenError.
        """
        if hmac.compare_digest(token.encode(), self._admin_token):
            return ADMINISTRATOR, audiences
        verified = self._authority.verify(token, audiences)
        groups = ("system:serviceaccounts", f"system:serviceaccounts:{verified.namespace}", AUTHENTICATED)
        name = f"system:serviceaccount:{verified.namespace}:{verified.service_account}"
        return User(name, groups, verified.uid, verified.extra), verified.audiences


def authorize(user: User, request: RequestInfo) -> None:
    """Raise ApiError 403, worded as RBAC does, unless the user may do this."""
    if not allowed(user, request):
        raise forbidden(user, request)


def allowed(user: User, request: RequestInfo) -> bool:
    """Whether the user may do this."""
    if ADMINISTRATORS in user.groups:
        return True
    if AUTHENTICATED not in user.groups:
        return False
    if request.is_resource:
        return (request.verb, request.group, request.resource) == ("create", AUTHORIZATION, SELF_REVIEW)
    open_path = any(request.path == path or request.path.startswith(f"{path}/") for path in OPEN_PATHS)
    return request.verb == "get" and open_path


def forbidden(user: User, request: RequestInfo) -> ApiError:
    """403 for a request that the user may not make."""
    if not request.is_resource:
        text = f'User "{user.name}" cannot {request.verb} path "{request.path}"'
        return ApiError(403, "Forbidden", f"forbidden: {text}")
    resource = "/".join(filter(None, (request.resource, request.subresource)))
    scope = f'in the namespace "{request.namespace}"' if request.namespace else "at the cluster scope"
    text = f'User "{user.name}" cannot {request.verb} resource "{resource}" in API group "{request.group}" {scope}'
    key = f"{request.resource}.{request.group}" if request.group else request.resource
    subject = f'{key} "{request.name}"' if request.name else key
    details = {"name": request.name, "group": request.group, "kind": request.resource}
    return ApiError(403, "Forbidden", f"{subject} is forbidden: {text}", {k: v for k, v in details.items() if v})
