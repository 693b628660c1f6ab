"""The published OpenAPI definitions of built-in types, from the kubernetes-validate package."""

import json
from collections.abc import Mapping
from functools import cache
from importlib import resources
from typing import Any, Final

import jsonschema

from sftjob_sandbox.apimachinery.causes import required
from sftjob_sandbox.apimachinery.errors import Cause
from sftjob_sandbox.apimachinery.objects import Object

KUBERNETES_VERSION: Final = "1.32"
"""The version whose API this server emulates."""
OBJECT_META: Final = "io.k8s.apimachinery.pkg.apis.meta.v1.ObjectMeta"
REFERENCE_PREFIX: Final = "#/components/schemas/"


@cache
def definitions() -> Mapping[str, Object]:
    """Every published type by name, as OpenAPI v3 component schemas. Shared: not to be changed."""
    result = {name: _openapi(schema) for name, schema in _published()["$defs"].items()}
    for name in ("ContainerPort", "ServicePort"):
        result[f"io.k8s.api.core.v1.{name}"]["properties"]["protocol"]["default"] = "TCP"  # lost in OpenAPI v2
    return result


@cache
def _published() -> Object:
    folder = resources.files("kubernetes_validate") / "kubernetes-json-schema" / f"v{KUBERNETES_VERSION}.0-local"
    published: Object = json.loads((folder / "_definitions.json").read_bytes())
    return published


@cache
def _validator(name: str) -> Any:
    return jsonschema.Draft202012Validator({"$ref": f"#/$defs/{name}", **_published()})


def missing_fields(name: str, obj: Object) -> list[Cause]:
    """Required fields of the type `name` that a decoded object lacks, or has empty; decoding has checked all types."""
    found: dict[str, None] = {}
    for error in _validator(name).iter_errors(_without_empty_texts(obj)):
        path = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in error.absolute_path)
        for field in error.validator_value if error.validator == "required" else ():
            if field not in error.instance:
                found[f"{path}.{field}".removeprefix(".")] = None
    return [required(path) for path in found]


def _without_empty_texts(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _without_empty_texts(item) for key, item in value.items() if item != ""}
    return [_without_empty_texts(item) for item in value] if isinstance(value, list) else value


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
