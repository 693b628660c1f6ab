"""When a status write that can wait may be made."""

from collections.abc import Callable, Container
from dataclasses import dataclass

Uid = str
"""Uid of an SFTJob: a job that is created again under a name has a pace of its own."""


@dataclass(frozen=True, slots=True)
class _Pace:
    written: float | None
    wanted: float | None


class WritePace:
    """Spaces out status writes that can wait: one per job and interval at most.

    A write also waits a moment after it was first wanted, so that changes which come in a burst share one request.
    Times are seconds of a monotonic clock.
    """

    def __init__(self, interval_seconds: float, settle_seconds: float, monotonic: Callable[[], float]) -> None:
        self._interval = interval_seconds
        self._settle = min(settle_seconds, interval_seconds)
        self._monotonic = monotonic
        self._paces: dict[Uid, _Pace] = {}

    def seconds_until_allowed(self, uid: Uid) -> float:
        """0 if a write that is wanted now may be made now, else the wait."""
        now = self._monotonic()
        pace = self._paces.get(uid, _Pace(None, None))
        wanted = now if pace.wanted is None else pace.wanted
        self._paces[uid] = _Pace(pace.written, wanted)
        earliest = wanted + self._settle
        if pace.written is not None:
            earliest = max(earliest, pace.written + self._interval)
        return max(0.0, earliest - now)

    def written(self, uid: Uid) -> None:
        """A write was made, of whatever kind."""
        self._paces[uid] = _Pace(self._monotonic(), None)

    def forget(self, uid: Uid) -> None:
        """The job has ended or is gone."""
        self._paces.pop(uid, None)

    def keep_only(self, uids: Container[Uid]) -> None:
        """Forget all other jobs."""
        self._paces = {uid: pace for uid, pace in self._paces.items() if uid in uids}
