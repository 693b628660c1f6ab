"""The rules that make a schema structural. Source: apiextensions-apiserver's pkg/apiserver/schema/validation.go."""

from collections.abc import Mapping
from typing import Any, Final

from sftjob_sandbox.causes import forbidden, invalid, required
from sftjob_sandbox.crd.regex import compile_pattern
from sftjob_sandbox.errors import Cause

Schema = Mapping[str, Any]

_INT_OR_STRING: Final = [{"type": "integer"}, {"type": "string"}]
_EMPTY_LEVEL: Final = {
    "root": "must not be empty at the root",
    "item": "must not be empty for specified array items",
    "field": "must not be empty for specified object fields",
}
_FORBIDDEN_INSIDE: Final = (
    ("type", "must be empty to be structural"),
    ("additionalProperties", "must be undefined to be structural"),
    ("default", "must be undefined to be structural"),
    ("title", "must be empty to be structural"),
    ("description", "must be empty to be structural"),
    ("nullable", "must be false to be structural"),
    ("x-kubernetes-preserve-unknown-fields", "must be false to be structural"),
    ("x-kubernetes-embedded-resource", "must be false to be structural"),
    ("x-kubernetes-int-or-string", "must be false to be structural"),
    ("x-kubernetes-list-map-keys", "must be empty to be structural"),
    ("x-kubernetes-list-type", "must be undefined to be structural"),
    ("x-kubernetes-map-type", "must be undefined to be structural"),
    ("x-kubernetes-validations", "must be empty to be structural"),
)


def check_structural(schema: Schema, path: str) -> list[Cause]:
    """Every reason why a schema is not structural, sorted by its text."""
    causes = [*_check_node(schema, "root", path), *_check_complete(schema, schema, path, path)]
    return sorted(causes, key=lambda cause: f"{cause.field}: {cause.message}")


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
        *_check_extensions(schema, path),
        *_check_values(schema, path, skip=_int_or_string_parts(schema)),
        *_check_type(schema, level, path),
        *_check_metadata(schema, level, path),
    ]


def _check_extensions(schema: Schema, path: str) -> list[Cause]:
    if not schema.get("x-kubernetes-int-or-string"):
        return []
    text = "must be false if x-kubernetes-int-or-string is true"
    names = ("x-kubernetes-preserve-unknown-fields", "x-kubernetes-embedded-resource")
    return [invalid(f"{path}.{name}", True, text) for name in names if schema.get(name)]


def _check_type(schema: Schema, level: str, path: str) -> list[Cause]:
    kind, embedded = schema.get("type") or "", schema.get("x-kubernetes-embedded-resource")
    known = schema.get("x-kubernetes-int-or-string") or schema.get("x-kubernetes-preserve-unknown-fields")
    causes = []
    if embedded and kind != "object":
        text = "must be object if x-kubernetes-embedded-resource is true"
        causes.append(invalid(f"{path}.type", kind, text) if kind else required(f"{path}.type", text))
    elif not kind and not known:
        causes.append(required(f"{path}.type", _EMPTY_LEVEL[level]))
    if embedded and schema.get("additionalProperties") is not None:
        text = "must not be used if x-kubernetes-embedded-resource is set"
        causes.append(forbidden(f"{path}.additionalProperties", text))
    if level == "root" and kind and kind != "object":
        causes.append(invalid(f"{path}.type", kind, "must be object at the root"))
    if embedded and not schema.get("x-kubernetes-preserve-unknown-fields") and not schema.get("properties"):
        text = (
            "must not be empty if x-kubernetes-embedded-resource is true without x-kubernetes-preserve-unknown-fields"
        )
        causes.append(required(f"{path}.properties", text))
    return causes


