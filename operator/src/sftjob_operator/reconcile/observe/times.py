"""Times and durations of statuses. Times use sftjob_contract.times."""

from datetime import datetime
from typing import Final

from sftjob_contract.times import parse_time, rfc3339

__all__ = ["clamped", "duration", "known_time", "parse_time", "rfc3339", "seconds_since"]

_EARLIEST_YEAR: Final = 2000
"""A container that never started has its runtime's zero time, 0001-01-01 or 1970-01-01, as its start time."""


def known_time(text: str | None) -> str | None:
    """Convert a time from a node or an image to UTC; None if it is invalid, or a runtime's zero time."""
    try:
        moment = parse_time(text or "")
    except ValueError:
        return None
    return rfc3339(moment) if moment.year >= _EARLIEST_YEAR else None


def clamped(moment: datetime, earliest: datetime, latest: datetime) -> datetime:
    """Clamp `moment` to a range; `latest` takes precedence over `earliest`."""
    return min(max(moment, earliest), latest)


def seconds_since(text: str, now: datetime) -> float:
    """Return the seconds from the time `text` until `now`."""
    return (now - parse_time(text)).total_seconds()


def duration(seconds: int) -> str:
    """Format with at most two units, for people: 45s, 3m12s, 2h05m, 3d4h."""
    minutes, rest = divmod(max(0, seconds), 60)
    if minutes == 0:
        return f"{rest}s"
    hours, minutes = divmod(minutes, 60)
    if hours == 0:
        return f"{minutes}m{rest:02}s"
    days, hours = divmod(hours, 24)
    return f"{hours}h{minutes:02}m" if days == 0 else f"{days}d{hours}h"
