"""Dataclasses to JSON and back: camelCase keys, absent for None, and an error sentence that names the field.

Supported types are those the contract needs: str, int, float, bool, enums, nested dataclasses, `X | None`,
`tuple[X, ...]`, `Mapping[str, X]`, and `Any` for plain JSON. Anything else is a programming error.
"""

import dataclasses
import hashlib
import json
import math
import types
import typing
from collections.abc import Mapping
from enum import Enum
from typing import Any, TypeVar

T = TypeVar("T")


class ContractError(ValueError):
    """A message does not have the agreed form; the text names the field and what was found."""


def to_json(message: object) -> str:
    """One line of JSON, keys in field order.

    Raises:
        ContractError: a float is NaN or infinite, which JSON can not say.
    """
    return json.dumps(encode(message), allow_nan=False, separators=(",", ":"), ensure_ascii=False)


def sha256_of(message: object) -> str:
    """SHA-256 of the message's JSON, in hexadecimal.

    Raises:
        ContractError: a float is NaN or infinite.
    """
    return hashlib.sha256(to_json(message).encode()).hexdigest()


def from_json(cls: type[T], text: str | bytes, *, ignore_unknown: bool) -> T:
    """Parse `text` as `cls`.

    `ignore_unknown` is for readers that must understand newer writers (status messages); a run config refuses
    unknown keys, since an option that is not understood must not be silently dropped.

    Raises:
        ContractError: not JSON, or not of the agreed form.
    """
    try:
        data = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ContractError(f"not valid JSON: {error}") from error
    return decode(cls, data, ignore_unknown=ignore_unknown)


def encode(value: Any) -> Any:
    """`value` as plain JSON data; fields that are None are left out."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((field.name, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {camel(name): encode(item) for name, item in pairs if item is not None}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ContractError(f"{value} is not a number that JSON can carry")
    return value


def decode(cls: type[T], data: Any, *, ignore_unknown: bool, at: str = "") -> T:
    """Plain JSON data as the dataclass `cls`; `at` is the path of `data` for error messages.

    Raises:
        ContractError: a key is missing, unknown (unless ignored) or of the wrong type.
    """
    if not isinstance(data, dict):
        raise ContractError(f"{at or cls.__name__} must be an object, not {_shown(data)}")
    hints = _hints(cls)
    fields = {camel(field.name): field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    if not ignore_unknown and (unknown := sorted(set(data) - set(fields))):
        raise ContractError(f"{_join(at, unknown[0])} is not known; known are: {', '.join(fields)}")
    values = {}
    for key, field in fields.items():
        if data.get(key) is not None:
            values[field.name] = _value(hints[field.name], data[key], ignore_unknown, _join(at, key))
        elif field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            if not _optional(hints[field.name]):
                raise ContractError(f"{_join(at, key)} is missing")
            values[field.name] = None
    return cls(**values)


def camel(name: str) -> str:
    """`max_length` as `maxLength`."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _hints(cls: type) -> dict[str, Any]:
    return typing.get_type_hints(cls)


def _optional(hint: Any) -> bool:
    return isinstance(hint, types.UnionType) and types.NoneType in hint.__args__


def _value(hint: Any, data: Any, ignore_unknown: bool, at: str) -> Any:
    if _optional(hint):
        (hint,) = (arm for arm in hint.__args__ if arm is not types.NoneType)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return decode(hint, data, ignore_unknown=ignore_unknown, at=at)
    origin = typing.get_origin(hint)
    if origin is tuple:
        items = _expect(list, data, at)
        return tuple(_value(hint.__args__[0], x, ignore_unknown, f"{at}[{i}]") for i, x in enumerate(items))
    if origin is Mapping:
        pairs = _expect(dict, data, at).items()
        return {key: _value(hint.__args__[1], x, ignore_unknown, _join(at, key)) for key, x in pairs}
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _member(hint, data, at)
    if hint is float:
        return _finite(data, at)
    return data if hint is Any else _expect(hint, data, at)


def _member(enum: type[Enum], data: Any, at: str) -> Enum:
    for member in enum:
        if member.value == data and not isinstance(data, bool):
            return member
    raise ContractError(f"{at} must be one of {', '.join(str(m.value) for m in enum)}, not {_shown(data)}")


def _finite(data: Any, at: str) -> float:
    try:
        number = float(data) if isinstance(data, int | float) and not isinstance(data, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise ContractError(f"{at} must be a finite number, not {_shown(data)}")
    return number


def _expect(kind: type, data: Any, at: str) -> Any:
    if not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool):
        raise ContractError(f"{at} must be of type {kind.__name__}, not {_shown(data)}")
    return data


def _join(at: str, key: str) -> str:
    return f"{at}.{key}" if at else key


def _shown(data: Any) -> str:
    text = repr(data)
    return text if len(text) <= 60 else text[:57] + "..."
