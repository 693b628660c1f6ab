"""Times and durations of statuses. Moments are those of sftjob_contract.times."""

from datetime import datetime
from typing import Final

from sftjob_contract.times import parse_time, rfc3339

__all__ = ["clamped", "duration", "known_time", "parse_time", "rfc3339", "seconds_since"]

_EARLIEST_YEAR: Final = 2000
"""A container that never started has the zero time of its runtime, 0001-01-01 or 1970-01-01, where a start would be."""


def known_time(text: str | None) -> str | None:
    """A time that a node or an image wrote, in UTC; None if it is invalid, or the zero time of a runtime."""
    try:
        moment = parse_time(text or "")
    except ValueError:
        return None
    return rfc3339(moment) if moment.year >= _EARLIEST_YEAR else None


def clamped(moment: datetime, earliest: datetime, latest: datetime) -> datetime:
    """`moment`, or the end of the range that it is outside of; `latest` wins over `earliest`."""
    return min(max(moment, earliest), latest)


def seconds_since(text: str, now: datetime) -> float:
    """Seconds from the moment `text` until `now`."""
    return (now - parse_time(text)).total_seconds()


def duration(seconds: int) -> str:
    """Two units at most, for people: 45s, 3m12s, 2h05m, 3d4h."""
    minutes, rest = divmod(max(0, seconds), 60)
    if minutes == 0:
        return f"{rest}s"
    hours, minutes = divmod(minutes, 60)
    if hours == 0:
        return f"{minutes}m{rest:02}s"
    days, hours = divmod(hours, 24)
    return f"{hours}h{minutes:02}m" if days == 0 else f"{days}d{hours}h"
