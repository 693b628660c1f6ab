"""Times in messages and statuses: RFC 3339."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

FIRST_YEAR: Final = 1970
LAST_YEAR: Final = 2999
"""Bounds of accepted times, so that no deadline computed from one leaves the calendar."""
_LONGEST: Final = 64
_FORM: Final = re.compile(
    "([0-9]{4}-[0-9]{2}-[0-9]{2})[Tt ]([0-9]{2}:[0-9]{2}):([0-9]{2})([.][0-9]+)?([Zz]|[+-][0-9]{2}:[0-9]{2})"
)
_LEAP_SECOND: Final = "60"


def parse_time(text: str) -> datetime:
    """Parse `text` to a time in UTC. A leap second counts as the second before it.

    https://www.rfc-editor.org/rfc/rfc3339#section-5.6

    Raises:
        ValueError: not RFC 3339 with an offset from UTC, no valid time, or a year out of bounds.
    """
    found = _FORM.fullmatch(text) if len(text) <= _LONGEST else None
    if found is None:
        raise ValueError(f"{text[:_LONGEST]!r} is not a time with an offset from UTC: write it as 2026-01-31T23:59:59Z")
    day, minute, second, fraction, offset = found.groups()
    whole = f"{day}T{minute}:{'59' if second == _LEAP_SECOND else second}{offset.upper()}"
    try:
        moment = datetime.fromisoformat(whole).astimezone(UTC)
    except (ValueError, OverflowError) as error:
        raise ValueError(f"{text!r} is not a valid time: {error}") from None
    if not FIRST_YEAR <= moment.year <= LAST_YEAR:
        raise ValueError(f"{text!r} is not between the years {FIRST_YEAR} and {LAST_YEAR}")
    return moment + timedelta(seconds=float(f"0{fraction or ''}"))


def rfc3339(moment: datetime) -> str:
    """Format as `2026-01-31T23:59:59Z`: in UTC, whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
