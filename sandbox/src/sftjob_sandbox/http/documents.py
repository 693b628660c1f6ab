"""The documents that describe the server: version, health, discovery and OpenAPI, by path."""

import platform
from collections.abc import Callable, Mapping
from typing import Final

from aiohttp import web

from sftjob_sandbox.apimachinery.objects import Object
from sftjob_sandbox.builtin.definitions import KUBERNETES_VERSION
from sftjob_sandbox.http import discovery, openapi
from sftjob_sandbox.http.answers import accepted, answer_json, page_not_found
from sftjob_sandbox.storage.resources import Catalog

_HEALTH: Final = ("healthz", "livez", "readyz")
_PATHS: Final = (
    "/api",
    "/api/v1",
    "/apis",
    *(f"/{name}" for name in _HEALTH),
    "/openapi/v2",
    "/openapi/v3",
    "/version",
)
Parts = tuple[str, ...]


def answer_document(catalog: Catalog, path: str, accept: str, address: str) -> web.Response:
    """The document at a path, in the form that the client accepts; `address` is the server's own."""
    parts = tuple(part for part in path.split("/") if part)
    if parts and parts[0] in _HEALTH:
        return web.Response(text="ok")
    if parts == ("openapi", "v2") and openapi.V2_MEDIA_TYPE in {media_type for media_type, _ in accepted(accept)}:
        return web.Response(body=openapi.V2_PROTOBUF, content_type=openapi.V2_MEDIA_TYPE)
    document = _document(catalog, parts, address)
    return page_not_found() if document is None else answer_json(document)


def _document(catalog: Catalog, parts: Parts, address: str) -> Object | None:
    fixed: Mapping[Parts, Callable[[], Object]] = {
        (): lambda: {"paths": list(_PATHS)},
        ("version",): _version,
        ("api",): lambda: discovery.versions(address),
        ("apis",): lambda: discovery.group_list(catalog),
        ("openapi", "v2"): lambda: openapi.V2_JSON,
        ("openapi", "v3"): lambda: openapi.index(catalog),
    }
    if parts in fixed:
        return fixed[parts]()
    if parts[:2] == ("openapi", "v3"):
        group_version = _group_version(parts[2:])
        return openapi.document(catalog, *group_version) if group_version else None
    if len(parts) == 2 and parts[0] == "apis":
        return discovery.group(catalog, parts[1])
    group_version = _group_version(parts)
    return discovery.resource_list(catalog, *group_version) if group_version else None


def _group_version(parts: Parts) -> tuple[str, str] | None:
    """Group and version of `api/VERSION` and `apis/GROUP/VERSION`."""
    match parts:
        case ("api", version):
            return "", version
        case ("apis", group, version):
            return group, version
    return None


def _version() -> Object:
    major, minor = KUBERNETES_VERSION.split(".")
    return {
        "major": major,
        "minor": minor,
        "gitVersion": f"v{KUBERNETES_VERSION}.0+sftjob-sandbox",
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "",
        "platform": f"{platform.system().lower()}/{platform.machine()}",
    }
