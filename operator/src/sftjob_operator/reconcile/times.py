"""Times and durations of statuses. Moments are those of sftjob_contract.times."""

from datetime import datetime

from sftjob_contract.times import parse_time, rfc3339

__all__ = ["duration", "parse_time", "rfc3339", "seconds_since"]


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
