"""The rules for the schema of a CustomResourceDefinition, node by node.

Source: apiextensions-apiserver's pkg/apis/apiextensions/validation/validation.go
(ValidateCustomResourceDefinitionOpenAPISchema).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sftjob_sandbox.apimachinery.causes import forbidden, invalid, not_supported, required
from sftjob_sandbox.apimachinery.errors import Cause
from sftjob_sandbox.crd.rule_checks import RuleScope, check_rules
from sftjob_sandbox.crd.structure import INT_OR_STRING
from sftjob_sandbox.crd.values import NOT_EMULATED

Schema = Mapping[str, Any]

_TYPES: Final = ("array", "boolean", "integer", "number", "object", "string")
_UNSUPPORTED: Final = ("id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref")
_REASONS: Final = ("FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired")
_NOT_EVALUATED: Final = (
    "allOf", "oneOf", "not", "pattern", "multipleOf", "minProperties", "nullable", "x-kubernetes-embedded-resource",
    "x-kubernetes-map-type",
)  # fmt: skip
_META: Final = ("metadata", "kind", "apiVersion")


@dataclass
class Found:
    """Causes about the schema, and apart from them those about its rules."""

    schema: list[Cause] = field(default_factory=list)
    rules: list[Cause] = field(default_factory=list)

    def take(self, other: "Found") -> None:
        """Add what was found below."""
        self.schema += other.schema
        self.rules += other.rules


@dataclass(frozen=True)
class _Place:
    """What applies at a node because of those above it."""

    path: str
    scope: RuleScope | None
    root: bool = False
    default_ban: str | None = None
    """Why defaults are forbidden here."""
    inside_metadata: bool = False
    uncorrelatable: str | None = None
    """Path of the first node above whose content cannot be matched with its old one."""

    def at(self, suffix: str, scope: RuleScope | None) -> "_Place":
        return replace(self, path=f"{self.path}{suffix}", scope=scope, root=False)


def check_schema(schema: Schema, path: str, scope: RuleScope | None) -> list[Cause]:
    """Every reason to refuse a schema. Rules are compiled only when `scope` is given: when it is structural."""
    found = _check_node(schema, _Place(path, scope, root=True))
    return [*found.schema, *found.rules]


def _check_node(schema: Schema, place: _Place) -> Found:
    found = Found(schema=_check_keywords(schema, place))
    _check_below(schema, place, found)
    found.schema += [
        *_check_list_type(schema, place.path),
        *_check_map_keys(schema, place.path),
        *_check_rule_fields(schema, place.path),
    ]
    if schema.get("x-kubernetes-validations") and not found.schema and place.scope is not None:
        found.rules += check_rules(schema, place.path, place.scope, place.uncorrelatable)
    return found


def _check_keywords(schema: Schema, place: _Place) -> list[Cause]:
    path, kind = place.path, schema.get("type") or ""
    causes = []
    if kind and kind not in _TYPES:
        causes.append(not_supported(f"{path}.type", kind, sorted(_TYPES)))
    if schema.get("default") is not None and place.default_ban is not None:
        causes.append(forbidden(f"{path}.default", f"must not be set {place.default_ban}".rstrip()))
    causes += [forbidden(f"{path}.{key}", f"{key} is not supported") for key in _UNSUPPORTED if schema.get(key)]
    if kind == "null":
        text = "type cannot be set to null, use nullable as an alternative"
        causes.append(forbidden(f"{path}.type", text))
    if isinstance(schema.get("items"), list):
        causes.append(forbidden(f"{path}.items", "items must be a schema object and not an array"))
    if schema.get("uniqueItems"):
        text = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
        causes.append(forbidden(f"{path}.uniqueItems", text))
    if schema.get("x-kubernetes-preserve-unknown-fields") is False:
        causes.append(invalid(f"{path}.x-kubernetes-preserve-unknown-fields", False, "must be true or undefined"))
    text = "this local server does not support the keyword: remove it"
    causes += [forbidden(f"{path}.{key}", text) for key in _NOT_EVALUATED if schema.get(key)]
    if schema.get("anyOf") and (schema["anyOf"] != INT_OR_STRING or not schema.get("x-kubernetes-int-or-string")):
        text = "this local server supports anyOf only for integer or string, with x-kubernetes-int-or-string"
        causes.append(forbidden(f"{path}.anyOf", text))
    if schema.get("format") in NOT_EMULATED:
        text = "this local server does not check this format: remove it"
        causes.append(invalid(f"{path}.format", schema["format"], text))
    return causes


def _check_below(schema: Schema, place: _Place, found: Found) -> None:
    scope = place.scope
    values, items = schema.get("additionalProperties"), schema.get("items")
    if values is not None and schema.get("properties") and values is not True:
        text = "additionalProperties and properties are mutual exclusive"
        found.schema.append(forbidden(f"{place.path}.additionalProperties", text))
    if isinstance(values, dict):
        below = place.at(".additionalProperties", scope and scope.values(schema))
        if place.inside_metadata:
            below = replace(below, default_ban="inside additionalProperties applying to object metadata")
        found.take(_check_node(values, below))
    for name, part in (schema.get("properties") or {}).items():
        below = place.at(f".properties[{name}]", scope and scope.property(schema, name))
        if place.root and name in _META:
            below = replace(below, inside_metadata=True, default_ban=f"in top-level {name}")
        found.take(_check_node(part, below))
    if isinstance(items, dict):
        below = place.at(".items", scope and scope.items(schema))
        if schema.get("x-kubernetes-list-type") != "map":
            below = replace(below, uncorrelatable=below.uncorrelatable or place.path)
        found.take(_check_node(items, below))


def _check_list_type(schema: Schema, path: str) -> list[Cause]:
    declared, kind, items = schema.get("x-kubernetes-list-type"), schema.get("type") or "", schema.get("items")
    if declared is None:
        return []
    causes = []
    if kind != "array":
        text = "must be array if x-kubernetes-list-type is specified"
        causes.append(invalid(f"{path}.type", kind, text) if kind else required(f"{path}.type", text))
    elif declared == "set" and isinstance(items, dict) and items.get("type") in ("array", "object"):
        text = "this local server supports only scalars as items of a list with x-kubernetes-list-type=set"
        causes.append(invalid(f"{path}.items.type", items["type"], text))
    if declared not in ("atomic", "set", "map"):
        causes.append(not_supported(f"{path}.x-kubernetes-list-type", declared, ("atomic", "set", "map")))
    return causes


def _check_map_keys(schema: Schema, path: str) -> list[Cause]:
    declared, keys, items = (
        schema.get("x-kubernetes-list-type"),
        schema.get("x-kubernetes-list-map-keys") or [],
        schema.get("items"),
    )
    causes = []
    if keys and declared != "map":
        where, text = f"{path}.x-kubernetes-list-type", "must be map if x-kubernetes-list-map-keys is non-empty"
        causes.append(required(where, text) if declared is None else invalid(where, declared, text))
    if declared == "map":
        if not keys:
            text = "must not be empty if x-kubernetes-list-type is map"
            causes.append(required(f"{path}.x-kubernetes-list-map-keys", text))
        if items is None:
            causes.append(required(f"{path}.items", "must have a schema if x-kubernetes-list-type is map"))
        elif isinstance(items, dict) and items.get("type") != "object":
            text = "must be object if parent array's x-kubernetes-list-type is map"
            causes.append(invalid(f"{path}.items.type", items.get("type", ""), text))
        elif isinstance(items, dict):
            causes += _check_key_properties(keys, items, path)
    return causes


def _check_key_properties(keys: list[str], items: Schema, path: str) -> list[Cause]:
    causes = []
    where = f"{path}.x-kubernetes-list-map-keys"
    for position, key in enumerate(keys):
        declared = (items.get("properties") or {}).get(key)
        if key in keys[:position]:
            causes.append(invalid(where, keys, "must not contain duplicate entries"))
        if declared is None:
            causes.append(invalid(where, keys, "entries must all be names of item properties"))
            continue
        property_path = f"{path}.items.properties[{key}]"
        if declared.get("type") in ("array", "object"):
            text = "must be a scalar type if parent array's x-kubernetes-list-type is map"
            causes.append(invalid(f"{property_path}.type", items.get("type", ""), text))
        if key not in (items.get("required") or ()) and declared.get("default") is None:
            text = "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property"
            causes.append(required(f"{property_path}.default", text))
    return causes


def _check_rule_fields(schema: Schema, path: str) -> list[Cause]:
    """Texts, reasons and paths of rules; the rules themselves are compiled apart."""
    causes: list[Cause] = []
    for index, declared in enumerate(schema.get("x-kubernetes-validations") or ()):
        where = f"{path}.x-kubernetes-validations[{index}]"
        causes += _check_messages(declared, where)
        reason, field_path = declared.get("reason"), declared.get("fieldPath") or ""
        if reason is not None and reason not in _REASONS:
            causes.append(not_supported(f"{where}.reason", reason, _REASONS))
        if not field_path:
            continue
        if not field_path.strip():
            text = "fieldPath must be non-empty if specified"
            causes.append(invalid(f"{where}.fieldPath", field_path, text))
        if re.search(r"[\n\r]", field_path):
            causes.append(invalid(f"{where}.fieldPath", field_path, "fieldPath must not contain line breaks"))
        try:
            check_path(field_path, schema)
        except ValueError:
            causes.append(invalid(f"{where}.fieldPath", field_path, "fieldPath must be a valid path"))
    return causes


def _check_messages(declared: Schema, where: str) -> list[Cause]:
    rule, message = (declared.get("rule") or "").strip(), declared.get("message") or ""
    causes = []
    if not rule:
        causes.append(required(f"{where}.rule", "rule is not specified"))
    elif message and not message.strip():
        causes.append(invalid(f"{where}.message", message, "message must be non-empty if specified"))
    elif re.search(r"[\n\r]", message.strip()):
        causes.append(invalid(f"{where}.message", message, "message must not contain line breaks"))
    elif re.search(r"[\n\r]", rule) and not message.strip():
        text = "message must be specified if rule contains line breaks"
        causes.append(required(f"{where}.message", text))
    if declared.get("messageExpression"):
        text = "this local server does not support the field: write a message"
        causes.append(forbidden(f"{where}.messageExpression", text))
    return causes


_TOKENS: Final = re.compile(r"'(?:\\.|[^'\\])*'|[.\[\]]|[^.\[\]']+")


def check_path(path: str, schema: Mapping[str, Any]) -> None:
    """Check that `path` leads to a field of `schema`. Raises ValueError: it does not."""
    tokens = _TOKENS.findall(path)
    while tokens:
        opening = tokens.pop(0)
        if opening not in (".", "[") or not tokens:
            raise ValueError(path)
        name = tokens.pop(0)
        if opening == "[":
            name = _quoted(name)
            if not tokens or tokens.pop(0) != "]":
                raise ValueError(path)
        schema = _step(schema, name)


def _quoted(token: str) -> str:
    if len(token) < 2 or not (token.startswith("'") and token.endswith("'")):
        raise ValueError(token)
    return re.sub(r"\\(.)", r"\1", token[1:-1])


def _step(schema: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    properties, values = schema.get("properties") or {}, schema.get("additionalProperties")
    if not properties and isinstance(values, dict):
        return values
    if name not in properties:
        raise ValueError(name)
    step: Mapping[str, Any] = properties[name]
    return step
