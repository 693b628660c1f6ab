"""Dataclasses to JSON and back: camelCase keys, None omitted, errors that name the field.

Supported types: str, int, float, bool, enums, nested dataclasses, `X | None`, `tuple[X, ...]`, `Mapping[str, X]`, and
`Any` for plain JSON. Any other type is a programming error.
"""

import dataclasses
import functools
import hashlib
import json
import math
import reprlib
import types
import typing
from collections.abc import Callable, Mapping
from enum import Enum
from typing import Any, Final, TypeVar

T = TypeVar("T")

MOST_ENTRIES: Final = 512
"""Maximum entries of a list, or keys of an object, in an untrusted message."""
MOST_DIGITS: Final = 512
"""Maximum digits of an integer. Parsing time grows with the square of the length."""
_MOST_SHOWN: Final = 60
_LONGEST_PATH: Final = 200
_REPR: Final = reprlib.Repr()
_REPR.maxlevel, _REPR.maxlist, _REPR.maxdict = 3, 20, 20


class ContractError(ValueError):
    """A message does not match the schema; the text names the field and the value found."""


class _Misfit(Exception):  # noqa: N818 -- never leaves this module
    """What is wrong with a value, and the path to it, innermost step first."""

    def __init__(self, problem: str, *steps: str) -> None:
        super().__init__(problem)
        self.problem = problem
        self.steps = list(steps)

    def sentence(self, root: str) -> str:
        path = "".join(reversed(self.steps)).removeprefix(".")[:_LONGEST_PATH]
        return f"{path or root}{self.problem}"


@dataclasses.dataclass(frozen=True, slots=True)
class _Rules:
    """How strictly to parse. `most_entries` bounds each list or object; None: unbounded."""

    ignore_unknown: bool
    most_entries: int | None


_Reader = Callable[[Any, _Rules], Any]


def to_json(message: object) -> str:
    """Serialize to one line of JSON, keys in field order.

    Raises:
        ContractError: a float is NaN or infinite, which JSON cannot express.
    """
    return json.dumps(encode(message), allow_nan=False, separators=(",", ":"), ensure_ascii=False)


def sha256_of(message: object) -> str:
    """Return the SHA-256 of the message's JSON, in hexadecimal.

    Raises:
        ContractError: a float is NaN or infinite.
    """
    return hashlib.sha256(to_json(message).encode()).hexdigest()


def from_json(cls: type[T], text: str | bytes, *, ignore_unknown: bool) -> T:
    """Parse `text` as `cls`.

    `ignore_unknown` is for readers that must understand newer writers (status messages): unknown keys are ignored, and
    an unknown enum member becomes None where None is allowed. A run config rejects both, since an option that the
    trainer does not know must not be silently dropped.

    Raises:
        ContractError: not JSON, or does not match the schema.
    """
    return _decoded(cls, _parsed(text), _Rules(ignore_unknown, None))


def from_untrusted_json(cls: type[T], text: str | bytes, *, longest: int) -> T:
    """Parse an untrusted message in bounded time and memory. Unknown keys are ignored.

    Args:
        cls: the dataclass.
        text: the JSON, in bytes or characters.
        longest: maximum length, in bytes or characters.

    Raises:
        ContractError: too long, not JSON, does not match the schema, or a list or object has more than MOST_ENTRIES.
    """
    if len(text) > longest:
        raise ContractError(f"the message is longer than {longest}")
    return _decoded(cls, _parsed(text), _Rules(ignore_unknown=True, most_entries=MOST_ENTRIES))


def encode(value: Any) -> Any:
    """Convert `value` to plain JSON data; None fields are omitted."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        pairs = ((key, getattr(value, name)) for name, key in _keys(type(value)).items())
        return {key: encode(item) for key, item in pairs if item is not None}
    if isinstance(value, Enum):
        return value.value
    if isinstance(value, Mapping):
        return {key: encode(item) for key, item in value.items()}
    if isinstance(value, tuple | list):
        return [encode(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ContractError(f"JSON cannot represent {value}")
    return value


def decode(cls: type[T], data: Any, *, ignore_unknown: bool) -> T:
    """Convert plain JSON data to the dataclass `cls`.

    Raises:
        ContractError: a key is missing, unknown (unless ignored) or of the wrong type.
    """
    return _decoded(cls, data, _Rules(ignore_unknown, None))


def camel(name: str) -> str:
    """Convert `max_length` to `maxLength`."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _parsed(text: str | bytes) -> Any:
    try:
        return json.loads(text, parse_int=_integer)
    except (ValueError, RecursionError) as error:  # the parser itself limits nesting
        raise ContractError(f"not valid JSON: {error}") from error


