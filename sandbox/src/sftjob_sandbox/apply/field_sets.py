"""Sets of fields of an object, as metadata.managedFields records them (FieldsV1), and how they come about.

Source: structured-merge-diff's packages fieldpath and typed. An element of a path is written as in FieldsV1: `f:name`
for a field, `k:{"name":"a"}` for an item of a list map, `v:"x"` for an item of a set.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from sftjob_sandbox.apimachinery.causes import as_json
from sftjob_sandbox.apimachinery.fields import FieldTree
from sftjob_sandbox.apimachinery.objects import Object

MISSING = object()


@dataclass(slots=True)
class FieldSet:
    """Elements that belong to the set, and sets below elements."""

    members: set[str] = field(default_factory=set)
    children: dict[str, "FieldSet"] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.members) or any(self.children.values())

    def insert(self, path: tuple[str, ...], below: "FieldSet | None" = None) -> None:
        """Add the field at `path`, and those `below` it; the root itself cannot be a member."""
        node = self
        for element in path[:-1]:
            node = node.children.setdefault(element, FieldSet())
        if path:
            node.members.add(path[-1])
        if below:
            node = node.children.setdefault(path[-1], FieldSet()) if path else node
            node.members |= below.members
            node.children |= below.children

    def union(self, other: "FieldSet") -> "FieldSet":
        """Fields in either."""
        children = dict(self.children)
        for element, child in other.children.items():
            children[element] = children[element].union(child) if element in children else child
        return FieldSet(self.members | other.members, children)

    def difference(self, other: "FieldSet") -> "FieldSet":
        """Fields that are not in `other`; removing a field keeps those below it."""
        children = {
            element: child.difference(other.children[element]) if element in other.children else child
            for element, child in self.children.items()
        }
        return FieldSet(self.members - other.members, {element: child for element, child in children.items() if child})

    def without(self, other: "FieldSet") -> "FieldSet":
        """Fields that are neither in `other` nor below one of its members."""
        children = {
            element: child.without(other.children[element]) if element in other.children else child
            for element, child in self.children.items()
            if element not in other.members
        }
        return FieldSet(self.members - other.members, {element: child for element, child in children.items() if child})

    def intersection(self, other: "FieldSet") -> "FieldSet":
        """Fields in both."""
        shared = ((element, child.intersection(other.children[element]))
                  for element, child in self.children.items() if element in other.children)  # fmt: skip
        return FieldSet(self.members & other.members, {element: child for element, child in shared if child})

    def with_named_fields(self, tree: FieldTree) -> "FieldSet":
        """The set with every declared field that has members below it."""
        members = set(self.members)
        children = {}
        for element, child in self.children.items():
            below = _below(tree, element)
            if element.startswith("f:") and tree.declares(element[2:]):
                members.add(element)
            children[element] = child.with_named_fields(below)
        return FieldSet(members, children)

    def paths(self, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
        """Every member, in the order of FieldsV1."""
        for element in sorted(self.members | set(self.children), key=_order):
            if element in self.members:
                yield (*prefix, element)
            if element in self.children:
                yield from self.children[element].paths((*prefix, element))

    def fields_v1(self) -> Object:
        """The set as FieldsV1."""
        result: Object = {}
        for element in sorted(self.members | set(self.children), key=_order):
            below = self.children[element].fields_v1() if element in self.children else {}
            result[element] = {".": {}, **below} if below and element in self.members else below
        return result

    @classmethod
    def from_fields_v1(cls, fields: Object) -> "FieldSet":
        """The inverse of `fields_v1`."""
        result = cls()
        for element, below in fields.items():
            if element == ".":
                continue
            if not below or "." in below:
                result.members.add(element)
            child = cls.from_fields_v1(below)
            if child:
                result.children[element] = child
        return result


_RANKS: Final = {"f": 0, "k": 1, "v": 2, "i": 3}


def _order(element: str) -> tuple[int, str]:
    return (_RANKS[element[0]], element)


def _below(tree: FieldTree, element: str) -> FieldTree:
    return tree.child(element[2:]) if element.startswith("f:") else tree.item


def display(path: tuple[str, ...]) -> str:
    """`.spec.containers[name="a"].image`, as conflicts name a field."""
    out = []
    for element in path:
        kind, content = element[0], element[2:]
        if kind == "f":
            out.append("." + content)
        elif kind == "i":
            out.append(f"[{content}]")
        elif kind == "k":
            keys = json.loads(content)
            out.append("[" + ",".join(f"{key}={as_json(keys[key])}" for key in sorted(keys)) + "]")
        else:
            out.append(f"[={content}]")
    return "".join(out)


class ItemError(Exception):
    """An item of a list of type set or map that has no key, or is no scalar."""


def item_element(tree: FieldTree, item: Any) -> str:
    """The path element of an item of a list of type set or map.

    Raises ItemError: for an item that cannot be distinguished from others.
    """
    if tree.list_type == "set":
        if isinstance(item, list):
            raise ItemError("not supported: associative list with lists as elements")
        if item is None or isinstance(item, dict):
            found = "an explicit null" if item is None else "a map type"
            raise ItemError(f"associative list without keys has an element that's {found}")
        return "v:" + as_json(item)
    if not isinstance(item, dict):
        raise ItemError("associative list with keys may not have non-map elements")
    keys: Object = {}
    for key in sorted(tree.keys):
        value = item.get(key, tree.key_default(key))
        if value is None:
            text = "associative list with keys has an element that omits key field"
            raise ItemError(f'{text} "{key}" (and doesn\'t have default value)')
        keys[key] = value
    return "k:" + as_json(keys)


def field_set(value: Any, tree: FieldTree, path: tuple[str, ...] = (), into: FieldSet | None = None) -> FieldSet:
    """The fields that an applied configuration sets."""
    result = FieldSet() if into is None else into
    if tree.is_leaf(value):
        result.insert(path)
    elif isinstance(value, dict):
        for key, item in value.items():
            below = (*path, f"f:{key}")
            field_set(item, tree.child(key), below, result)
            if item is None or item == {} or not tree.declares(key):
                result.insert(below)
    else:
        for item in value:
            below = (*path, item_element(tree, item))
            field_set(item, tree.item, below, result)
            result.insert(below)
    return result


@dataclass
class Comparison:
    """What differs between two objects."""

    added: FieldSet = field(default_factory=FieldSet)
    removed: FieldSet = field(default_factory=FieldSet)
    modified: FieldSet = field(default_factory=FieldSet)


def compare(
    old: Any, new: Any, tree: FieldTree, path: tuple[str, ...] = (), into: Comparison | None = None
) -> Comparison:
    """Fields that `new` adds, removes and modifies. MISSING stands for no value at all; null for an empty one."""
    result = Comparison() if into is None else into
    if old is None and isinstance(new, dict | list) and not _ends(new, tree):
        old = type(new)()
    if old is MISSING:
        result.added.insert(path, everything(new, tree))
    elif new is MISSING:
        result.removed.insert(path, everything(old, tree))
    elif old == new:
        pass
    elif type(old) is not type(new) or (_ends(old, tree) and _ends(new, tree)):
        result.modified.insert(path)
    elif isinstance(new, dict):
        for key in dict.fromkeys((*old, *new)):
            compare(old.get(key, MISSING), new.get(key, MISSING), tree.child(key), (*path, f"f:{key}"), result)
    else:
        before, after = _items(old, tree), _items(new, tree)
        for element in dict.fromkeys((*before, *after)):
            compare(before.get(element, MISSING), after.get(element, MISSING), tree.item, (*path, element), result)
    return result


def everything(value: Any, tree: FieldTree) -> FieldSet:
    """Every field below a value."""
    result = FieldSet()
    if _ends(value, tree):
        return result
    parts = (
        ((f"f:{key}", item, tree.child(key)) for key, item in value.items())
        if isinstance(value, dict)
        else ((element, item, tree.item) for element, item in _items(value, tree).items())
    )
    for element, item, subtree in parts:
        result.members.add(element)
        if below := everything(item, subtree):
            result.children[element] = below
    return result


def _ends(value: Any, tree: FieldTree) -> bool:
    """Whether there is no field below a value."""
    return not isinstance(value, dict | list) or not value or tree.is_leaf(value)


def _items(value: list[Any], tree: FieldTree) -> dict[str, Any]:
    return {item_element(tree, item): item for item in value}
