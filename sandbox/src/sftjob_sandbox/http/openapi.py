"""OpenAPI: v3 documents for `kubectl explain` and for validation, and as much of v2 as old code paths of kubectl need.

Of the operations only those are described that kubectl asks about: it looks at a kind's PATCH for the query parameters
`fieldValidation` and `dryRun`.
"""

import hashlib
import json
from typing import Final

from sftjob_sandbox.apimachinery.objects import Object
from sftjob_sandbox.storage.resources import Catalog, Resource, ServedVersion

V2_MEDIA_TYPE: Final = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
V2_PROTOBUF: Final = b"\n\x032.0"
"""An openapi.v2.Document with nothing but its version (field 1: "2.0")."""
V2_JSON: Final[Object] = {"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v2"}, "paths": {}}
_PARAMETERS: Final = ("dryRun", "fieldManager", "fieldValidation", "force")


def index(catalog: Catalog) -> Object:
    """/openapi/v3: a path for each version, with a hash of what stands there."""
    paths = {}
    for group, version in _group_versions(catalog):
        path = f"apis/{group}/{version}" if group else f"api/{version}"
        text = json.dumps(_identity(catalog, group, version), sort_keys=True).encode()
        digest = hashlib.sha256(text).hexdigest().upper()
        paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}?hash={digest}"}
    return {"paths": paths}


def document(catalog: Catalog, group: str, version: str) -> Object | None:
    """/openapi/v3/api/v1 and /openapi/v3/apis/GROUP/VERSION."""
    served = _served(catalog, group, version)
    if not served:
        return None
    schemas: Object = {}
    paths: Object = {}
    for resource, versioned in served:
        schemas |= versioned.schema.openapi()
        paths[_path(resource, version)] = {"patch": _patch_operation(resource, version)}
    return {
        "openapi": "3.0.0",
        "info": {"title": "Kubernetes", "version": "unversioned"},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _group_versions(catalog: Catalog) -> list[tuple[str, str]]:
    return sorted({(r.group, v.name) for r in catalog.resources.values() for v in r.versions})


def _served(catalog: Catalog, group: str, version: str) -> list[tuple[Resource, ServedVersion]]:
    found = [(r, r.served(version)) for r in catalog.resources.values() if r.group == group]
    return [(resource, versioned) for resource, versioned in found if versioned]


def _identity(catalog: Catalog, group: str, version: str) -> list[object]:
    """What distinguishes one document from another: built-in kinds never change, a custom kind's own schema does."""
    return [
        versioned.schema.openapi()[versioned.schema.component] if resource.custom else resource.key
        for resource, versioned in _served(catalog, group, version)
    ]


def _path(resource: Resource, version: str) -> str:
    prefix = f"/apis/{resource.group}/{version}" if resource.group else f"/api/{version}"
    namespace = "/namespaces/{namespace}" if resource.namespaced else ""
    return f"{prefix}{namespace}/{resource.plural}/{{name}}"


def _patch_operation(resource: Resource, version: str) -> Object:
    kind = {"group": resource.group, "version": version, "kind": resource.kind}
    parameters = [{"name": name, "in": "query", "schema": {"type": "string"}} for name in _PARAMETERS]
    return {
        "operationId": f"patch{resource.kind}",
        "parameters": parameters,
        "responses": {"200": {"description": "OK"}},
        "x-kubernetes-action": "patch",
        "x-kubernetes-group-version-kind": kind,
    }
