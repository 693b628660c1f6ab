"""The resource, verb and name that a path stands for. Pure.

Source: k8s.io/apiserver/pkg/endpoints/request/requestinfo.go.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

_VERBS: Final = {"GET": "get", "HEAD": "get", "POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_NAMESPACE_SUBRESOURCES: Final = ("status", "finalize")


@dataclass(frozen=True, kw_only=True)
class RequestInfo:
    """A request in the words of authorization. Of a non-resource request only verb and path are set."""

    path: str
    verb: str
    is_resource: bool = False
    group: str = ""
    version: str = ""
    namespace: str = ""
    resource: str = ""
    name: str = ""
    subresource: str = ""


def parse_request(method: str, path: str, query: Mapping[str, str]) -> RequestInfo:
    """Distinguish resource requests (`/api/v1/...`, `/apis/GROUP/VERSION/...`) from others and parse them."""
    parts = [part for part in path.split("/") if part]
    prefix = parts[0] if parts else ""
    if prefix == "api" and len(parts) >= 3:
        group, version, rest = "", parts[1], parts[2:]
    elif prefix == "apis" and len(parts) >= 4:
        group, version, rest = parts[1], parts[2], parts[3:]
    else:
        return RequestInfo(path=path, verb=method.lower())
    namespace = ""
    if rest[0] == "namespaces" and len(rest) > 1:
        namespace = rest[1]
        if len(rest) > 2 and rest[2] not in _NAMESPACE_SUBRESOURCES:
            rest = rest[2:]
    resource, name, subresource = (*rest, "", "")[:3]
    return RequestInfo(
        path=path,
        verb=_verb(method, name, query),
        is_resource=True,
        group=group,
        version=version,
        namespace=namespace,
        resource=resource,
        name=name,
        subresource="/".join((subresource, *rest[3:])),
    )


def _verb(method: str, name: str, query: Mapping[str, str]) -> str:
    verb = _VERBS.get(method, method.lower())
    if verb == "get" and query.get("watch", "false") not in ("false", "0"):
        return "watch"
    if verb == "get" and not name:
        return "list"
    return "deletecollection" if verb == "delete" and not name else verb
