"""From a body to an object of the right kind with known fields only, or the error of a server's decoder."""

from typing import Any, Final, Literal

from sftjob_sandbox.apimachinery.causes import invalid as invalid_value
from sftjob_sandbox.apimachinery.errors import ApiError, invalid
from sftjob_sandbox.apimachinery.objects import Object
from sftjob_sandbox.storage.resources import Resource, ServedVersion

FieldValidation = Literal["Strict", "Warn", "Ignore"]
_TYPES: Final = {dict: "object", list: "array", str: "string", bool: "bool", int: "number", float: "number"}


def decode(
    resource: Resource, version: ServedVersion, value: Any, validation: FieldValidation
) -> tuple[Object, tuple[str, ...]]:
    """The object without unknown fields, and warnings about them.

    Raises ApiError 400 for another kind, a value that cannot be decoded, or (Strict) an unknown field.
    """
    if not isinstance(value, dict):
        text = f"json: cannot unmarshal {go_type(value)} into Go value of type map[string]interface {{}}"
        raise unrecognized(resource, text)
    obj = _typed(resource, version, value)
    if not isinstance(obj.get("metadata") or {}, dict):
        raise _unreadable(resource, version, f"json: cannot unmarshal {go_type(obj['metadata'])} into ObjectMeta")
    pruned, unknown = version.schema.prune({**obj, "metadata": obj.get("metadata") or {}})
    pruned.setdefault("metadata", {})
    problems = [f'unknown field "{path}"' for path in unknown]
    if problems and validation == "Strict":
        raise _unreadable(resource, version, "strict decoding error: " + ", ".join(problems))
    return pruned, tuple(problems) if validation == "Warn" else ()


def decode_patched(
    resource: Resource, version: ServedVersion, value: Any, validation: FieldValidation, shown: str
) -> tuple[Object, tuple[str, ...]]:
    """The same for an object after a patch, whose faults are the patch's.

    Raises ApiError 422 about the field `patch` and shows it as `shown`.
    """
    try:
        return decode(resource, version, value, validation)
    except ApiError as error:
        text = error.message.removeprefix(_unreadable(resource, version, "").message)
        if text == error.message:
            raise
        raise invalid("", "", "", [invalid_value("patch", shown, text)]) from error


def read_applied(value: Any) -> Object:
    """A configuration to apply as it came; apply itself checks the fields. Raises ApiError 400 if it is no object."""
    if not isinstance(value, dict):
        text = f"json: cannot unmarshal {go_type(value)} into Go value of type map[string]interface {{}}"
        raise ApiError(400, "BadRequest", f"error decoding YAML: error unmarshaling JSON: while decoding JSON: {text}")
    if not isinstance(value.get("metadata") or {}, dict):
        text = f"json: cannot unmarshal {go_type(value['metadata'])} into ObjectMeta"
        raise ApiError(400, "BadRequest", f"error decoding YAML: {text}")
    return {**value, "metadata": value.get("metadata") or {}}


def unrecognized(resource: Resource, text: str) -> ApiError:
    """400: the body is no object at all."""
    text = f"the object provided is unrecognized (must be of type {resource.kind}): {text}"
    return ApiError(400, "BadRequest", text)


def go_type(value: object) -> str:
    """How Go's JSON decoder names the type of a value."""
    return "null" if value is None else _TYPES[type(value)]


def _typed(resource: Resource, version: ServedVersion, obj: Object) -> Object:
    """The object with kind and apiVersion, which must be the resource's where they are given."""
    wanted = resource.api_version(version.name)
    kind, api_version = obj.get("kind") or resource.kind, obj.get("apiVersion") or wanted
    if resource.custom and not (obj.get("kind") and obj.get("apiVersion")):
        missing = "kind" if not obj.get("kind") else "apiVersion"
        raise unrecognized(resource, f"Object '{missing.capitalize()}' is missing")
    if api_version != wanted:
        text = f"the API version in the data ({api_version}) does not match the expected API version ({wanted})"
        raise ApiError(400, "BadRequest", text)
    if kind != resource.kind and resource.custom:
        cause = invalid_value("kind", kind, f"must be {resource.kind}")
        raise invalid(resource.kind, resource.group, str(obj.get("metadata", {}).get("name") or ""), [cause])
    if kind != resource.kind:
        package = f"{version.name}.{kind}"
        text = f"converting ({package}) to ({resource.group or 'core'}.{resource.kind}): unknown conversion"
        raise ApiError(
            400, "BadRequest", f'{kind} in version "{version.name}" cannot be handled as a {resource.kind}: {text}'
        )
    return {**obj, "kind": kind, "apiVersion": api_version}


def _unreadable(resource: Resource, version: ServedVersion, text: str) -> ApiError:
    text = f'{resource.kind} in version "{version.name}" cannot be handled as a {resource.kind}: {text}'
    return ApiError(400, "BadRequest", text)
