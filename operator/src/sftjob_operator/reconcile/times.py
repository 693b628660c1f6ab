"""Moments as Kubernetes writes them: RFC 3339 in UTC, whole seconds."""

from datetime import UTC, datetime


def rfc3339(moment: datetime) -> str:
    """`2026-01-31T23:59:59Z`."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_time(text: str) -> datetime:
    """The moment that `text` tells.

    Raises:
        ValueError: not RFC 3339 with an offset.
    """
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no offset from UTC: write it as 2026-01-31T23:59:59Z")
    return moment


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
