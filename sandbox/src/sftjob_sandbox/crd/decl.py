"""The types that rules see: a schema as CEL declares it, with the sizes that cost estimates need.

Source: apiserver's pkg/cel/common/schemas.go and pkg/cel/escaping.go.
"""

import itertools
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from sftjob_sandbox.apimachinery.causes import as_json
from sftjob_sandbox.apimachinery.objects import Object

Kind = Literal["dyn", "list", "map", "object", "string", "timestamp", "double", "int", "bool"]

MAX_REQUEST_BYTES: Final = 3 * 1024 * 1024
_RESERVED: Final = frozenset({
    "true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let",
    "loop", "package", "namespace", "return", "var", "void", "while",
})  # fmt: skip
_ESCAPES: Final = {"__": "__underscores__", ".": "__dot__", "-": "__dash__", "/": "__slash__"}


@dataclass(eq=False)
class Decl:
    """A declared type. `max_elements` counts items, entries or bytes."""

    kind: Kind
    min_size: int
    max_elements: int = 0
    element: "Decl | None" = None
    fields: dict[str, "Decl"] = field(default_factory=dict)
    """Fields of an object by their escaped names."""
    names: dict[str, str] = field(default_factory=dict)
    """Escaped name of each property whose own name is no CEL identifier."""
    keys: tuple[str, ...] | None = None
    """Of a list without an order: its map keys, none for a set."""
    opaque: bool = False
    """Whether an object may have fields that rules cannot name, only compare as parts of it."""

    @property
    def needs_conversion(self) -> bool:
        """Whether a JSON value must be changed before rules see it: numbers become doubles, names are escaped."""
        if self._needs is None:
            below = [*self.fields.values(), *([self.element] if self.element else [])]
            own = self.kind == "double" or bool(self.names) or self.opaque
            self._needs = own or any(decl.needs_conversion for decl in below)
        return self._needs

    _needs: bool | None = None


def escape(name: str) -> str | None:
    """A property's name as a CEL identifier; None if rules cannot name it."""
    if not name or name[0].isdigit() or re.search(r"[^a-zA-Z0-9./_-]", name):
        return None
    if name in _RESERVED:
        return f"__{name}__"
    return re.sub(r"__|[-./]", lambda found: _ESCAPES[found[0]], name)


def declare(schema: Mapping[str, Any], *, root: bool = False) -> Decl | None:
    """The type of a schema; None for one that rules cannot see. `root`: of a resource, with its name and kind."""
    if schema.get("x-kubernetes-int-or-string"):
        return Decl("dyn", 1, MAX_REQUEST_BYTES - 2)
    match schema.get("type"):
        case "array":
            decl = _list(schema)
        case "object":
            decl = _object(_with_type_and_metadata(schema) if root else schema)
        case "string":
            decl = _text(schema)
        case "boolean":
            decl = Decl("bool", 4)
        case "number":
            decl = Decl("double", 1)
        case "integer":
            decl = Decl("int", 1)
        case _:
            decl = None
    return decl


def _with_type_and_metadata(schema: Mapping[str, Any]) -> Object:
    text = {"type": "string"}
    metadata = {"type": "object", "properties": {"name": text, "generateName": text}}
    properties = {**(schema.get("properties") or {}), "kind": text, "apiVersion": text, "metadata": metadata}
    return {**schema, "properties": properties}


def _child(schema: Any) -> Decl | None:
    return declare(schema) if isinstance(schema, dict) else None


def _list(schema: Mapping[str, Any]) -> Decl | None:
    items = _child(schema.get("items"))
    if items is None:
        return None
    most = schema.get("maxItems")
    limit = max(most, 0) if most is not None else (MAX_REQUEST_BYTES - 2) // (items.min_size + 1)
    keys: tuple[str, ...] | None = () if schema.get("x-kubernetes-list-type") == "set" else None
    if schema.get("x-kubernetes-list-type") == "map":
        keys = tuple(schema.get("x-kubernetes-list-map-keys") or ())
    return Decl("list", 2, limit, items, keys=keys)


def _object(schema: Mapping[str, Any]) -> Decl | None:
    if isinstance(schema.get("additionalProperties"), dict):
        values = _child(schema["additionalProperties"])
        if values is None:
            return None
        most = schema.get("maxProperties")
        limit = max(most, 0) if most is not None else (MAX_REQUEST_BYTES - 2) // (values.min_size + 6)
        return Decl("map", 2, limit, values)
    result = Decl("object", 2, opaque=bool(schema.get("x-kubernetes-preserve-unknown-fields")))
    required = schema.get("required") or ()
    for name, part in (schema.get("properties") or {}).items():
        decl = _child(part)
        if decl is None:
            result.opaque = True
            continue
        escaped = escape(name)
        if escaped is not None:
            result.fields[escaped] = decl
            if escaped != name:
                result.names[name] = escaped
        if name in required and part.get("default") is None:
            result.min_size += len(name) + decl.min_size + 4
    return result


def _text(schema: Mapping[str, Any]) -> Decl:
    most = schema.get("maxLength")
    if schema.get("format") == "date-time":
        return Decl("timestamp", 21, 32)
    if most is not None:
        return Decl("string", 2, max(most, 0) * 4)
    choices = [len(choice.encode()) for choice in schema.get("enum") or () if isinstance(choice, str)]
    return Decl("string", 2, max(choices) if choices else MAX_REQUEST_BYTES - 2)


def as_declared(value: Any, decl: Decl | None) -> Any:
    """A JSON value as rules see it. What has no type for them is its JSON text, equal where the values are."""
    if decl is None:
        return as_json(value)
    if value is None or not decl.needs_conversion:
        return value
    if decl.kind == "double" and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, list):
        return [as_declared(item, decl.element) for item in value]
    return _object_as_declared(value, decl) if isinstance(value, dict) else value


def _object_as_declared(value: Object, decl: Decl) -> Object:
    if decl.kind == "map":
        return {key: as_declared(item, decl.element) for key, item in value.items()}
    named = {decl.names.get(key) or key: item for key, item in value.items()}
    return {escaped: as_declared(item, decl.fields.get(escaped)) for escaped, item in named.items()}


def aligned(old: Any, new: Any, decl: Decl | None) -> Any:
    """`old` with its sets and list maps in the order of `new`, so that `==` does not see an order in them."""
    if decl is None:
        return old
    if isinstance(old, dict) and isinstance(new, dict):
        children = {key: decl.element or decl.fields.get(decl.names.get(key) or key) for key in old}
        return {key: aligned(item, new.get(key), children[key]) for key, item in old.items()}
    if not isinstance(old, list) or not isinstance(new, list):
        return old
    if decl.keys is None:
        pairs = itertools.zip_longest(old, new[: len(old)])
        return [aligned(item, other, decl.element) for item, other in pairs]
    waiting = {_identity(item, decl.keys): item for item in old}
    if len(waiting) != len(old):
        return old  # duplicates from before the list had keys
    order = [*(key for item in new if (key := _identity(item, decl.keys)) in waiting), *waiting]
    others = {_identity(item, decl.keys): item for item in new}
    return [aligned(waiting[key], others.get(key), decl.element) for key in dict.fromkeys(order)]


def _identity(item: Any, keys: tuple[str, ...]) -> str:
    return as_json([item.get(key) for key in keys] if keys and isinstance(item, dict) else item)
