"""A user's Jinja text as a row template. It prints text and numbers, and nothing in Python-only notation."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from functools import wraps
from typing import Any, Final
from uuid import UUID

from jinja2 import StrictUndefined, TemplateError, TemplateSyntaxError, Undefined, nodes, pass_context
from jinja2.runtime import Context
from jinja2.sandbox import ImmutableSandboxedEnvironment

from sftjob_trainer.process.wording import type_name

_PRINTABLE: Final = (str, int, float, Decimal, date, time, timedelta, UUID)
"""Types whose Python text is the one that a person would write."""
_TEXT_FILTERS: Final = (
    "capitalize", "center", "e", "escape", "filesizeformat", "forceescape", "format", "indent", "lower", "replace",
    "safe", "string", "striptags", "title", "trim", "truncate", "upper", "urlencode", "urlize", "wordcount",
    "wordwrap", "xmlattr",
)  # fmt: skip
"""Jinja filters that convert any input to text; `join` does so for each element."""
_FILTERS_WITH_TEXT_ARGUMENTS: Final = ("format", "replace")
"""Those of them that also convert their arguments to text."""
_OPERAND: Final = "an operand of ~"
"""Name of the checking filter, which no template can spell."""


class NotPrintableError(Exception):
    """A template prints a value without a text form; the message says what to write instead."""

    def __init__(self, found: str, suggestion: str = "... | tojson", result: str = "its JSON") -> None:
        super().__init__(
            f"a value in {{{{ }}}} must be text or a number, not {found}; write {{{{ {suggestion} }}}} for {result}"
        )


class NullValue(Undefined):
    """A null or NaN of a row: missing for `is defined` and `default`, false in `if`, and an error where it is used."""

    __slots__ = ()

    def _fail_with_null(self, *_: Any, **__: Any) -> Any:
        raise NotPrintableError("null or NaN", f"{self._undefined_name or '...'} | tojson")

    __str__ = __repr__ = __len__ = __iter__ = _fail_with_null
    __add__ = __radd__ = __mod__ = __lt__ = __gt__ = __le__ = __ge__ = _fail_with_null

    def __bool__(self) -> bool:
        """Null is false."""
        return False

    def __eq__(self, other: object) -> bool:
        """Null is equal to `none`."""
        return other is None or isinstance(other, NullValue)

    def __ne__(self, other: object) -> bool:
        """The opposite of `__eq__`."""
        return not self == other

    def __hash__(self) -> int:
        """Equal values have equal hashes."""
        return hash(None)


def _without_text(base: type, found: str) -> type:
    """A subclass of `base` without a text form. It keeps its name, which Jinja's messages show."""

    def refuse(_: Any) -> str:
        raise NotPrintableError(found)

    return type(base.__name__, (base,), {"__str__": refuse, "__repr__": refuse, "__module__": base.__module__})


class _NoText:
    """A value inside a list or an object that has no text form; `_printable` or the value itself rejects it."""

    __slots__ = ("_value",)

    def __init__(self, value: Any) -> None:
        self._value = value

    def __str__(self) -> str:
        return str(_printable(self._value))

    __repr__ = __str__

    def __format__(self, _: str) -> str:
        return str(self)


class _Flag(int):
    """A truth value without Python's text for it, otherwise equal to the value."""

    __slots__ = ()

    def __str__(self) -> str:
        raise NotPrintableError(type_name(True))

    __repr__ = __str__

    def __format__(self, _: str) -> str:
        return str(self)


_List: Final = _without_text(list, type_name([]))
_Dict: Final = _without_text(dict, type_name({}))
_Tuple: Final = _without_text(tuple, type_name([]))


class _RowEnvironment(ImmutableSandboxedEnvironment):
    """Checks a value wherever Jinja converts it to text, so that nothing is printed in Python-only notation.

    These places are `{{ }}`, the operands of `~`, the text filters, and the values of `%` and `str.format`.
    """

    intercepted_binops = frozenset("%")

    def __init__(self) -> None:
        super().__init__(
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
            finalize=_printable,
        )
        self.filters.pop("pprint")  # prints Python notation
        for name in _TEXT_FILTERS:
            self.filters[name] = _text_filter(self.filters[name], with_arguments=name in _FILTERS_WITH_TEXT_ARGUMENTS)
        self.filters |= {"join": _join, "tojson": _to_json, _OPERAND: _printable}
        self.tests |= {
            "true": _is_true,
            "false": _is_false,
            "boolean": lambda value: _is_true(value) or _is_false(value),
            "none": lambda value: value is None or isinstance(value, NullValue),
        }

    def parse(self, source: str, name: str | None = None, filename: str | None = None) -> nodes.Template:
        """The syntax tree of `source`, with every operand of `~` checked."""
        tree = super().parse(source, name, filename)
        for joined in tree.find_all(nodes.Concat):
            joined.nodes = [nodes.Filter(node, _OPERAND, [], [], None, None) for node in joined.nodes]
        return tree

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """A `%`, which formats text if `left` is text."""
        if isinstance(left, str):
            right = tuple(map(_checked, right)) if isinstance(right, tuple) else _checked(right)
        return super().call_binop(context, operator, left, right)

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """The replacement for `value` if it is `str.format` or `str.format_map`."""
        wrapped = super().wrap_str_format(value)
        if wrapped is None:
            return None
        function = wrapped
        return lambda *args, **kwargs: function(*map(_checked, args), **_elements_checked(kwargs))


