"""Objects as the API server gives them to models, and back."""

import re
from collections.abc import Callable, Mapping
from difflib import get_close_matches
from typing import Any, Final, TypeVar

from pydantic import ValidationError
from pydantic.alias_generators import to_camel

from sftjob_operator.api.status import SFTJobStatus
from sftjob_operator.api.stored import Unread, read_leniently, read_status, unknown_field, without_nulls
from sftjob_operator.api.types import Model
from sftjob_operator.api.v1alpha1 import SFTJob, SFTJobSpec

M = TypeVar("M", bound=Model)
T = TypeVar("T")

# How pydantic begins its messages, and its names for a value that is no JSON object.
_SHOULD: Final = re.compile(r"^(Input|String|Value|Tuple|Dictionary) should")
_LONG_CHARACTERS: Final = 200
_NO_OBJECT: Final = frozenset({"model_type", "model_attributes_type", "dict_type"})


class InvalidJob(ValueError):  # noqa: N818 -- named for what the object is
    """An object is no usable SFTJob; the text names the field, what was found and what it must be."""


def parse_job(body: Mapping[str, Any]) -> SFTJob:
    """`body` as a typed job. See `read_job`.

    Raises:
        InvalidJob: it cannot be read.
    """
    return read_job(body)[0]


def read_job(body: Mapping[str, Any]) -> tuple[SFTJob, Unread]:
    """`body` as a typed job, and what of its status could not be read; that is put back by `keep_unknown`.

    Raises:
        InvalidJob: a field of the spec is unknown, missing, of the wrong type or out of bounds, or so is a field of the
            status that decisions need. The API server refuses such a job, so this is about one that was stored under
            another version of the CRD. An unknown field of the spec is not dropped: it asks for something.
    """
    spec = without_nulls(SFTJobSpec, body.get("spec"))
    try:
        job = SFTJob.model_validate({**body, "spec": spec, "status": {}})
    except ValidationError as error:
        raise InvalidJob(_sentence(error)) from error
    if (field := unknown_field(SFTJobSpec, spec, "spec")) is not None:
        raise InvalidJob(f"{field} is a field that this version of the operator does not have")
    if job.spec.recipe is None and job.spec.command is None:
        raise InvalidJob("spec must have model, dataset and method, or command")
    status, unread = _read_status(body.get("status") or {}, ("status",))
    return job.model_copy(update={"status": status}), unread


def read_partly(body: Mapping[str, Any]) -> tuple[SFTJob, Unread]:
    """`body` with what of its spec can be read, and what of its status could not be. See `read_job`.

    Raises:
        InvalidJob: metadata or status cannot be read, or what cannot be read of the spec decides which Pods and files
            are the job's.
    """
    spec = without_nulls(SFTJobSpec, body.get("spec"))
    try:
        job = SFTJob.model_validate({**body, "spec": read_leniently(SFTJobSpec, spec), "status": {}})
    except ValidationError as error:
        raise InvalidJob(_sentence(error)) from error
    for section, field, value in (
        ("resources", "nodes", job.spec.resources.nodes),
        ("storage", "existingClaim", job.spec.storage.existing_claim),
    ):
        given = spec.get(section) if isinstance(spec, Mapping) else None
        if given is not None and (not isinstance(given, Mapping) or given.get(field, value) != value):
            raise InvalidJob(f"spec.{section}.{field} cannot be read")
    status, unread = _read_status(body.get("status") or {}, ("status",))
    return job.model_copy(update={"status": status}), unread


def parse_status(status: Mapping[str, Any]) -> SFTJobStatus:
    """A stored status as a typed one. Unknown fields and unreadable values are left out.

    Raises:
        InvalidJob: a value that decisions need cannot be read.
    """
    return _read_status(status, ())[0]


def _read_status(status: Any, at: tuple[str, ...]) -> tuple[SFTJobStatus, Unread]:
    try:
        return read_status(status)
    except ValidationError as error:
        raise InvalidJob(_sentence(error, at=at)) from error


def fitting(what: str, build: Callable[[], T]) -> T:
    """What `build` makes, if all of it is within the bounds of its models; `what` names it in the error.

    Raises:
        InvalidJob: a value is of the wrong type or out of bounds.
    """
    try:
        return build()
    except ValidationError as error:
        raise InvalidJob(f"{what}: {_sentence(error, to_camel)}") from error


def to_dict(model: Model) -> dict[str, Any]:
    """`model` as JSON data: camelCase keys, absent for None."""
    return model.model_dump(mode="json", by_alias=True, exclude_none=True)


def replace(model: M, **changes: Any) -> M:
    """A copy of `model` with `changes`, checked as a new one is.

    Raises:
        TypeError: no such field.
    """
    fields = type(model).model_fields
    if unknown := sorted(set(changes) - set(fields)):
        raise TypeError(f"{type(model).__name__} has no field {unknown[0]}; it has {', '.join(fields)}")
    return type(model)(**{**dict(model), **changes})


def _sentence(error: ValidationError, name: Callable[[str], str] = str, at: tuple[str, ...] = ()) -> str:
    first, *rest = error.errors(include_url=False, include_context=False)
    field = ""
    for part in (*at, *first["loc"]):
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
    """`must` with those of many values that `value` was most likely meant to be, since a long message is cut off."""
    values = re.findall(r"'([^']+)'", must)
    near = get_close_matches(value[:_LONG_CHARACTERS], values, n=3, cutoff=0.0)
    return f"must be {', '.join(map(repr, near))} or one of {len(values) - len(near)} others"


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
