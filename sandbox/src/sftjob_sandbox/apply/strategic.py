"""Strategic merge patch of objects. Lists are only replaced or set: what merges them is refused by name."""

from typing import Any, Final

from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.apimachinery.fields import FieldTree
from sftjob_sandbox.apimachinery.objects import Object

_INSTEAD: Final = "use kubectl apply --server-side, or kubectl patch --type=merge"


def strategic_merge_patch(obj: Object, patch: Any, fields: FieldTree) -> Object:
    """Apply a strategic merge patch to an object of a built-in kind; `fields` is its ObjectSchema's tree.

    Raises ApiError: 400 for what is no object, or would merge a list or has a directive.
    """
    if not isinstance(patch, dict):
        text = "json: cannot unmarshal into Go value of type map[string]interface {}"
        raise ApiError(400, "BadRequest", text)
    merged: Object = _merged(obj, patch, fields)
    return merged


def _merged(current: Any, patch: Any, tree: FieldTree) -> Any:
    if isinstance(patch, list):
        return [_merged(None, item, tree.item) for item in patch]
    if not isinstance(patch, dict):
        return patch
    result = dict(current) if isinstance(current, dict) and "replace" not in tree.patch_strategies else {}
    for key, value in patch.items():
        field, before = tree.child(key), result.get(key)
        if key.startswith("$"):
            text = f"this local server does not support the directive {key} of a strategic merge patch: {_INSTEAD}"
            raise ApiError(400, "BadRequest", text)
        if before and isinstance(before, list) and isinstance(value, list) and "merge" in field.patch_strategies:
            text = f"this local server does not merge the list {key} of a strategic merge patch: {_INSTEAD}"
            raise ApiError(400, "BadRequest", text)
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(before, value, field)
    return result
