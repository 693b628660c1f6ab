"""Structural schemas of custom resources, compiled, and what they do to a value beside validating it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from sftjob_sandbox.jsoncopy import copied
from sftjob_sandbox.objects import Object

MISSING: Final = object()
_TYPE_META: Final = frozenset({"apiVersion", "kind", "metadata"})


@dataclass(eq=False, slots=True)
class Node:
    """One node of a structural schema."""

    schema: Object
    type: str = ""
    nullable: bool = False
    preserve_unknown: bool = False
    embedded: bool = False
    properties: dict[str, "Node"] = field(default_factory=dict)
    values: "Node | None" = None
    """Schema of additional properties; a node without constraints for `additionalProperties: true`."""
    items: "Node | None" = None
    default: Any = MISSING
    defaults_below: bool = False
    """Whether this node or one below it declares a default."""
    lists_below: bool = False
    """Whether this node or one below it is a list of type set or map."""


def compile_schema(schema: Mapping[str, Any]) -> Node:
    """Compile an OpenAPI v3 schema as found in a CustomResourceDefinition."""
    additional, items = schema.get("additionalProperties"), schema.get("items")
    if additional is True:
        values: Node | None = Node({}, preserve_unknown=True)
    else:
        values = compile_schema(additional) if isinstance(additional, dict) else None
    node = Node(
        schema=dict(schema),
        type=schema.get("type", ""),
        nullable=bool(schema.get("nullable")),
        preserve_unknown=bool(schema.get("x-kubernetes-preserve-unknown-fields")),
        embedded=bool(schema.get("x-kubernetes-embedded-resource")),
        properties={name: compile_schema(part) for name, part in (schema.get("properties") or {}).items()},
        values=values,
        items=compile_schema(items) if isinstance(items, dict) else None,
        default=MISSING if schema.get("default") is None else schema["default"],
    )
    below = [*node.properties.values(), *filter(None, (node.values, node.items))]
    node.defaults_below = node.default is not MISSING or any(child.defaults_below for child in below)
    own = schema.get("x-kubernetes-list-type") in ("set", "map")
    node.lists_below = own or any(child.lists_below for child in below)
    return node


def prune(value: Any, node: Node | None, path: str, unknown: list[str]) -> Any:
    """A copy without the fields that the schema does not have; their paths are added to `unknown`."""
    if isinstance(value, dict):
        return _prune_object(value, node, path, unknown)
    if isinstance(value, list):
        items = node.items if node else None
        if node and node.preserve_unknown and items is None:
            return copied(value)
        return [prune(item, items, f"{path}[{index}]", unknown) for index, item in enumerate(value)]
    return value


def _prune_object(value: Object, node: Node | None, path: str, unknown: list[str]) -> Object:
    result: Object = {}
    for key, item in value.items():
        where = f"{path}.{key}" if path else key
        if node is None:
            unknown.append(where)
        elif node.embedded and key in _TYPE_META:
            result[key] = copied(item)
        elif (child := node.properties.get(key) or node.values) is not None:
            result[key] = prune(item, child, where, unknown) if isinstance(item, dict | list) else item
        elif node.preserve_unknown:
            result[key] = copied(item)
        elif path or key not in _TYPE_META:
            unknown.append(where)
    return result


def default(value: Any, node: Node | None) -> Any:
    """A copy with defaults, and without nulls where null is neither allowed nor defaulted."""
    if isinstance(value, dict):
        return _default_object(value, node)
    if isinstance(value, list):
        items = node.items if node else None
        return [default(_default_null(item, items), items) for item in value]
    return value


def _default_null(value: Any, node: Node | None) -> Any:
    """A null item of a list takes the default of the items."""
    if value is None and node is not None and not node.nullable and node.default is not MISSING:
        return copied(node.default)
    return value


def _default_object(value: Object, node: Node | None) -> Object:
    result: Object = {}
    properties = node.properties if node else {}
    values = node.values if node else None
    for key, item in value.items():
        child = properties.get(key, values)
        if item is None and child is not None and not child.nullable:
            if child.default is MISSING:
                continue
            item = copied(child.default)  # noqa: PLW2901 -- the default stands for the null
        result[key] = default(item, child) if isinstance(item, dict | list) else item
    for key, child in properties.items():
        if child.default is not MISSING and key not in result:
            result[key] = default(copied(child.default), child)
    return result