def compile_template(text: str) -> Any:
    """`text` as a `jinja2.Template` that can only access the row.

    As in chat templates, a tag removes its line end, and `tojson` does not escape characters. A missing value is an
    error, not an empty text.

    Raises:
        ValueError: it does not compile; the message gives the location.
    """
    try:
        environment = _RowEnvironment()
        return environment.from_string(environment.parse(text))
    except TemplateSyntaxError as error:
        raise ValueError(f"line {error.lineno}: {error.message}") from error
    except (TemplateError, RecursionError, NotPrintableError) as error:
        raise ValueError(str(error)) from error


def template_values(values: Mapping[str, Any]) -> dict[str, Any]:
    """The columns of a row as a template sees them: nulls are missing, lists and objects have no text form."""
    return {name: _template_value(value, name) for name, value in values.items()}


def _template_value(value: Any, name: str | None) -> Any:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return NullValue(f"{name or 'a value'} is null", name=name)
    if isinstance(value, bool):
        return _Flag(value)
    if isinstance(value, dict):
        return _Dict({key: _template_value(item, str(key)) for key, item in value.items()})
    return _List([_template_value(item, None) for item in value]) if isinstance(value, list) else value


def _checked(value: Any) -> Any:
    """A value to convert to text: one with a text form, or a list or object whose elements the format may access."""
    return _elements_checked(value) if isinstance(value, list | tuple | dict) else _printable(value)


def _elements_checked(value: Any) -> Any:
    """`value`, with everything that has no text form refusing to be printed, at any depth."""
    if isinstance(value, dict):
        return _Dict({key: _elements_checked(item) for key, item in value.items()})
    if isinstance(value, list | tuple):
        return (_List if isinstance(value, list) else _Tuple)(map(_elements_checked, value))
    try:
        return _NoText(value) if isinstance(value, Undefined) else _printable(value)
    except NotPrintableError:
        return _NoText(value)


def _text_filter(function: Callable[..., Any], *, with_arguments: bool) -> Callable[..., Any]:
    """The filter `function` for values with a text form, or for lists and objects that it takes apart."""
    first = 1 if hasattr(function, "jinja_pass_arg") else 0

    @wraps(function)
    def checked(*args: Any, **kwargs: Any) -> Any:
        value, *others = args[first:]
        if with_arguments:
            others, kwargs = list(map(_checked, others)), _elements_checked(kwargs)
        return function(*args[:first], _checked(value), *others, **kwargs)

    return checked


@pass_context
def _join(context: Context, value: Iterable[Any], d: Any = "", attribute: str | int | None = None) -> str:
    """Jinja's filter `join`, for elements with a text form."""
    if attribute is not None:
        value = context.environment.call_filter("map", value, kwargs={"attribute": attribute}, context=context)
    return str(_printable(d)).join(str(_printable(item)) for item in value)


def _printable(value: Any) -> Any:
    """The value that a template prints, if it has a text form.

    Raises:
        NotPrintableError: it has none.
    """
    if isinstance(value, Undefined):
        return value
    is_not_finite = isinstance(value, float) and not math.isfinite(value)
    if isinstance(value, bool | _Flag):
        raise NotPrintableError(type_name(True))
    if isinstance(value, _PRINTABLE) and not is_not_finite:
        return value
    if callable(value):
        raise NotPrintableError("a function", "...()", "what it returns")
    if isinstance(value, bytes):
        raise NotPrintableError("binary data", "....decode()", "its text")
    if isinstance(value, Iterable) and not isinstance(value, list | tuple | dict):
        raise NotPrintableError("a sequence", "... | list | tojson")
    raise NotPrintableError(type_name([] if isinstance(value, tuple) else value))


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(_json_value(value), ensure_ascii=False, indent=indent, default=_null)


def _json_value(value: Any) -> Any:
    """`value` in JSON types, with plain truth values."""
    if isinstance(value, _Flag):
        return bool(value)
    if isinstance(value, dict):
        return {key: _json_value(item) for key, item in value.items()}
    return [_json_value(item) for item in value] if isinstance(value, list | tuple) else value


def _is_true(value: Any) -> bool:
    return isinstance(value, bool | _Flag) and bool(value)


def _is_false(value: Any) -> bool:
    return isinstance(value, bool | _Flag) and not value


def _null(value: Any) -> None:
    if not isinstance(value, NullValue):
        raise TypeError(f"{type(value).__name__} has no JSON form")
