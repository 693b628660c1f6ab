"""Validation of a value against a schema, with the errors that kube-openapi's validator gives.

Paths inside messages are those of kube-openapi (`spec.labels.key in body ...`). On update, errors in a part that did
not change are not told (ratcheting), as the API server has it since 1.30.
"""

from collections.abc import Mapping
from typing import Any, Final

from sftjob_sandbox.causes import (
    as_json,
    invalid,
    not_supported,
    number,
    quoted,
    required,
    too_long,
    too_many,
    type_invalid,
)
from sftjob_sandbox.crd.formats import FORMATS, normalized
from sftjob_sandbox.crd.regex import compile_pattern
from sftjob_sandbox.crd.structural import MISSING
from sftjob_sandbox.errors import Cause

_NUMERIC: Final = ("integer", "number")


def type_name(value: Any) -> str:
    """JSON type, with integers told from other numbers by how they are written."""
    if isinstance(value, bool):
        return "boolean"
    if value is None:
        return "null"
    kinds: dict[type, str] = {int: "integer", float: "number", str: "string", list: "array", dict: "object"}
    return kinds[type(value)]


class ValueSchema:
    """One schema node, compiled for validation."""

    def __init__(self, schema: Mapping[str, Any]) -> None:
        int_or_string = bool(schema.get("x-kubernetes-int-or-string"))
        self.schema = schema
        self.types = ("integer", "string") if int_or_string else tuple(filter(None, (schema.get("type"),)))
        self.nullable = bool(schema.get("nullable"))
        name = normalized(schema.get("format") or "")
        self.format = schema["format"] if name in FORMATS else ""
        self.format_check = FORMATS.get(name)
        self.pattern = schema.get("pattern") or ""
        self.matches = compile_pattern(self.pattern) if self.pattern else None
        self.enum = schema.get("enum")
        self.properties = {key: ValueSchema(part) for key, part in (schema.get("properties") or {}).items()}
        additional = schema.get("additionalProperties")
        self.values = ValueSchema(additional) if isinstance(additional, dict) else None
        items = schema.get("items")
        self.items = ValueSchema(items) if isinstance(items, dict) else None
        self.required = tuple(schema.get("required") or ())
        self.all_of, self.any_of, self.one_of = (
            [ValueSchema(part) for part in schema.get(key) or ()] for key in ("allOf", "anyOf", "oneOf")
        )
        self.none_of = ValueSchema(schema["not"]) if isinstance(schema.get("not"), dict) else None
        self.combined = bool(self.all_of or self.any_of or self.one_of or self.none_of)
        self.map_keys = (
            schema.get("x-kubernetes-list-map-keys") if schema.get("x-kubernetes-list-type") == "map" else None
        )
        self.limits = {key: schema[key] for key in _LIMITS if schema.get(key) is not None}

    def errors(self, value: Any, path: str, root: str = "", old: Any = MISSING) -> list[Cause]:
        """Everything that is wrong with `value` at `path`, a path relative to the field `root`."""
        where = _field(root, path)
        causes = self._type_errors(value, path, where)
        if value is None:
            return causes + self._enum_errors(value, where)
        if self.combined:
            causes += self._combination_errors(value, path, root)
        if isinstance(value, str):
            causes += self._text_errors(value, path, where)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            if self.limits:
                causes += self._number_errors(value, path, where)
        elif isinstance(value, list):
            causes += self._list_errors(value, path, root, old)
        if self.enum:
            causes += self._enum_errors(value, where)
        if isinstance(value, dict):
            causes += self._object_errors(value, path, root, old)
        return _without_repeats(causes) if causes else causes

    def child_errors(self, value: Any, path: str, root: str, old: Any) -> list[Cause]:
        """Errors of a property or item; none if it equals its old value."""
        causes = self.errors(value, path, root, old)
        return [] if causes and old is not MISSING and old == value else causes

    def _type_errors(self, value: Any, path: str, where: str) -> list[Cause]:
        if value is None:
            accepted = not self.types or self.nullable
            return [] if accepted else [_wrong_type(where, path, ",".join(self.types), "null")]
        found = type_name(value)
        if found in self.types or not (self.types or self.format) or self._takes_number(found, value):
            return []
        if self.format and found not in ("string", "array"):
            return [_wrong_type(where, path, self.format, _GO_FORMATS.get(found, ""))]
        if not self.types or (self.format and not any(kind in _NUMERIC for kind in self.types)):
            return []
        return [_wrong_type(where, path, ",".join(self.types), found)]

    def _takes_number(self, found: str, value: Any) -> bool:
        """An integer is a number, and 1.0 is an integer."""
        if found == "integer":
            return "number" in self.types
        return found == "number" and "integer" in self.types and float(value).is_integer()

    def _enum_errors(self, value: Any, where: str) -> list[Cause]:
        if not self.enum or any(_same(value, choice) for choice in self.enum if choice is not None):
            return []
        return [not_supported(where, value, [c if isinstance(c, str) else as_json(c) for c in self.enum])]

    def _text_errors(self, value: str, path: str, where: str) -> list[Cause]:
        causes = []
        longest, shortest = self.limits.get("maxLength"), self.limits.get("minLength")
        if longest is not None and len(value) > longest:
            causes.append(too_long(where, longest))
        elif shortest is not None and len(value) < shortest:
            causes.append(invalid(where, value, f"{path} in body should be at least {shortest} chars long"))
        elif self.matches is not None and not self.matches(value):
            causes.append(invalid(where, value, f"{path} in body should match '{self.pattern}'"))
        if self.format_check is not None and not self.format_check(value):
            text = f"{path} in body must be of type {self.format}: {quoted(value)}"
            causes.append(type_invalid(where, value, text))
        return causes

    def _number_errors(self, value: float, path: str, where: str) -> list[Cause]:
        causes = []
        factor = self.limits.get("multipleOf")
        if factor is not None and not _is_multiple(value, factor):
            causes.append(
                invalid(where, value, f"{path} in body should be a multiple of {number(_like(value, factor))}")
            )
        low, high = self.limits.get("minimum"), self.limits.get("maximum")
        if low is not None:
            low = _like(value, low)
            strict = bool(self.schema.get("exclusiveMinimum"))
            if value < low or (strict and value == low):
                text = "greater than" if strict else "greater than or equal to"
                causes.append(invalid(where, value, f"{path} in body should be {text} {number(low)}"))
        if high is not None:
            high = _like(value, high)
            strict = bool(self.schema.get("exclusiveMaximum"))
            if value > high or (strict and value == high):
                text = "less than" if strict else "less than or equal to"
                causes.append(invalid(where, value, f"{path} in body should be {text} {number(high)}"))
        return causes

    def _list_errors(self, value: list[Any], path: str, root: str, old: Any) -> list[Cause]:
        causes: list[Cause] = []
        if self.items is not None:
            olds = self._items_by_key(old)
            for index, item in enumerate(value):
                before = olds.get(self._key(item), MISSING) if olds else MISSING
                causes += self.items.child_errors(item, f"{path}[{index}]", root, before)
        fewest, most = self.limits.get("minItems"), self.limits.get("maxItems")
        if fewest is not None and len(value) < fewest:
            text = f"{path} in body should have at least {fewest} items"
            causes.append(invalid(_field(root, path), len(value), text))
        if most is not None and len(value) > most:
            causes.append(too_many(_field(root, path), len(value), most))
        return causes

    def _key(self, item: Any) -> str:
        return as_json([item.get(key) for key in self.map_keys or ()]) if isinstance(item, dict) else ""

    def _items_by_key(self, old: Any) -> dict[str, Any]:
        """Old items of a list map by their keys; items of other lists have no old value."""
        if not self.map_keys or not isinstance(old, list):
            return {}
        return {self._key(item): item for item in old if isinstance(item, dict)}

    def _object_errors(self, value: dict[str, Any], path: str, root: str, old: Any) -> list[Cause]:
        causes: list[Cause] = []
        fewest, most = self.limits.get("minProperties"), self.limits.get("maxProperties")
        if fewest is not None and len(value) < fewest:
            text = f"{path} in body should have at least {fewest} properties"
            causes.append(invalid(_field(root, path), len(value), text))
        if most is not None and len(value) > most:
            causes.append(too_many(_field(root, path), len(value), most))
        before = old if isinstance(old, dict) else {}
        for key, item in value.items():
            child = self.properties.get(key, self.values)
            if child is not None:
                old_item = before.get(key, MISSING) if path or key not in ("kind", "apiVersion") else MISSING
                causes += child.child_errors(item, f"{path}.{key}" if path else key, root, old_item)
        missing = (key for key in self.required if key not in value)
        causes += [required(_field(root, f"{path}.{key}" if path else key)) for key in missing]
        return causes

    def _combination_errors(self, value: Any, path: str, root: str) -> list[Cause]:
        causes: list[Cause] = []
        where = root or "<nil>"
        label = quoted(path)
        if self.any_of:
            results = [part.errors(value, path, root) for part in self.any_of]
            if all(results):
                causes.append(invalid(where, "", f"{label} must validate at least one schema (anyOf)"))
                causes += results[0]
        if self.one_of:
            results = [part.errors(value, path, root) for part in self.one_of]
            valid = sum(not result for result in results)
            if valid != 1:
                found = "Found none valid" if not valid else f"Found {valid} valid alternatives"
                causes.append(invalid(where, "", f"{label} must validate one and only one schema (oneOf). {found}"))
                causes += results[0] if not valid else []
        if self.all_of:
            results = [part.errors(value, path, root) for part in self.all_of]
            causes += [cause for result in results for cause in result]
            if any(results):
                none = ". None validated" if all(results) else ""
                causes.append(invalid(where, "", f"{label} must validate all the schemas (allOf){none}"))
        if self.none_of is not None and not self.none_of.errors(value, path, root):
            causes.append(invalid(where, "", f"{label} must not validate the schema (not)"))
        return causes


_LIMITS: Final = (
    "maxLength", "minLength", "maximum", "minimum", "multipleOf", "maxItems", "minItems", "maxProperties",
    "minProperties",
)  # fmt: skip
_GO_FORMATS: Final = {"integer": "int64", "number": "float64"}


def _field(root: str, path: str) -> str:
    if root:
        return f"{root}.{path}" if path else root
    return path or "<nil>"


def _wrong_type(where: str, path: str, wanted: str, found: str) -> Cause:
    return type_invalid(where, found, f"{path} in body must be of type {wanted}: {quoted(found)}")


def _same(value: Any, choice: Any) -> bool:
    return value == choice and isinstance(value, bool) == isinstance(choice, bool)


def _like(value: float, limit: float) -> float:
    """Limits are compared with integers as integers."""
    return int(limit) if isinstance(value, int) else float(limit)


def _is_multiple(value: float, factor: float) -> bool:
    if isinstance(value, int):
        return int(factor) > 0 and value % int(factor) == 0
    quotient = 1 / factor * value if factor < 1 else value / factor
    return abs(quotient - round(quotient)) < 1e-9


def _without_repeats(causes: list[Cause]) -> list[Cause]:
    return list(dict.fromkeys(causes))
