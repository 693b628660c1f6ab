"""The rules that make a schema structural. Source: apiextensions-apiserver's pkg/apiserver/schema/validation.go."""

from collections.abc import Mapping
from typing import Any, Final

from sftjob_sandbox.apimachinery.causes import forbidden, invalid, required
from sftjob_sandbox.apimachinery.errors import Cause

Schema = Mapping[str, Any]

INT_OR_STRING: Final = [{"type": "integer"}, {"type": "string"}]
"""The one combination that this server evaluates, beside x-kubernetes-int-or-string."""
_EMPTY_LEVEL: Final = {
    "root": "must not be empty at the root",
    "item": "must not be empty for specified array items",
    "field": "must not be empty for specified object fields",
}


def check_structural(schema: Schema, path: str) -> list[Cause]:
    """Every reason why a schema is not structural, sorted by its text."""
    return sorted(_check_node(schema, "root", path), key=lambda cause: f"{cause.field}: {cause.message}")


def _check_node(schema: Schema, level: str, path: str) -> list[Cause]:
    causes: list[Cause] = []
    items, values = schema.get("items"), schema.get("additionalProperties")
    if schema.get("type") == "array" and items is None:
        causes.append(required(f"{path}.items", "must be specified"))
    if isinstance(items, dict):
        causes += _check_node(items, "item", f"{path}.items")
    for name, part in (schema.get("properties") or {}).items():
        causes += _check_node(part, "field", f"{path}.properties[{name}]")
    if values is not None:
        if level == "root":
            causes.append(forbidden(f"{path}.additionalProperties", "must not be used at the root"))
        if isinstance(values, dict):
            causes += _check_node(values, "field", f"{path}.additionalProperties")
    return [
        *causes,
        *_check_type(schema, level, path),
        *(_check_metadata(schema.get("properties") or {}, path) if level == "root" else ()),
    ]


def _check_type(schema: Schema, level: str, path: str) -> list[Cause]:
    kind, int_or_string = schema.get("type") or "", schema.get("x-kubernetes-int-or-string")
    unknown = schema.get("x-kubernetes-preserve-unknown-fields")
    causes = []
    if int_or_string and unknown:
        text = "must be false if x-kubernetes-int-or-string is true"
        causes.append(invalid(f"{path}.x-kubernetes-preserve-unknown-fields", True, text))
    if not kind and not int_or_string and not unknown:
        causes.append(required(f"{path}.type", _EMPTY_LEVEL[level]))
    if level == "root" and kind and kind != "object":
        causes.append(invalid(f"{path}.type", kind, "must be object at the root"))
    return causes


def _check_metadata(properties: Mapping[str, Schema], path: str) -> list[Cause]:
    causes = []
    for name, wanted in (("kind", "string"), ("apiVersion", "string"), ("metadata", "object")):
        kind = properties.get(name, {"type": wanted}).get("type", "")
        if kind != wanted:
            causes.append(invalid(f"{path}.properties[{name}].type", kind, f"must be {wanted}"))
    metadata = properties.get("metadata", {})
    others = set(metadata) - {"type", "properties", "default"}
    if others or not set(metadata.get("properties") or ()) <= {"name", "generateName"}:
        text = "must not specify anything other than name and generateName, but metadata is implicitly specified"
        causes.append(forbidden(f"{path}.properties[metadata]", text))
    return causes
