"""JSON patch (RFC 6902) and JSON merge patch (RFC 7386), with the API server's answers to bad ones."""

from typing import Any, Final

import jsonpatch

from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.apimachinery.objects import Object, copied

MAX_JSON_PATCH_OPERATIONS: Final = 10_000
_OPERATIONS: Final = ("add", "remove", "replace", "move", "copy", "test")


def json_patch(obj: Object, ops: Any) -> Object:
    """Apply a JSON patch.

    Raises:
        ApiError: 400 for what is no JSON patch, 413 for too many operations, 422 for an operation that cannot be
            applied or a test that fails.
    """
    if not isinstance(ops, list):
        text = "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp"
        raise ApiError(400, "BadRequest", text)
    if len(ops) > MAX_JSON_PATCH_OPERATIONS:
        text = f"The allowed maximum operations in a JSON patch is {MAX_JSON_PATCH_OPERATIONS}, got {len(ops)}"
        raise ApiError(413, "RequestEntityTooLarge", text)
    for op in ops:
        if not isinstance(op, dict) or op.get("op") not in _OPERATIONS or not isinstance(op.get("path"), str):
            raise unprocessable_patch()
    try:
        patched = jsonpatch.apply_patch(obj, ops)
    except (jsonpatch.JsonPatchException, jsonpatch.JsonPointerException, TypeError) as error:
        raise unprocessable_patch() from error
    if not isinstance(patched, dict):
        raise unprocessable_patch()
    return patched


def unprocessable_patch() -> ApiError:
    """422 without particulars, as the API server answers a JSON patch that cannot be applied."""
    return ApiError(422, "Invalid", "the server rejected our request due to an error in our request")


def merge_patch(obj: Object, patch: Any) -> Object:
    """Apply a JSON merge patch: null removes, objects merge, everything else replaces.

    Raises ApiError: 400 when the patch is no object.
    """
    if not isinstance(patch, dict):
        text = "error decoding patch: json: cannot unmarshal into Go value of type map[string]interface {}"
        raise ApiError(400, "BadRequest", text)
    merged: Object = _merged(obj, patch)
    return merged


def _merged(target: Any, patch: Any) -> Any:
    if not isinstance(patch, dict):
        return copied(patch)
    result = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = _merged(result.get(key), value)
    return result
