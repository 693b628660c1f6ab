"""Duplicates in lists of type set and map. Source: apiextensions-apiserver's pkg/apiserver/schema/listtype."""

from typing import Any

from sftjob_sandbox.causes import as_json, duplicate, invalid
from sftjob_sandbox.crd.structural import Node
from sftjob_sandbox.errors import Cause


def validate_lists(value: Any, node: Node | None, path: str) -> list[Cause]:
    """One cause for each value or key that appears again."""
    if node is None or not node.lists_below:
        return []
    causes: list[Cause] = []
    if isinstance(value, list):
        causes += _duplicates(value, node, path)
        for index, item in enumerate(value):
            causes += validate_lists(item, node.items, f"{path}[{index}]")
    elif isinstance(value, dict):
        for key, item in value.items():
            if key in node.properties:
                causes += validate_lists(item, node.properties[key], f"{path}.{key}" if path else key)
            elif node.values is not None:
                causes += validate_lists(item, node.values, f"{path}[{key}]")
    return causes


def _duplicates(items: list[Any], node: Node, path: str) -> list[Cause]:
    kind = node.schema.get("x-kubernetes-list-type")
    if kind == "set":
        return _repeated(items, items, path)
    if kind != "map":
        return []
    for index, item in enumerate(items):
        if item is not None and not isinstance(item, dict):
            return [invalid(f"{path}[{index}]", item, "must be an object for an array of list-type map")]
    names = node.schema.get("x-kubernetes-list-map-keys") or ()
    keys = [{name: (item or {})[name] for name in names if name in (item or {})} for item in items]
    return _repeated(keys, keys, path)


def _repeated(items: list[Any], shown: list[Any], path: str) -> list[Cause]:
    """The second appearance of each item is told; a third one is not."""
    seen: dict[str, int] = {}
    causes = []
    for index, item in enumerate(items):
        text = as_json(item)
        seen[text] = seen.get(text, 0) + 1
        if seen[text] == 2:
            causes.append(duplicate(f"{path}[{index}]", shown[index]))
    return causes
