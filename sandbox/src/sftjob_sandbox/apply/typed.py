"""Whether an applied configuration fits its kind's fields, as server-side apply checks before it merges.

Source: structured-merge-diff's package typed. Unlike other writes, apply refuses a field that the kind does not have
regardless of `fieldValidation`, and answers 500.
"""

from collections.abc import Iterator
from typing import Any, Final

from sftjob_sandbox.apimachinery.causes import go_syntax
from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.apimachinery.fields import FieldTree
from sftjob_sandbox.apimachinery.objects import Object
from sftjob_sandbox.apimachinery.schemas import ObjectSchema
from sftjob_sandbox.apply.field_sets import ItemError, display, item_element

_GO_TYPES: Final = {str: "string", bool: "bool", int: "int64", float: "float64"}


def check_applied(intent: Object, schema: ObjectSchema) -> None:
    """Check a configuration before anything is dropped from it.

    Raises:
        ApiError: 400 for another version or given managedFields, 500 for fields that the kind does not have, values
            of another type, and items that cannot be distinguished.
    """
    group_version = f"{schema.group}/{schema.version}" if schema.group else schema.version
    if intent.get("apiVersion") != group_version:
        given = intent.get("apiVersion", "")
        text = (
            f"Incorrect version specified in apply patch. Specified patch version: {given}, expected: {group_version}"
        )
        raise ApiError(400, "BadRequest", text)
    metadata = intent["metadata"]
    if metadata.get("managedFields") is not None:
        raise ApiError(400, "BadRequest", "metadata.managedFields must be nil")
    kind = f"{schema.group}/{schema.version}, Kind={intent.get('kind', '')}"
    if intent.get("kind") != schema.kind:
        problems = [f"no corresponding type for {kind}"]
    else:
        problems = list(_problems(intent, schema.fields, ()))
    if problems:
        what = f"{metadata.get('namespace', '')}/{metadata.get('name', '')}"
        text = problems[0] if len(problems) == 1 else "\n".join(["errors:", *(f"  {line}" for line in problems)])
        raise ApiError(500, "", f"failed to create typed patch object ({what}; {kind}): {text}")


def _problems(value: Any, tree: FieldTree, path: tuple[str, ...]) -> Iterator[str]:
    if value is None or tree.shape == "deduced":
        return
    if tree.shape == "map":
        if isinstance(value, dict):
            yield from _map_problems(value, tree, path)
        else:
            yield _at(path, f"expected map, got &{{{go_syntax(value)}}}")
    elif tree.shape == "list":
        if isinstance(value, list):
            yield from _list_problems(value, tree, path)
        else:
            yield _at(path, f"expected list, got &{{{go_syntax(value)}}}")
    else:
        yield from _scalar_problems(value, tree, path)


def _map_problems(value: Object, tree: FieldTree, path: tuple[str, ...]) -> Iterator[str]:
    for key, item in value.items():
        below = (*path, f"f:{key}")
        if tree.takes(key):
            yield from _problems(item, tree.child(key), below)
        else:
            yield _at(below, "field not declared in schema")


def _list_problems(value: list[Any], tree: FieldTree, path: tuple[str, ...]) -> Iterator[str]:
    seen: set[str] = set()
    for index, item in enumerate(value):
        element = f"i:{index}"
        if tree.list_type != "atomic":
            try:
                element = item_element(tree, item)
            except ItemError as error:
                yield _at(path, f"element {index}: {error}")
                return
            if element in seen:
                yield _at(path, f"duplicate entries for key {display((element,))}")
            seen.add(element)
        yield from _problems(item, tree.item, (*path, element))


def _scalar_problems(value: Any, tree: FieldTree, path: tuple[str, ...]) -> Iterator[str]:
    kind = tree.scalar
    number = isinstance(value, int | float) and not isinstance(value, bool)
    if kind == "numeric" and not number:
        found = _GO_TYPES.get(type(value)) or go_syntax(value).partition("{}")[0] + "{}"
        yield _at(path, f"expected numeric (int or float), got {found}")
    elif kind == "string" and not isinstance(value, str):
        yield _at(path, f"expected string, got &value.valueUnstructured{{Value:{go_syntax(value)}}}")
    elif kind == "boolean" and not isinstance(value, bool):
        yield _at(path, f"expected boolean, got &{{{value}}}")
    elif kind == "untyped" and isinstance(value, dict | list):
        yield _at(path, f"expected any scalar, got &{{{go_syntax(value)}}}")


def _at(path: tuple[str, ...], text: str) -> str:
    return f"{display(path)}: {text}" if path else text
