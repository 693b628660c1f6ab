"""Validation of a value against a schema, with the errors that kube-openapi's validator gives.

Paths inside messages are those of kube-openapi (`spec.labels.key in body ...`). On update, errors in a part that did
not change are not reported (ratcheting), as in the API server since 1.30.
"""

import re
from collections.abc import Mapping
from datetime import date
from typing import Any, Final

from sftjob_sandbox.apimachinery.causes import (
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
from sftjob_sandbox.apimachinery.errors import Cause
from sftjob_sandbox.crd.structural import MISSING

_NUMERIC: Final = ("integer", "number")


def type_name(value: Any) -> str:
    """JSON type; integers and other numbers differ by their notation."""
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
        self.format = DATE_TIME if schema.get("format") == DATE_TIME else ""
        self.enum = schema.get("enum")
        self.properties = {key: ValueSchema(part) for key, part in (schema.get("properties") or {}).items()}
        additional = schema.get("additionalProperties")
        self.values = ValueSchema(additional) if isinstance(additional, dict) else None
        items = schema.get("items")
        self.items = ValueSchema(items) if isinstance(items, dict) else None
        self.required = tuple(schema.get("required") or ())
        self.any_of = [ValueSchema(part) for part in schema.get("anyOf") or ()]
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
        if self.any_of:
            causes += self._any_of_errors(value, path, root)
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
            return [_wrong_type(where, path, ",".join(self.types), "null")] if self.types else []
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
        if self.format and not is_date_time(value):
            text = f"{path} in body must be of type {self.format}: {quoted(value)}"
            causes.append(type_invalid(where, value, text))
        return causes

    def _number_errors(self, value: float, path: str, where: str) -> list[Cause]:
        causes = []
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
        most = self.limits.get("maxProperties")
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

    def _any_of_errors(self, value: Any, path: str, root: str) -> list[Cause]:
        results = [part.errors(value, path, root) for part in self.any_of]
        if not all(results):
            return []
        text = f"{quoted(path)} must validate at least one schema (anyOf)"
        return [invalid(root or "<nil>", "", text), *results[0]]


_LIMITS: Final = (
    "maxLength", "minLength", "maximum", "minimum", "maxItems", "minItems", "maxProperties",
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


def _without_repeats(causes: list[Cause]) -> list[Cause]:
    return list(dict.fromkeys(causes))


DATE_TIME: Final = "date-time"
NOT_EMULATED: Final = frozenset({
    "bsonobjectid", "byte", "cidr", "creditcard", "date", "datetime", "duration", "email", "hexcolor", "hostname",
    "ipv4", "ipv6", "isbn", "isbn10", "isbn13", "mac", "password", "rgbcolor", "ssn", "uri", "uuid", "uuid3", "uuid4",
    "uuid5",
})  # fmt: skip
"""Formats that a real server checks and this one refuses in a schema."""


def is_date_time(text: str) -> bool:
    """Whether a text is a time of RFC 3339."""
    day, _, time = text.lower().partition("t")
    found = re.fullmatch(r"([0-9]{2}):([0-9]{2}):([0-9]{2})(.[0-9]+)?(z|[+-][0-9]{2}:[0-9]{2})", time)
    return bool(found and _is_date(day) and found[1] <= "23" and found[2] <= "59" and found[3] <= "59")


def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII) is not None
