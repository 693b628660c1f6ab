"""How long ago, as `kubectl get` says it."""

from datetime import datetime

from sftjob_sandbox.objects import parse_timestamp

_MINUTE, _HOUR, _DAY, _YEAR = 60, 3600, 86400, 31536000


def human_duration(seconds: float) -> str:
    """`5s`, `3m20s`, `2d4h`: the rules of k8s.io/apimachinery/pkg/util/duration.HumanDuration."""
    whole = int(seconds)
    if whole < -1:
        return "<invalid>"
    if whole < 2 * _MINUTE:
        return f"{max(whole, 0)}s"
    for limit, unit, letter, rest, rest_letter in (
        (10 * _MINUTE, _MINUTE, "m", 1, "s"),
        (3 * _HOUR, _MINUTE, "m", 0, ""),
        (8 * _HOUR, _HOUR, "h", _MINUTE, "m"),
        (2 * _DAY, _HOUR, "h", 0, ""),
        (8 * _DAY, _DAY, "d", _HOUR, "h"),
        (2 * _YEAR, _DAY, "d", 0, ""),
        (8 * _YEAR, _YEAR, "y", _DAY, "d"),
    ):
        if whole < limit:
            more = whole % unit // rest if rest else 0
            return f"{whole // unit}{letter}" + (f"{more}{rest_letter}" if more else "")
    return f"{whole // _YEAR}y"


def age(timestamp: str | None, now: datetime) -> str:
    """Time since a timestamp; `<unknown>` where there is none."""
    if not timestamp:
        return "<unknown>"
    return human_duration((now - parse_timestamp(timestamp)).total_seconds())