def _integer(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number has {len(digits):,} digits, more than {MOST_DIGITS}")
    return int(digits)


def _decoded(cls: type[T], data: Any, rules: _Rules) -> T:
    try:
        message: T = _reader(typing.cast(Any, cls))(data, rules)
    except _Misfit as misfit:
        raise ContractError(misfit.sentence(cls.__name__)) from None
    return message


@functools.cache
def _keys(cls: type) -> Mapping[str, str]:
    return {field.name: camel(field.name) for field in dataclasses.fields(cls)}


def _optional(hint: Any) -> bool:
    return isinstance(hint, types.UnionType) and types.NoneType in hint.__args__


@functools.cache
def _reader(hint: Any) -> _Reader:
    """Return the reader of a type, built once: evaluating type hints takes longer than reading a message."""
    may_be_none = _optional(hint)
    if may_be_none:
        (hint,) = (arm for arm in hint.__args__ if arm is not types.NoneType)
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return _object_reader(hint)
    origin = typing.get_origin(hint)
    if origin in (tuple, Mapping):
        return _items_reader(origin, hint.__args__)
    if isinstance(hint, type) and issubclass(hint, Enum):
        return _member_reader(hint, may_be_none=may_be_none)
    if hint is float:
        return _finite
    return lambda data, _: data if hint is Any else _expect(hint, data)


def _object_reader(cls: type) -> _Reader:
    hints, keys = typing.get_type_hints(cls), _keys(cls)
    missing = dataclasses.MISSING
    needed = {f.name for f in dataclasses.fields(cls) if f.default is missing and f.default_factory is missing}
    readers = [(name, key, _reader(hints[name]), name in needed, _optional(hints[name])) for name, key in keys.items()]
    known = frozenset(keys.values())

    def read(data: Any, rules: _Rules) -> Any:
        if not isinstance(data, dict):
            raise _Misfit(f" must be an object, not {_shown(data)}")
        if not rules.ignore_unknown and (unknown := sorted(data.keys() - known)):
            raise _Misfit(f" is unknown; known keys: {', '.join(keys.values())}", f".{unknown[0]}")
        values = {}
        for name, key, reader, is_needed, is_optional in readers:
            if (value := data.get(key)) is not None:
                values[name] = _inner(reader, value, rules, f".{key}")
            elif is_needed and not is_optional:
                raise _Misfit(" is missing", f".{key}")
            elif is_needed:
                values[name] = None
        return cls(**values)

    return read


def _items_reader(origin: Any, arguments: tuple[Any, ...]) -> _Reader:
    if origin is tuple:
        reader = _reader(arguments[0])
        return lambda data, rules: tuple(
            _inner(reader, item, rules, f"[{i}]") for i, item in enumerate(_bounded(_expect(list, data), rules))
        )
    reader = _reader(arguments[1])
    return lambda data, rules: {
        key: _inner(reader, item, rules, f".{key}") for key, item in _bounded(_expect(dict, data), rules).items()
    }


def _inner(reader: _Reader, data: Any, rules: _Rules, step: str) -> Any:
    try:
        return reader(data, rules)
    except _Misfit as misfit:
        misfit.steps.append(step)
        raise


def _bounded(data: Any, rules: _Rules) -> Any:
    if rules.most_entries is not None and len(data) > rules.most_entries:
        raise _Misfit(f" must have at most {rules.most_entries} entries, not {len(data):,}")
    return data


def _member_reader(enum: type[Enum], *, may_be_none: bool) -> _Reader:
    """Read an enum member. One that only a newer writer knows becomes None where None is allowed."""
    members = {member.value: member for member in enum}

    def read(data: Any, rules: _Rules) -> Enum | None:
        if may_be_none and rules.ignore_unknown and isinstance(data, str) and data not in members:
            return None
        if isinstance(data, str | int) and not isinstance(data, bool) and data in members:
            return members[data]
        raise _Misfit(f" must be one of {', '.join(map(str, members))}, not {_shown(data)}")

    return read


def _finite(data: Any, _: _Rules) -> float:
    try:
        number = float(data) if isinstance(data, int | float) and not isinstance(data, bool) else math.nan
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise _Misfit(f" must be a finite number, not {_shown(data)}")
    return number


def _expect(kind: type, data: Any) -> Any:
    if not isinstance(data, kind) or (isinstance(data, bool) and kind is not bool):
        raise _Misfit(f" must be of type {kind.__name__}, not {_shown(data)}")
    return data


def _shown(data: Any) -> str:
    """Shorten `data` to a few characters, regardless of depth and length."""
    if isinstance(data, dict | list):
        text = _REPR.repr(data)
    else:
        text = repr(data[: _MOST_SHOWN + 1] if isinstance(data, str) else data)
    return text if len(text) <= _MOST_SHOWN else text[: _MOST_SHOWN - 3] + "..."
