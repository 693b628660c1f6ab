"""What the structural schema of a custom resource does to a value beside validating it."""

from collections.abc import Mapping
from typing import Any, Final

from sftjob_sandbox.apimachinery.causes import as_json, duplicate, invalid
from sftjob_sandbox.apimachinery.errors import Cause
from sftjob_sandbox.apimachinery.objects import Object, copied

MISSING: Final = object()
Schema = Mapping[str, Any]
_PRESERVE: Final = "x-kubernetes-preserve-unknown-fields"
_TYPE_META: Final = frozenset({"apiVersion", "kind", "metadata"})


def _child(schema: Schema, key: str) -> Schema | None:
    """The schema of a field: of the property, or of every other one."""
    values = schema.get("additionalProperties")
    others = {_PRESERVE: True} if values is True else values or None
    found: Schema | None = (schema.get("properties") or {}).get(key, others)
    return found


def prune(value: Any, schema: Schema | None, path: str, unknown: list[str]) -> Any:
    """A copy without the fields that the schema does not have; their paths are added to `unknown`."""
    if isinstance(value, dict):
        return _prune_object(value, schema, path, unknown)
    if isinstance(value, list):
        items = schema.get("items") if schema else None
        if schema and schema.get(_PRESERVE) and items is None:
            return copied(value)
        return [prune(item, items, f"{path}[{index}]", unknown) for index, item in enumerate(value)]
    return value


def _prune_object(value: Object, schema: Schema | None, path: str, unknown: list[str]) -> Object:
    result: Object = {}
    for key, item in value.items():
        where = f"{path}.{key}" if path else key
        if schema is None:
            unknown.append(where)
        elif not path and key in _TYPE_META:
            result[key] = copied(item)
        elif (child := _child(schema, key)) is not None:
            result[key] = prune(item, child, where, unknown) if isinstance(item, dict | list) else item
        elif schema.get(_PRESERVE):
            result[key] = copied(item)
        else:
            unknown.append(where)
    return result


def default(value: Any, schema: Schema | None) -> Any:
    """A copy with defaults, and without nulls where null is neither allowed nor defaulted."""
    if isinstance(value, dict):
        return _default_object(value, schema or {})
    if isinstance(value, list):
        items = (schema or {}).get("items") or {}
        return [default(copied(items.get("default")) if item is None else item, items) for item in value]
    return value


def _default_object(value: Object, schema: Schema) -> Object:
    result: Object = {}
    for key, item in value.items():
        child = _child(schema, key)
        if item is None and child is not None:
            if child.get("default") is None:
                continue
            item = copied(child["default"])  # noqa: PLW2901 -- the default stands for the null
        result[key] = default(item, child) if isinstance(item, dict | list) else item
    for key, child in (schema.get("properties") or {}).items():
        if child.get("default") is not None and key not in result:
            result[key] = default(copied(child["default"]), child)
    return result


def validate_lists(value: Any, schema: Schema | None, path: str) -> list[Cause]:
    """One cause for each value or key that appears again."""
    causes: list[Cause] = []
    if isinstance(value, list) and schema:
        causes += _duplicates(value, schema, path)
        for index, item in enumerate(value):
            causes += validate_lists(item, schema.get("items"), f"{path}[{index}]")
    elif isinstance(value, dict) and schema:
        for key, item in value.items():
            named = key in (schema.get("properties") or {})
            where = (f"{path}.{key}" if path else key) if named else f"{path}[{key}]"
            causes += validate_lists(item, _child(schema, key), where)
    return causes


def _duplicates(items: list[Any], schema: Schema, path: str) -> list[Cause]:
    kind = schema.get("x-kubernetes-list-type")
    if kind == "set":
        return _repeated(items, path)
    if kind != "map":
        return []
    for index, item in enumerate(items):
        if item is not None and not isinstance(item, dict):
            return [invalid(f"{path}[{index}]", item, "must be an object for an array of list-type map")]
    names = schema.get("x-kubernetes-list-map-keys") or ()
    return _repeated([{name: (item or {})[name] for name in names if name in (item or {})} for item in items], path)


def _repeated(items: list[Any], path: str) -> list[Cause]:
    """One cause for the second appearance of each item; none for a third."""
    seen: dict[str, int] = {}
    causes = []
    for index, item in enumerate(items):
        text = as_json(item)
        seen[text] = seen.get(text, 0) + 1
        if seen[text] == 2:
            causes.append(duplicate(f"{path}[{index}]", item))
    return causes
