"""Stored statuses that another version of the operator may have written: read leniently, preserved as a whole.

A newer version, or a newer CRD, may have added fields and values. Reading a status omits what this version does not
know or cannot read; writing the next one restores it.
"""

import copy
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Final, NamedTuple, TypeVar, get_args, get_origin

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from sftjob_contract.names import Stage
from sftjob_operator.api.types import READ_FROM_STORAGE, Model
from sftjob_operator.api.v1alpha1.status import SFTJobStatus

M = TypeVar("M", bound=Model)
Path = tuple[str | int, ...]
Unread = frozenset[Path]
"""Paths in a stored status whose values could not be read."""

_DECIDED_FROM: Final = frozenset({"attempts", "conditions", "adjustments", "interruptions"})
"""Fields of a status that decisions require."""
_FOR_PEOPLE: Final = frozenset(
    {
        *("attempts.node", "attempts.message", "attempts.fromStep", "attempts.reachedStep", "attempts.lostSteps"),
        *("attempts.loadingSeconds", "attempts.evaluatingSeconds", "attempts.savingSeconds"),
        *("conditions.message", "conditions.observedGeneration"),
    }
)
"""The parts of them that only people read."""
_CONDITION_TYPES: Final = frozenset({"Prepared", "Running", "ProgressReporting", "Succeeded"})
_IDENTITY: Final = {
    "conditions": ("type",),
    "attempts": ("stage", "number"),
    "checkpoints": ("uri",),
    "history": ("step",),
    "adjustments": ("attempt",),
}
"""The fields that identify an item of a status list."""


class _Field(NamedTuple):
    """A field: the model of its value or items, if any, and the maximum number of items.

    `labels`: it is a map of strings with user-defined keys.
    """

    model: type[Model] | None
    most: int
    labels: bool = False


_SCALAR: Final = _Field(None, 0)


def read_status(stored: Any) -> tuple[SFTJobStatus, Unread]:
    """Read a stored status; omit fields with unreadable values, and whole items that lack a required field.

    Raises:
        ValidationError: one of them is needed for decisions.
    """
    try:
        return SFTJobStatus.model_validate(stored, context=READ_FROM_STORAGE), frozenset()
    except ValidationError:
        return _Leniently(stored).read()


def keep_unknown(stored: Mapping[str, Any], decided: Mapping[str, Any], unread: Unread) -> dict[str, Any]:
    """Merge `decided`, a status as JSON data, with all that this version does not know or could not read of `stored`.

    A newly decided value replaces one that could not be read.
    """
    return _kept(SFTJobStatus, stored, decided, (), unread)


def unknown_field(model: type[Model], data: Any, path: str) -> str | None:
    """Return the path of the first field in `data` that `model`, located at path `path`, does not have."""
    if not isinstance(data, Mapping):
        return None
    fields = _fields(model)
    for key, value in data.items():
        if key not in fields:
            return f"{path}.{key}"
        if (inner := fields[key].model) is None:
            continue
        for index, item in enumerate(value if isinstance(value, list) else [value]):
            where = f"{path}.{key}[{index}]" if isinstance(value, list) else f"{path}.{key}"
            if (found := unknown_field(inner, item, where)) is not None:
                return found
    return None


def read_leniently(model: type[M], data: Any) -> M:
    """Return the readable parts of `data`, and defaults for everything else; its required fields must be readable.

    Raises:
        ValidationError: they are not.
    """
    rest = copy.deepcopy(data) if isinstance(data, Mapping) else {}
    while True:
        try:
            return model.model_validate(rest)
        except ValidationError as error:
            paths = {_present(rest, entry["loc"]) for entry in error.errors(include_url=False)}
            if () in paths:
                raise
            for path in sorted(paths, key=_in_order, reverse=True):
                _drop(rest, path)


def _drop(data: Any, path: Path) -> None:
    """Remove the value at `path`, unless it was removed with something else."""
    for part in path[:-1]:
        data = data[part] if _has(data, part) else None
    if _has(data, path[-1]):
        del data[path[-1]]


def _has(data: Any, part: str | int) -> bool:
    return (
        part < len(data)
        if isinstance(data, list) and isinstance(part, int)
        else isinstance(data, dict) and part in data
    )


def without_nulls(model: type[Model], data: Any) -> Any:
    """Return `data` of `model` without null fields and labels, which the API server treats as absent.

    Options under a library's own names keep theirs.
    """
    if not isinstance(data, Mapping):
        return data
    result: dict[str, Any] = {}
    for key, value in data.items():
        field = _fields(model).get(key)
        if value is None and field is not None:
            continue
        if field is not None and field.labels and isinstance(value, Mapping):
            result[key] = {name: label for name, label in value.items() if label is not None}
        elif field is None or field.model is None:
            result[key] = value
        elif isinstance(value, list):
            result[key] = [without_nulls(field.model, item) for item in value]
        else:
            result[key] = without_nulls(field.model, value)
    return result


