"""The values of `format` that the API server checks in texts of custom resources; it ignores every other format."""

import base64
import binascii
import ipaddress
import re
from collections.abc import Callable, Mapping
from datetime import date
from email.utils import parseaddr
from typing import Final
from urllib.parse import urlsplit

NOT_EMULATED: Final = frozenset({"isbn", "isbn10", "isbn13", "creditcard", "rgbcolor"})
"""Formats that a real server checks and this one does not know."""

_UUID: Final = "(?i)[0-9a-f]{8}-?[0-9a-f]{4}-?%s-?%s-?[0-9a-f]{12}"
_HEX4: Final = "[0-9a-f]{4}"
_VARIANT: Final = "[89ab][0-9a-f]{3}"
_GO_DURATION: Final = r"[-+]?(0|([0-9]+(\.[0-9]*)?|\.[0-9]+)(ns|us|\u00b5s|\u03bcs|ms|s|m|h))+"
_WORDED_DURATION: Final = (
    r"(?i)(\d+)\s*(ns|nanos?|nanoseconds?|us|\u00b5s|micros?|microseconds?|ms|millis?|milliseconds?"
    r"|s|secs?|seconds?|m|mins?|minutes?|h|hrs?|hours?|d|days?|w|wks?|weeks?)"
)


def _matching(pattern: str) -> Callable[[str], bool]:
    compiled = re.compile(pattern, re.ASCII)
    return lambda text: compiled.fullmatch(text) is not None


def _date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII) is not None


def _date_time(text: str) -> bool:
    day, _, time = text.lower().partition("t")
    found = re.fullmatch(r"([0-9]{2}):([0-9]{2}):([0-9]{2})(.[0-9]+)?(z|[+-][0-9]{2}:[0-9]{2})", time)
    return bool(found and _date(day) and found[1] <= "23" and found[2] <= "59" and found[3] <= "59")


def _duration(text: str) -> bool:
    return bool(re.fullmatch(_GO_DURATION, text) or re.search(_WORDED_DURATION, text))


def _uri(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:
        return False
    return bool(parts.scheme) and not re.search(r"[\x00-\x20\x7f]", text)


def _ip(version: int) -> Callable[[str], bool]:
    def check(text: str) -> bool:
        try:
            return ipaddress.ip_address(text).version == version
        except ValueError:
            return False

    return check


def _cidr(text: str) -> bool:
    try:
        ipaddress.ip_interface(text)
    except ValueError:
        return False
    return "/" in text


def _byte(text: str) -> bool:
    try:
        return bool(text) and base64.b64decode(text, validate=True) is not None
    except binascii.Error:
        return False


def _hostname(text: str) -> bool:
    label = r"[a-zA-Z0-9]([-a-zA-Z0-9]{0,61}[a-zA-Z0-9])?"
    return len(text) <= 255 and re.fullmatch(rf"{label}(\.{label})*", text) is not None


def _email(text: str) -> bool:
    return "@" in parseaddr(text)[1]


FORMATS: Final[Mapping[str, Callable[[str], bool]]] = {
    "datetime": _date_time,
    "date": _date,
    "duration": _duration,
    "uri": _uri,
    "email": _email,
    "hostname": _hostname,
    "ipv4": _ip(4),
    "ipv6": _ip(6),
    "cidr": _cidr,
    "mac": _matching(r"([0-9a-fA-F]{2}([:-])[0-9a-fA-F]{2}(\2[0-9a-fA-F]{2}){4})|([0-9a-fA-F]{4}\.){2}[0-9a-fA-F]{4}"),
    "uuid": _matching(_UUID % (_HEX4, _HEX4)),
    "uuid3": _matching(_UUID % ("3[0-9a-f]{3}", _HEX4)),
    "uuid4": _matching(_UUID % ("4[0-9a-f]{3}", _VARIANT)),
    "uuid5": _matching(_UUID % ("5[0-9a-f]{3}", _VARIANT)),
    "ssn": _matching(r"\d{3}[- ]?\d{2}[- ]?\d{4}"),
    "hexcolor": _matching("#?([0-9a-fA-F]{3}|[0-9a-fA-F]{6})"),
    "bsonobjectid": _matching("[0-9a-fA-F]{24}"),
    "byte": _byte,
    "password": lambda text: True,  # noqa: ARG005 -- any text
}


def normalized(name: str) -> str:
    """`date-time` and `datetime` are the same format."""
    return name.replace("-", "")
