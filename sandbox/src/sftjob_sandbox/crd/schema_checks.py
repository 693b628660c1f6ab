"""What the API server refuses about the schema of a CustomResourceDefinition, node by node.

Source: apiextensions-apiserver's pkg/apis/apiextensions/validation/validation.go
(ValidateCustomResourceDefinitionOpenAPISchema).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final

from sftjob_sandbox.causes import forbidden, invalid, not_supported, required
from sftjob_sandbox.crd.field_paths import resolve
from sftjob_sandbox.crd.formats import NOT_EMULATED, normalized
from sftjob_sandbox.crd.rule_checks import RuleScope, check_rules
from sftjob_sandbox.errors import Cause

Schema = Mapping[str, Any]

_TYPES: Final = ("array", "boolean", "integer", "number", "object", "string")
_UNSUPPORTED: Final = ("id", "additionalItems", "patternProperties", "definitions", "dependencies", "$ref")
_REASONS: Final = ("FieldValueDuplicate", "FieldValueForbidden", "FieldValueInvalid", "FieldValueRequired")
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
        *_check_map_type(schema, place.path),
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
    if place.inside_metadata and schema.get("x-kubernetes-embedded-resource"):
        text = "must not be used inside of resource meta"
        causes.append(forbidden(f"{path}.x-kubernetes-embedded-resource", text))
    if schema.get("uniqueItems"):
        text = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic"
        causes.append(forbidden(f"{path}.uniqueItems", text))
    if schema.get("x-kubernetes-preserve-unknown-fields") is False:
        causes.append(invalid(f"{path}.x-kubernetes-preserve-unknown-fields", False, "must be true or undefined"))
    if schema.get("x-kubernetes-embedded-resource") and not causes:
        text = "a real API server checks the metadata of embedded resources; this one does not"
        causes.append(invalid(f"{path}.x-kubernetes-embedded-resource", True, text))
    if normalized(schema.get("format") or "") in NOT_EMULATED:
        text = "a real API server checks this format; this one does not know it"
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
        if (place.root or schema.get("x-kubernetes-embedded-resource")) and name in _META:
            ban = f"in top-level {name}" if place.root else below.default_ban
            below = replace(below, inside_metadata=True, default_ban=ban)
        found.take(_check_node(part, below))
    nested = place.at("", None)
    if isinstance(schema.get("not"), dict):
        found.take(_check_node(schema["not"], nested.at(".not", None)))
    for key in ("allOf", "oneOf", "anyOf"):
        for index, part in enumerate(schema.get(key) or ()):
            found.take(_check_node(part, nested.at(f".{key}[{index}]", None)))
    if isinstance(items, dict):
        below = place.at(".items", scope and scope.items(schema))
        if schema.get("x-kubernetes-list-type") != "map":
            below = replace(below, uncorrelatable=below.uncorrelatable or place.path)
        found.take(_check_node(items, below))


def _check_map_type(schema: Schema, path: str) -> list[Cause]:
    declared, kind = schema.get("x-kubernetes-map-type"), schema.get("type") or ""
    if declared is None:
        return []
    causes = []
    if kind != "object":
        text = "must be object if x-kubernetes-map-type is specified"
        causes.append(invalid(f"{path}.type", kind, text) if kind else required(f"{path}.type", text))
    if declared not in ("atomic", "granular"):
        causes.append(not_supported(f"{path}.x-kubernetes-map-type", declared, ("atomic", "granular")))
    return causes


def _check_list_type(schema: Schema, path: str) -> list[Cause]:
    declared, kind, items = schema.get("x-kubernetes-list-type"), schema.get("type") or "", schema.get("items")
    if declared is None:
        return []
    causes = []
    if kind != "array":
        text = "must be array if x-kubernetes-list-type is specified"
        causes.append(invalid(f"{path}.type", kind, text) if kind else required(f"{path}.type", text))
    elif declared == "set" and isinstance(items, dict):
        text = "must be atomic as item of a list with x-kubernetes-list-type=set"
        inner_list, inner_map = items.get("x-kubernetes-list-type"), items.get("x-kubernetes-map-type")
        if items.get("type") == "array" and inner_list not in (None, "atomic"):
            causes.append(invalid(f"{path}.items.x-kubernetes-list-type", inner_list, text))
        if items.get("type") == "object" and inner_map != "atomic":
            causes.append(invalid(f"{path}.items.x-kubernetes-map-type", inner_list, text))
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
    if declared in ("set", "map") and isinstance(items, dict) and items.get("nullable"):
        text = f"cannot be nullable when x-kubernetes-list-type is {declared}"
        causes.append(forbidden(f"{path}.items.nullable", text))
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
        if declared.get("nullable"):
            text = "this property is in x-kubernetes-list-map-keys, so it cannot be nullable"
            causes.append(forbidden(f"{property_path}.nullable", text))
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
            resolve(field_path, schema)
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
    expression = declared.get("messageExpression") or ""
    if expression and not expression.strip():
        text = "messageExpression must be non-empty if specified"
        causes.append(required(f"{where}.messageExpression", text))
    return causes
