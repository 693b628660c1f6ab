"""Classify requests to an API server in the terms of RBAC."""

from collections.abc import Mapping
from typing import Final

from yarl import URL

_VERBS: Final = {"POST": "create", "PUT": "update", "PATCH": "patch", "DELETE": "delete"}
_NAMED: Final = 2
"""A path with an object's name has at least its resource and that name."""


def resource_and_verb(method: str, url: URL) -> tuple[str, str]:
    """Return the resource of a request, such as `pods` or `sftjobs/status`, and its verb, such as `list`.

    A request without a resource, such as API discovery, is `""` and `get`.
    """
    rest = _below_group(url.parts[1:])
    if rest[:1] == ("namespaces",) and len(rest) > _NAMED:
        rest = rest[2:]
    if not rest:
        return "", "get"
    resource = "/".join((rest[0], *rest[_NAMED:]))
    return resource, _VERBS.get(method) or _reading(url.query, named=len(rest) >= _NAMED)


def _below_group(parts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the path after the API group and version: /api/v1/... or /apis/GROUP/VERSION/..."""
    if parts[:1] == ("api",):
        return parts[2:]
    return parts[3:] if parts[:1] == ("apis",) else ()


def _reading(query: Mapping[str, str], *, named: bool) -> str:
    if query.get("watch") in ("true", "1"):
        return "watch"
    return "get" if named else "list"