def _check_metadata(schema: Schema, level: str, path: str) -> list[Cause]:
    properties = schema.get("properties") or {}
    if level != "root" and not schema.get("x-kubernetes-embedded-resource"):
        return []
    causes = []
    for name in ("kind", "apiVersion"):
        if name in properties and properties[name].get("type") != "string":
            where = f"{path}.properties[{name}].type"
            causes.append(invalid(where, properties[name].get("type", ""), "must be string"))
    metadata = properties.get("metadata")
    if metadata is None:
        return causes
    where = f"{path}.properties[metadata]"
    if metadata.get("type") != "object":
        causes.append(invalid(f"{where}.type", metadata.get("type", ""), "must be object"))
    if level == "root":
        others = set(metadata) - {"type", "properties", "default"}
        if others or not set(metadata.get("properties") or ()) <= {"name", "generateName"}:
            text = "must not specify anything other than name and generateName, but metadata is implicitly specified"
            causes.append(forbidden(where, text))
    return causes


def _int_or_string_parts(schema: Schema) -> tuple[int, int] | None:
    """Which part may name types: the anyOf itself (-1) or that in allOf[0] (0)."""
    if not schema.get("x-kubernetes-int-or-string"):
        return None
    first = (schema.get("allOf") or [{}])[0]
    return (
        -1 if schema.get("anyOf") == _INT_OR_STRING else -2,
        0 if first.get("anyOf") == _INT_OR_STRING else -2,
    )


def _check_values(schema: Schema, path: str, *, skip: tuple[int, int] | None = None) -> list[Cause]:
    """anyOf, allOf, oneOf, not and pattern of one node."""
    skip_any, skip_first = skip or (-2, -2)
    causes: list[Cause] = []
    if skip_any != -1:
        for index, part in enumerate(schema.get("anyOf") or ()):
            causes += _check_nested(part, f"{path}.anyOf[{index}]")
    for index, part in enumerate(schema.get("allOf") or ()):
        causes += _check_nested(part, f"{path}.allOf[{index}]", skip_any=skip_first == 0 and index == 0)
    for index, part in enumerate(schema.get("oneOf") or ()):
        causes += _check_nested(part, f"{path}.oneOf[{index}]")
    if isinstance(schema.get("not"), dict):
        causes += _check_nested(schema["not"], f"{path}.not")
    if schema.get("pattern"):
        try:
            compile_pattern(schema["pattern"])
        except ValueError as error:
            text = f"must be a valid regular expression, but isn't: error parsing regexp: {error}"
            causes.append(invalid(f"{path}.pattern", schema["pattern"], text))
    return causes


def _check_nested(schema: Schema, path: str, *, skip_any: bool = False) -> list[Cause]:
    causes = _check_values(schema, path, skip=(-1, -2) if skip_any else None)
    if isinstance(schema.get("items"), dict):
        causes += _check_nested(schema["items"], f"{path}.items")
    for name, part in (schema.get("properties") or {}).items():
        causes += _check_nested(part, f"{path}.properties[{name}]")
    causes += [
        forbidden(f"{path}.{key}", text) for key, text in _FORBIDDEN_INSIDE if schema.get(key) not in (None, "", False)
    ]
    if "metadata" in (schema.get("properties") or {}):
        text = "must not be specified in a nested context"
        causes.append(forbidden(f"{path}.properties[metadata]", text))
    return causes


def _check_complete(values: Schema, schema: Schema, path: str, value_path: str) -> list[Cause]:
    """Every field that a nested part speaks of is declared outside of it."""
    causes: list[Cause] = []
    parts = [(values["not"], f"{value_path}.not")] if isinstance(values.get("not"), dict) else []
    for key in ("allOf", "anyOf", "oneOf"):
        parts += [(part, f"{value_path}.{key}[{index}]") for index, part in enumerate(values.get(key) or ())]
    for part, where in parts:
        causes += _check_nested_complete(part, schema, path, where)
    return causes


def _check_nested_complete(values: Schema, schema: Schema | None, path: str, value_path: str) -> list[Cause]:
    if schema is None:
        return [required(path, f"because it is defined in {value_path}")]
    causes = _check_complete(values, schema, path, value_path)
    if isinstance(values.get("items"), dict):
        items = schema.get("items")
        items = items if isinstance(items, dict) else None
        causes += _check_nested_complete(values["items"], items, f"{path}.items", f"{value_path}.items")
    for name, part in (values.get("properties") or {}).items():
        declared = (schema.get("properties") or {}).get(name)
        where = f".properties[{name}]"
        causes += _check_nested_complete(part, declared, path + where, value_path + where)
    return causes
