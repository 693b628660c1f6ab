"""A user's Jinja text as a template for rows. It prints text and numbers: nothing that only Python writes so."""

import json
import math
from collections.abc import Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sftjob_trainer.wording import type_name

_PRINTABLE: Final = (str, int, float, Decimal, date, time, timedelta, UUID)
"""Types whose text in Python is the one that a person would write."""


class NotPrintableError(Exception):
    """A template prints a value that is no text; the message says what to write instead."""

    def __init__(self, found: str, name: str = "...") -> None:
        super().__init__(
            f"a value in {{{{ }}}} must be text or a number, not {found}; write {{{{ {name} | tojson }}}} for its JSON"
        )


class Missing(Undefined):
    """A null or NaN of a row: missing for `is defined` and `default`, false in `if`, and an error where it is used."""

    __slots__ = ()

    def _fail_with_null(self, *_: Any, **__: Any) -> Any:
        raise NotPrintableError("null or NaN", self._undefined_name or "...")

    __str__ = __len__ = __iter__ = _fail_with_null
    __add__ = __radd__ = __mod__ = __lt__ = __gt__ = __le__ = __ge__ = _fail_with_null

    def __bool__(self) -> bool:
        """Null is false."""
        return False

    def __eq__(self, other: object) -> bool:
        """Null is equal to `none`."""
        return other is None or isinstance(other, Missing)

    def __ne__(self, other: object) -> bool:
        """The contrary of equal."""
        return not self == other

    def __hash__(self) -> int:
        """As equal ones must have."""
        return hash(None)


def _without_text(base: type) -> type:
    """A subclass of `base` that filters and `~` cannot print. It keeps its name, which Jinja's messages show."""

    def refuse(_: Any) -> str:
        raise NotPrintableError(type_name(base()))

    return type(base.__name__, (base,), {"__str__": refuse, "__module__": base.__module__})


class _Flag(int):
    """A truth value that filters and `~` cannot print as Python writes it; else it is that value."""

    __slots__ = ()

    def __str__(self) -> str:
        raise NotPrintableError(type_name(True))

    __repr__ = __str__


_List: Final = _without_text(list)
_Dict: Final = _without_text(dict)


def compile_template(text: str) -> Any:
    """`text` as a `jinja2.Template` that reaches nothing but the row.

    As in chat templates, a tag takes its line's end with it and `tojson` leaves characters as they are. What is not
    there is an error, not an empty text.

    Raises:
        ValueError: it does not compile; the text says where.
    """
    environment = ImmutableSandboxedEnvironment(
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True, keep_trailing_newline=True, finalize=_printed
    )
    environment.filters["tojson"] = _to_json
    environment.filters.pop("pprint")  # writes as Python does
    environment.tests |= {
        "true": _is_true,
        "false": _is_false,
        "boolean": lambda value: _is_true(value) or _is_false(value),
    }
    environment.tests["none"] = lambda value: value is None or isinstance(value, Missing)
    try:
        return environment.from_string(text)
    except TemplateSyntaxError as error:
        raise ValueError(f"line {error.lineno}: {error.message}") from error
    except (TemplateError, RecursionError, NotPrintableError) as error:
        raise ValueError(str(error)) from error


def template_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a row as a template sees them: nulls are missing, lists and objects have no text."""
    return {name: _seen(value, name) for name, value in values.items()}


def _seen(value: Any, name: str | None) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return Missing(f"{name or 'a value'} is null", name=name)
    if isinstance(value, bool):
        return _Flag(value)
    if isinstance(value, dict):
        return _Dict({key: _seen(item, str(key)) for key, item in value.items()})
    return _List([_seen(item, None) for item in value]) if isinstance(value, list) else value


def _printed(value: Any) -> Any:
    """What a template prints: `value` itself, if that has a text.

    Raises:
        NotPrintableError: it has none.
    """
    if isinstance(value, Undefined):
        return value
    is_no_number = isinstance(value, float) and not math.isfinite(value)
    if isinstance(value, bool | _Flag):
        raise NotPrintableError(type_name(True))
    if is_no_number or not isinstance(value, _PRINTABLE):
        raise NotPrintableError(type_name(value))
    return value


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(_plain(value), ensure_ascii=False, indent=indent, default=_null)


def _plain(value: Any) -> Any:
    """`value` as JSON has it: truth values as such."""
    if isinstance(value, _Flag):
        return bool(value)
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _is_true(value: Any) -> bool:
    return isinstance(value, bool | _Flag) and bool(value)


def _is_false(value: Any) -> bool:
    return isinstance(value, bool | _Flag) and not value


def _null(value: Any) -> None:
    if not isinstance(value, Missing):
        raise TypeError(f"{type(value).__name__} has no form in JSON")
