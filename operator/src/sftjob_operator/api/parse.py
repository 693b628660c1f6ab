"""Convert objects of the API server to models, and back."""

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from sftjob_operator.api.stored import Unread, read_leniently, read_status, unknown_field, without_nulls
from sftjob_operator.api.types import Model
from sftjob_operator.api.v1alpha1.sftjob import SFTJob, SFTJobSpec
from sftjob_operator.api.v1alpha1.status import SFTJobStatus

M = TypeVar("M", bound=Model)
T = TypeVar("T")

# pydantic's message prefixes, and its error types for a value that is not a JSON object.
_SHOULD: Final = re.compile(r"^(Input|String|Value|Tuple|Dictionary) should")
_LONG_CHARACTERS: Final = 200
_NO_OBJECT: Final = frozenset({"model_type", "model_attributes_type", "dict_type"})


class InvalidJobError(ValueError):
    """An object is not a usable SFTJob; the text names the field, the value and the allowed values."""


def parse_job(body: Mapping[str, Any]) -> SFTJob:
    """Parse `body` to a typed job. See `read_job`.

    Raises:
        InvalidJobError: it cannot be read.
    """
    return read_job(body)[0]


def read_job(body: Mapping[str, Any]) -> tuple[SFTJob, Unread]:
    """Parse `body` to a typed job, and collect the unreadable parts of its status, which `keep_unknown` restores.

    Raises:
        InvalidJobError: a field of the spec, or a field of the status that decisions need, is unknown, missing, of the
            wrong type or out of bounds. The API server rejects such a job, so this occurs only for one stored under
            another version of the CRD. An unknown field of the spec is not dropped, since it requests something.
    """
    spec = without_nulls(SFTJobSpec, body.get("spec"))
    try:
        job = SFTJob.model_validate({**body, "spec": spec, "status": {}})
    except ValidationError as error:
        raise InvalidJobError(_sentence(error)) from error
    if (field := unknown_field(SFTJobSpec, spec, "spec")) is not None:
        raise InvalidJobError(f"{field} is a field that this version of the operator does not know")
    if job.spec.recipe is None and job.spec.command is None:
        raise InvalidJobError("spec must have model, dataset and method, or command")
    status, unread = _read_status(body.get("status") or {}, ("status",))
    return job.model_copy(update={"status": status}), unread


def read_partly(body: Mapping[str, Any]) -> tuple[SFTJob, Unread]:
    """Parse the readable parts of the spec in `body`, and collect the unreadable parts of its status. See `read_job`.

    Raises:
        InvalidJobError: metadata or status cannot be read, or the unreadable part of the spec determines which Pods and
            files are the job's.
    """
    spec = without_nulls(SFTJobSpec, body.get("spec"))
    try:
        job = SFTJob.model_validate({**body, "spec": read_leniently(SFTJobSpec, spec), "status": {}})
    except ValidationError as error:
        raise InvalidJobError(_sentence(error)) from error
    for section, field, value in (
        ("resources", "nodes", job.spec.resources.nodes),
        ("storage", "existingClaim", job.spec.storage.existing_claim),
    ):
        given = spec.get(section) if isinstance(spec, Mapping) else None
        if given is not None and (not isinstance(given, Mapping) or given.get(field, value) != value):
            raise InvalidJobError(f"spec.{section}.{field} cannot be read")
    status, unread = _read_status(body.get("status") or {}, ("status",))
    return job.model_copy(update={"status": status}), unread


def parse_status(status: Mapping[str, Any]) -> SFTJobStatus:
    """Parse a stored status. Unknown fields and unreadable values are omitted.

    Raises:
        InvalidJobError: a value that decisions need cannot be read.
    """
    return _read_status(status, ())[0]


def _read_status(status: Any, path: tuple[str, ...]) -> tuple[SFTJobStatus, Unread]:
    try:
        return read_status(status)
    except ValidationError as error:
        raise InvalidJobError(_sentence(error, path=path)) from error


def fitting(what: str, build: Callable[[], T]) -> T:
    """Call `build` and check its result against the bounds of its models; `what` names it in the error.

    Raises:
        InvalidJobError: a value is of the wrong type or out of bounds.
    """
    try:
        return build()
    except ValidationError as error:
        raise InvalidJobError(f"{what}: {_sentence(error, to_camel)}") from error


def to_dict(model: Model) -> dict[str, Any]:
    """Convert `model` to JSON data: camelCase keys, None omitted."""
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def replace(model: M, **changes: Any) -> M:
    """Copy `model` with `changes`, and validate them like a new model.

    Raises:
        TypeError: no such field.
    """
    fields = type(model).model_fields
    if unknown := sorted(set(changes) - set(fields)):
        raise TypeError(f"{type(model).__name__} has no field {unknown[0]}; it has {', '.join(fields)}")
    return type(model)(**{**dict(model), **changes})


def _sentence(error: ValidationError, name: Callable[[str], str] = str, path: tuple[str, ...] = ()) -> str:
    first, *rest = error.errors(include_url=False, include_context=False)
    field = ""
    for part in (*path, *first["loc"]):
        field += f"[{part}]" if isinstance(part, int) else f".{name(part)}" if field else name(part)
    more = f" (and {len(rest)} more)" if rest else ""
    if first["type"] == "missing":
        return f"{field} is missing{more}"
    if first["type"] == "value_error":
        return f"{field}: {first['msg'].removeprefix('Value error, ')}{more}"
    must = "must be an object" if first["type"] in _NO_OBJECT else _SHOULD.sub("must", first["msg"])
    if first["type"] == "enum" and len(must) > _LONG_CHARACTERS:
        must = _nearest(must, str(first["input"]))
    return f"{field} {must}, not {_shown(first['input'])}{more}"


def _nearest(must: str, value: str) -> str:
    """Shorten `must` to the allowed values closest to `value`, since a long message is truncated."""
    values = re.findall(r"'([^']+)'", must)
    near = get_close_matches(value[:_LONG_CHARACTERS], values, n=3, cutoff=0.0)
    return f"must be {', '.join(map(repr, near))} or one of {len(values) - len(near)} others"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