class _Leniently:
    """Read a status repeatedly, each time without the values that could not be read before."""

    def __init__(self, stored: Any) -> None:
        self._data = copy.deepcopy(stored)
        self._positions: dict[str, list[int]] = {}
        """Original positions of the remaining items of the top-level lists."""
        for key, field in _fields(SFTJobStatus).items() if isinstance(stored, Mapping) else ():
            if isinstance(items := stored.get(key), list):
                first = max(0, len(items) - field.most)
                self._data[key] = self._data[key][first:]
                self._positions[key] = list(range(first, len(items)))

    def read(self) -> tuple[SFTJobStatus, Unread]:
        unread: set[Path] = set()
        while True:
            try:
                return SFTJobStatus.model_validate(self._data, context=READ_FROM_STORAGE), frozenset(unread)
            except ValidationError as error:
                errors = error.errors(include_url=False)
                paths = {self._dispensable(_present(self._data, entry["loc"])) for entry in errors}
                if None in paths:
                    raise
                for path in sorted((p for p in paths if p is not None), key=_in_order, reverse=True):
                    unread.add(self._remove(path))  # later items first, so that earlier positions stay valid

    def _dispensable(self, path: Path) -> Path | None:
        """Return what to omit so that the value at this path is omitted; None if decisions need it.

        Decisions need every attempt and every condition, except one of a type unknown to this version, or an ended one
        of an unknown stage: such an item is omitted as a whole.
        """
        if not path:
            return None
        if path[0] not in _DECIDED_FROM or (len(path) > 2 and f"{path[0]}.{path[2]}" in _FOR_PEOPLE):
            return path
        item = self._data[path[0]][path[1]] if len(path) > 1 else None
        if not isinstance(item, Mapping):
            return None
        type_, stage = item.get("type"), item.get("stage")
        if path[0] == "conditions":
            unknown = isinstance(type_, str) and type_ not in _CONDITION_TYPES
        else:
            unknown = isinstance(stage, str) and stage not in set(Stage) and item.get("endTime") is not None
        return path[:2] if unknown else None

    def _remove(self, path: Path) -> Path:
        """Remove the value at `path`; return its original position."""
        original = list(path)
        positions = self._positions.get(str(path[0]))
        if len(path) > 1 and isinstance(path[1], int) and positions is not None:
            original[1] = positions[path[1]]
            if len(path) == 2:
                del positions[path[1]]
        parent = self._data
        for part in path[:-1]:
            parent = parent[part]
        del parent[path[-1]]
        return tuple(original)


def _kept(
    model: type[Model] | None, stored: Mapping[str, Any], decided: Mapping[str, Any], parent: Path, unread: Unread
) -> dict[str, Any]:
    """Merge the object `decided` with the preserved parts of `stored`; without a model, one with user-defined keys."""
    fields = _fields(model) if model is not None else dict.fromkeys(stored, _SCALAR)
    result = dict(decided)
    for key, value in stored.items():
        path, field, now = (*parent, key), fields.get(key), decided.get(key)
        if field is None or (path in unread and now is None):
            result[key] = value
        elif isinstance(value, list) and isinstance(now, list | None):
            if items := _kept_items(field, value, now or (), path, unread):
                result[key] = items
        elif isinstance(value, Mapping) and isinstance(now, Mapping | None):
            rest = _kept(field.model, value, now or {}, path, unread)
            if rest or key in decided:
                result[key] = rest
    return result


def _kept_items(field: _Field, stored: Sequence[Any], decided: Sequence[Any], path: Path, unread: Unread) -> list[Any]:
    keys = _IDENTITY.get(str(path[-1])) if field.model is not None else None
    result = list(decided)
    if field.model is not None and keys is not None and result != stored:
        before = {_identity(item, keys): index for index, item in enumerate(stored) if isinstance(item, Mapping)}
        for position, item in enumerate(decided):
            if (index := before.get(_identity(item, keys))) is not None:
                result[position] = _kept(field.model, stored[index], item, (*path, index), unread)
    for index, item in enumerate(stored if unread else ()):
        if (*path, index) in unread and len(result) < field.most:
            result.insert(min(index, len(result)), item)
    return result


def _identity(item: Mapping[str, Any], keys: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(repr(item.get(key)) for key in keys)


@cache
def _fields(model: type[Model]) -> Mapping[str, _Field]:
    """Return the fields of a model by JSON name."""
    return {
        field.alias or name: _Field(_model(field.annotation), _most(field), _is_labels(field.annotation))
        for name, field in model.model_fields.items()
    }


def _model(annotation: Any) -> type[Model] | None:
    """Return the model in an annotation such as `M`, `M | None`, `tuple[M, ...]` or `Annotated[M, ...]`."""
    if isinstance(annotation, type) and issubclass(annotation, Model):
        return annotation
    if get_origin(annotation) is dict:
        return None
    arms = get_args(annotation)[:1] if get_origin(annotation) is Annotated else get_args(annotation)
    return next((found for arm in arms if (found := _model(arm)) is not None), None)


def _is_labels(annotation: Any) -> bool:
    """Whether an annotation is `dict[str, str]`, with or without bounds of the values."""
    if get_origin(annotation) is not dict:
        return False
    values = get_args(annotation)[1]
    return (get_args(values)[0] if get_origin(values) is Annotated else values) is str


def _most(field: FieldInfo) -> int:
    return min((bound.max_length for bound in field.metadata if hasattr(bound, "max_length")), default=2**31)


def _present(data: Any, location: tuple[int | str, ...]) -> Path:
    """Return the part of an error's location that exists in `data`: for a missing field, the object that lacks it."""
    path: list[str | int] = []
    for part in location:
        there = part < len(data) if isinstance(data, list) and isinstance(part, int) else isinstance(data, Mapping)
        if not there or (isinstance(data, Mapping) and part not in data):
            break
        data = data[part]
        path.append(part)
    return tuple(path)


def _in_order(path: Path) -> tuple[tuple[int, str], ...]:
    return tuple((part, "") if isinstance(part, int) else (0, part) for part in path)
