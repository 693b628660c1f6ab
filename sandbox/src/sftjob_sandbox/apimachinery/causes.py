"""Field errors, worded as apimachinery's `field.Error` words them.

Each function returns the Cause that goes into `Status.details.causes`; the text shows values as Go prints them.
"""

import json
from collections.abc import Iterable
from decimal import Decimal
from json.encoder import encode_basestring
from typing import Any, Final

from sftjob_sandbox.apimachinery.errors import Cause

OMITTED: Final = object()
"""Given as the value of an error, nothing is shown."""

_HTML_ESCAPES: Final = {ord(character): f"\\u{ord(character):04x}" for character in "<>&\u2028\u2029"}
_ESCAPES: Final = {"\a": "\\a", "\b": "\\b", "\f": "\\f", "\n": "\\n", "\r": "\\r", "\t": "\\t", "\v": "\\v"}


class GoText(str):
    """A value written as Go prints it already."""

    __slots__ = ()


def quoted(text: str) -> str:
    """`text` as Go's `%q` prints it."""
    out = []
    for character in text:
        code = ord(character)
        if character in '"\\':
            out.append("\\" + character)
        elif character in _ESCAPES:
            out.append(_ESCAPES[character])
        elif character.isprintable():
            out.append(character)
        elif code < 0x80:
            out.append(f"\\x{code:02x}")
        else:
            out.append(f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}")
    return '"' + "".join(out) + '"'


def number(value: float) -> str:
    """`value` as Go's `%v` prints an int64 or a float64: exponents below -4 and from 6 on."""
    if isinstance(value, int):
        return str(value)
    return _float(value, largest_plain_power=5, exponent_digits=2, smallest_plain_power=-4)


def _float(value: float, *, largest_plain_power: int, exponent_digits: int, smallest_plain_power: int) -> str:
    sign, digits, exponent = Decimal(repr(value)).normalize().as_tuple()
    if not isinstance(exponent, int):
        return {"inf": "+Inf", "-inf": "-Inf"}.get(str(value), "NaN")
    text = "".join(map(str, digits))
    power = len(text) - 1 + exponent
    minus = "-" if sign else ""
    if text == "0":
        return minus + "0"
    if smallest_plain_power <= power <= largest_plain_power:
        return f"{minus}{Decimal((0, digits, exponent)):f}"
    fraction = f".{text[1:]}" if len(text) > 1 else ""
    return f"{minus}{text[0]}{fraction}e{'-' if power < 0 else '+'}{abs(power):0{exponent_digits}d}"


def go_syntax(value: Any) -> str:
    """`value` as Go's `%#v` prints decoded JSON: `map[string]interface {}{"a":1}`."""
    if isinstance(value, dict):
        entries = (f"{quoted(key)}:{go_syntax(value[key])}" for key in sorted(value))
        return "map[string]interface {}{" + ", ".join(entries) + "}"
    if isinstance(value, list | tuple):
        return "[]interface {}{" + ", ".join(map(go_syntax, value)) + "}"
    if isinstance(value, str):
        return quoted(value)
    if isinstance(value, bool):
        return str(value).lower()
    return "interface {}(nil)" if value is None else number(value)


def go_plain(value: Any) -> str:
    """`value` as Go's `%+v` prints decoded JSON: `map[a:1 b:[x y]]`."""
    if isinstance(value, dict):
        return "map[" + " ".join(f"{key}:{go_plain(value[key])}" for key in sorted(value)) + "]"
    if isinstance(value, list):
        return "[" + " ".join(map(go_plain, value)) + "]"
    if isinstance(value, bool):
        return str(value).lower()
    if value is None:
        return "<nil>"
    return value if isinstance(value, str) else number(value)


def as_json(value: Any) -> str:
    """`value` as Go's encoding/json prints it: no spaces, sorted keys, HTML characters escaped."""
    if isinstance(value, str):
        return encode_basestring(value).translate(_HTML_ESCAPES)
    if isinstance(value, dict):
        return "{" + ",".join(f"{as_json(str(key))}:{as_json(value[key])}" for key in sorted(value)) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(as_json(item) for item in value) + "]"
    if isinstance(value, float):
        return _float(value, largest_plain_power=20, exponent_digits=1, smallest_plain_power=-6)
    return json.dumps(value)


def shown(value: Any) -> str:
    """`value` as a field error shows it."""
    if isinstance(value, str):
        return value if isinstance(value, GoText) else quoted(value)
    if value is None:
        return '"null"'
    if isinstance(value, int | float) and not isinstance(value, bool):
        return number(value)
    return go_syntax(value)


def _cause(reason: str, title: str, field: str, value: Any, detail: str) -> Cause:
    body = title if value is OMITTED else f"{title}: {shown(value)}"
    return Cause(reason, field, f"{body}: {detail}" if detail else body)


def invalid(field: str, value: Any, detail: str) -> Cause:
    """A malformed value."""
    return _cause("FieldValueInvalid", "Invalid value", field, value, detail)


def type_invalid(field: str, value: Any, detail: str) -> Cause:
    """A value of the wrong type."""
    return _cause("FieldValueTypeInvalid", "Invalid value", field, value, detail)


def required(field: str, detail: str = "") -> Cause:
    """A value that must be given."""
    return _cause("FieldValueRequired", "Required value", field, OMITTED, detail)


def duplicate(field: str, value: Any) -> Cause:
    """A value that may be given only once."""
    return _cause("FieldValueDuplicate", "Duplicate value", field, value, "")


def not_found(field: str, value: Any) -> Cause:
    """A reference to something that is not there."""
    return _cause("FieldValueNotFound", "Not found", field, value, "")


def not_supported(field: str, value: Any, supported: Iterable[str]) -> Cause:
    """A value outside an enumeration."""
    choices = ", ".join(quoted(choice) for choice in supported)
    detail = f"supported values: {choices}" if choices else ""
    return _cause("FieldValueNotSupported", "Unsupported value", field, value, detail)


def forbidden(field: str, detail: str) -> Cause:
    """A value that is not allowed under these conditions."""
    return _cause("FieldValueForbidden", "Forbidden", field, OMITTED, detail)


def too_long(field: str, limit: int) -> Cause:
    """A text or blob of more than `limit` bytes."""
    detail = f"may not be more than {limit} bytes"
    return _cause("FieldValueTooLong", "Too long", field, OMITTED, detail)


def too_many(field: str, actual: int, limit: int) -> Cause:
    """A list or map of more than `limit` entries."""
    detail = f"must have at most {limit} items"
    return _cause("FieldValueTooMany", "Too many", field, actual, detail)
