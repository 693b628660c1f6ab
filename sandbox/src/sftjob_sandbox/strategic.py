"""Strategic merge patch: a merge patch that merges lists by the keys that the kind's fields declare."""

from collections.abc import Iterable, Sequence
from typing import Any, Final

from sftjob_sandbox.errors import ApiError
from sftjob_sandbox.fields import FieldTree
from sftjob_sandbox.jsoncopy import copied
from sftjob_sandbox.objects import Object

_DIRECTIVE: Final = "$patch"
_RETAIN_KEYS: Final = "$retainKeys"
_SET_ORDER: Final = "$setElementOrder/"
_DELETE_PRIMITIVES: Final = "$deleteFromPrimitiveList/"


def strategic_merge_patch(obj: Object, patch: Any, fields: FieldTree) -> Object:
    """Apply a strategic merge patch to an object of a built-in kind; `fields` is its ObjectSchema's tree.

    Raises:
        ApiError: 400 for what is no object or misuses a directive, 500 for an item without its merge key (as the
            API server answers).
    """
    if not isinstance(patch, dict):
        text = "json: cannot unmarshal into Go value of type map[string]interface {}"
        raise ApiError(400, "BadRequest", text)
    return _merge_map(copied(obj), copied(patch), fields)


def _merge_map(original: Object, patch: Object, tree: FieldTree) -> Object:
    """Merge `patch` into `original`; both are this call's own copies."""
    if _DIRECTIVE in patch:
        return _directive(patch)
    _retain_keys(original, patch)
    for key in [name for name in patch if name.startswith(_SET_ORDER)]:
        _merge_ordered(original, patch, key, tree)
    for key, value in patch.items():
        if key.startswith(_DELETE_PRIMITIVES):
            name = key.removeprefix(_DELETE_PRIMITIVES)
            if isinstance(original.get(name), list) and isinstance(value, list):
                original[name] = [item for item in original[name] if item not in value]
            continue
        _merge_field(original, key, value, tree.child(key))
    return original


def _directive(patch: Object) -> Object:
    if patch[_DIRECTIVE] == "replace":
        return {key: value for key, value in patch.items() if key != _DIRECTIVE}
    if patch[_DIRECTIVE] == "delete":
        return {}
    raise ApiError(500, "InternalError", f"unknown patch type: {patch[_DIRECTIVE]} in map: {patch}")


def _retain_keys(original: Object, patch: Object) -> None:
    """`$retainKeys` removes every field that it does not list."""
    retained = patch.pop(_RETAIN_KEYS, None)
    if retained is None:
        return
    given = (
        key
        for key, value in patch.items()
        if value is not None and not key.startswith((_SET_ORDER, _DELETE_PRIMITIVES))
    )
    if not isinstance(retained, list) or any(key not in retained for key in given):
        raise ApiError(400, "BadRequest", "invalid patch format of retainKeys")
    for key in [name for name in original if name not in retained]:
        del original[key]


def _merge_field(original: Object, key: str, value: Any, tree: FieldTree) -> None:
    if value is None:
        original.pop(key, None)
        return
    current = original.get(key)
    if isinstance(current, dict) and isinstance(value, dict) and "replace" not in tree.patch_strategies:
        original[key] = _merge_map(current, value, tree)
    elif isinstance(current, list) and isinstance(value, list) and "merge" in tree.patch_strategies:
        original[key] = _merge_list(current, value, tree)
    else:
        _set_cleaned(original, key, value)


def _set_cleaned(original: Object, key: str, value: Any) -> None:
    """Take the patch's value, without nulls and directives, where there is nothing to merge it into."""
    if isinstance(value, dict) and _DIRECTIVE in value:
        original.pop(key, None)
        return
    original[key] = _without_directives(value)


def _without_directives(value: Any) -> Any:
    if isinstance(value, dict):
        return {
            key: _without_directives(item)
            for key, item in value.items()
            if item is not None and not key.startswith("$") and not (isinstance(item, dict) and _DIRECTIVE in item)
        }
    if isinstance(value, list):
        kept = (item for item in value if not (isinstance(item, dict) and _DIRECTIVE in item))
        return [_without_directives(item) for item in kept]
    return value


