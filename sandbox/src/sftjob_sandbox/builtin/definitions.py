"""The published OpenAPI definitions of built-in types, from the kubernetes-validate package."""

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Final

from sftjob_sandbox.objects import Object

KUBERNETES_VERSION: Final = "1.32"
"""The version whose API this server emulates."""
OBJECT_META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
REFERENCE_PREFIX: Final = "#/components/schemas/"


@cache
def definitions() -> Mapping[str, Object]:
    """Every published type by name, as OpenAPI v3 component schemas. Shared: not to be changed."""
    folder = resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"v{KUBERNETES_VERSION}.0-local"
    published: dict[str, Object] = json.loads((folder / "_definitions.json").read_bytes())["$defs"]
    result = {name: _openapi(schema) for name, schema in published.items()}
    for name in ("ContainerPort", "ServicePort"):
        result[f"io.k8s.api.core.v1.{name}"]["properties"]["protocol"]["default"] = "TCP"  # lost in OpenAPI v2
    return result


def _openapi(schema: Any) -> Any:
    """A published JSON schema as OpenAPI v3: no null types, references wrapped so that a description can stand by."""
    if isinstance(schema, list):
        return [_openapi(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    result = {key: _openapi(value) for key, value in schema.items() if key != "$ref"}
    if isinstance(schema.get("type"), list):
        result["type"] = next(name for name in schema["type"] if name != "null")
    if isinstance(schema.get("$ref"), str):
        result["allOf"] = [{"$ref": REFERENCE_PREFIX + schema["$ref"].rsplit("/", 1)[1]}]
    return result


def referred(name: str) -> dict[str, Object]:
    """The type `name` and all types that it refers to, by name."""
    found: dict[str, Object] = {}
    waiting = [name]
    while waiting:
        current = waiting.pop()
        if current not in found:
            found[current] = definitions()[current]
            waiting += _references(found[current])
    return found


def _references(schema: Any) -> list[str]:
    if isinstance(schema, dict):
        own = [schema["$ref"].rsplit("/", 1)[1]] if isinstance(schema.get("$ref"), str) else []
        return own + [name for value in schema.values() for name in _references(value)]
    return [name for item in schema for name in _references(item)] if isinstance(schema, list) else []


def reference(schema: Mapping[str, Any]) -> str | None:
    """Name of the type that a property refers to; None for one described in place."""
    part = next(iter(schema.get("allOf") or ()), schema)
    target = part.get("$ref")
    return target.rsplit("/", 1)[1] if isinstance(target, str) else None
