"""What merging needs to know about a resource's fields: which lists are sets or maps, and by which keys.

Read from OpenAPI, for built-in kinds and custom resources alike. The rules for a field without the `x-kubernetes-`
extensions are those of the API server: lists are atomic, objects are merged field by field.
"""

from collections.abc import Mapping
from functools import cached_property
from typing import Any, Literal

from sftjob_sandbox.apimachinery.objects import Object

Shape = Literal["scalar", "list", "map", "deduced"]


class FieldTree:
    """One field and, lazily, those below it.

    `deduced` is a field of unknown type: objects in it are merged, everything else is atomic.
    """

    def __init__(self, schema: Mapping[str, Any], definitions: Mapping[str, Object]) -> None:
        self._definitions = definitions
        self._use_site = schema
        self._schema = self._resolve(schema)
        self._children: dict[str, FieldTree] = {}

    def _resolve(self, schema: Mapping[str, Any]) -> Mapping[str, Any]:
        reference = schema.get("$ref") or next((part.get("$ref") for part in schema.get("allOf", ())), None)
        return self._definitions[reference.rsplit("/", 1)[1]] if reference else schema

    def _extension(self, name: str) -> Any:
        """An `x-kubernetes-` extension; where the field is used it overrides the referred type."""
        key = f"x-kubernetes-{name}"
        return self._use_site.get(key, self._schema.get(key))

    @cached_property
    def shape(self) -> Shape:
        """How the field is walked."""
        kind = self._schema.get("type")
        kind = next((name for name in kind if name != "null"), None) if isinstance(kind, list) else kind
        if self._extension("preserve-unknown-fields") and not self._schema.get("properties"):
            return "deduced"
        if kind == "array":
            return "list"
        if kind == "object" or "properties" in self._schema:
            return "map"
        return "scalar" if kind or self._extension("int-or-string") or "oneOf" in self._schema else "deduced"

    @cached_property
    def atomic(self) -> bool:
        """Whether the field is replaced as a whole."""
        if self.shape == "list":
            return self.list_type == "atomic"
        if self.shape == "map":
            bare = not any(self._schema.get(key) for key in ("properties", "additionalProperties"))
            return self._extension("map-type") == "atomic" or (bare and not self._extension("preserve-unknown-fields"))
        return self.shape == "scalar"

    def is_leaf(self, value: Any) -> bool:
        """Whether `value` is owned and replaced as a whole here."""
        if isinstance(value, dict):
            return self.atomic
        return self.atomic or self.shape == "deduced" if isinstance(value, list) else True

    @cached_property
    def scalar(self) -> Literal["numeric", "string", "boolean", "untyped"]:
        """What values of a scalar field may be."""
        kinds: dict[Any, Literal["numeric", "string", "boolean"]] = {
            "integer": "numeric", "number": "numeric", "string": "string", "boolean": "boolean",
        }  # fmt: skip
        kind, form = self._schema.get("type"), self._schema.get("format")
        if self._extension("int-or-string") or (kind == "string" and form not in (None, "", "byte")):
            return "untyped"
        return kinds.get(kind, "untyped") if isinstance(kind, str) else "untyped"

    def takes(self, name: str) -> bool:
        """Whether an object may have this field: it is declared, or objects have keys of any name."""
        open_ended = self._schema.get("additionalProperties") or self._extension("preserve-unknown-fields")
        return bool(open_ended) or not self._schema.get("properties") or self.declares(name)

    def declares(self, name: str) -> bool:
        """Whether `name` is a field of this type, rather than a key of a map."""
        return name in (self._schema.get("properties") or {})

    @cached_property
    def list_type(self) -> Literal["atomic", "set", "map"]:
        """How items of a list correspond; the patch strategy decides where no list type is declared."""
        declared = self._extension("list-type")
        if declared in ("atomic", "set", "map"):
            kind: Literal["atomic", "set", "map"] = declared
            return kind
        if "merge" in self.patch_strategies:
            return "map" if self.merge_key else "set"
        return "atomic"

    @cached_property
    def keys(self) -> tuple[str, ...]:
        """Key fields of a list of type map."""
        declared = self._extension("list-map-keys")
        if declared:
            return tuple(declared)
        return (self.merge_key,) if self.merge_key and self.list_type == "map" else ()

    def key_default(self, key: str) -> Any:
        """The value of a key that an item lacks; None if there is no default."""
        return self.item.child(key).default

    @property
    def default(self) -> Any:
        """The declared default; None without one."""
        return self._use_site.get("default", self._schema.get("default"))

    @property
    def merge_key(self) -> str | None:
        """Key of a strategic merge patch."""
        key: str | None = self._extension("patch-merge-key")
        return key

    @property
    def patch_strategies(self) -> tuple[str, ...]:
        """`merge`, `retainKeys`, `replace`."""
        return tuple(filter(None, str(self._extension("patch-strategy") or "").split(",")))

    @cached_property
    def item(self) -> "FieldTree":
        """The items of a list."""
        return FieldTree(self._schema.get("items") or {}, self._definitions)

    def child(self, name: str) -> "FieldTree":
        """A field of an object, or a value of a map."""
        if name not in self._children:
            schema = (self._schema.get("properties") or {}).get(name)
            if schema is None:
                additional = self._schema.get("additionalProperties")
                schema = additional if isinstance(additional, dict) else {}
            self._children[name] = FieldTree(schema, self._definitions)
        return self._children[name]