def _merge_ordered(original: Object, patch: Object, key: str, tree: FieldTree) -> None:
    """`$setElementOrder/NAME`: merge the list NAME, then bring it into the given order."""
    order = patch.pop(key)
    name = key.removeprefix(_SET_ORDER)
    field = tree.child(name)
    current, given = original.get(name), patch.pop(name, None)
    if not isinstance(order, list) or not isinstance(given, list | None) or not isinstance(current, list | None):
        raise ApiError(400, "BadRequest", "invalid patch format of setElementOrder list")
    if current is None and given is None:
        return
    if given is not None:
        _check_order(given, order, field.merge_key)
    if current is None:
        merged = _without_directives(given)
    else:
        merged = _merge_list(list(current), given, field) if given is not None else list(current)
    original[name] = _ordered(merged, order, current or [], field.merge_key)


def _check_order(given: list[Any], order: list[Any], key: str | None) -> None:
    """Every item of the patch must stand in the order list, in the same sequence."""
    wanted = [_identity(item, key) for item in given if not (isinstance(item, dict) and _DIRECTIVE in item)]
    remaining = iter([_identity(item, key) for item in order])
    if order and not all(item in remaining for item in wanted):
        text = f"The order in patch list:\n{given}\n doesn't match $setElementOrder list:\n{order}\n"
        raise ApiError(500, "InternalError", text)


def _identity(item: Any, key: str | None) -> Any:
    """What tells items of a list apart: the merge key of objects, the value of scalars."""
    if not isinstance(item, dict):
        return item
    if key is None or key not in item:
        raise ApiError(500, "InternalError", f"map: {item} does not contain declared merge key: {key or ''}")
    return item[key]


def _merge_list(original: list[Any], patch: list[Any], tree: FieldTree) -> list[Any]:
    key = tree.merge_key
    if not any(isinstance(item, dict) for item in (*original, *patch)):
        return _ordered(list(dict.fromkeys((*original, *patch))), patch, original, None)
    items, additions = list(original), []
    replace = False
    for item in patch:
        directive = item.get(_DIRECTIVE) if isinstance(item, dict) else None
        if directive is None:
            additions.append(item)
        elif directive == "delete":
            doomed = _identity(item, key)
            items = [existing for existing in items if _identity(existing, key) != doomed]
        elif directive == "replace":
            replace = True
        else:
            raise ApiError(500, "InternalError", f"unknown patch type: {directive} in map: {item}")
    if replace:
        return [_without_directives(item) for item in additions]
    for item in additions:
        identity = _identity(item, key)
        index = next((i for i, existing in enumerate(items) if _identity(existing, key) == identity), None)
        if index is None:
            items.append(_without_directives(item))
        else:
            items[index] = _merge_map(items[index], item, tree.item)
    return _ordered(items, additions, original, key)


def _ordered(merged: Sequence[Any], order: Sequence[Any], live: Sequence[Any], key: str | None) -> list[Any]:
    """The items in the patch's order, with those only the server has put where the live list had them."""
    rank = _ranks(order, key)
    live_rank = _ranks(live, key)
    named = sorted(
        (item for item in merged if _identity(item, key) in rank), key=lambda item: rank[_identity(item, key)]
    )
    server_only = [item for item in merged if _identity(item, key) not in rank]
    result: list[Any] = []
    while named and server_only:
        left, right = live_rank.get(_identity(server_only[0], key)), live_rank.get(_identity(named[0], key))
        first = server_only if left is not None and right is not None and left < right else named
        result.append(first.pop(0))
    return [*result, *named, *server_only]


def _ranks(items: Iterable[Any], key: str | None) -> dict[Any, int]:
    ranks: dict[Any, int] = {}
    for index, item in enumerate(items):
        ranks.setdefault(_identity(item, key), index)
    return ranks
