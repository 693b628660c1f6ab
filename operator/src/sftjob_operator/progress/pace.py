"""When a status write that can wait may be made."""

from collections.abc import Callable, Container

Uid = str
"""Uid of an SFTJob: a job that is created again under a name has a pace of its own."""


class WritePace:
    """Spaces out status writes that can wait: one per job and interval at most, and a bounded number of all jobs.

    A write also waits a moment after it was first wanted, so that changes which come in a burst share one request.
    Where more jobs want one than `most_per_second` allows in an interval, the interval grows with their number.
    Times are seconds of a monotonic clock.
    """

    def __init__(
        self, interval_seconds: float, settle_seconds: float, most_per_second: float, monotonic: Callable[[], float]
    ) -> None:
        self._interval = interval_seconds
        self._settle = min(settle_seconds, interval_seconds)
        self._most_per_second = most_per_second
        self._monotonic = monotonic
        self._written: dict[Uid, float] = {}
        """When the status of a job was last written."""
        self._due: dict[Uid, float] = {}
        """When a write may be made, of the jobs that want one."""

    def __len__(self) -> int:
        """Jobs that something is remembered of."""
        return len(self._written.keys() | self._due.keys())

    def seconds_until_allowed(self, uid: Uid) -> float:
        """0 if a write that is wanted now may be made now, else the wait."""
        now = self._monotonic()
        if (due := self._due.get(uid)) is None:
            self._due[uid] = now
            due = now + self._settle
            if (written := self._written.get(uid)) is not None:
                due = max(due, written + max(self._interval, len(self._due) / self._most_per_second))
            self._due[uid] = due
        return max(0.0, due - now)

    def written(self, uid: Uid) -> None:
        """A write was made, of whatever kind."""
        self._written[uid] = self._monotonic()
        self._due.pop(uid, None)

    def unwanted(self, uid: Uid) -> None:
        """The stored status is as it should be."""
        self._due.pop(uid, None)

    def forget(self, uid: Uid) -> None:
        """The job has ended or is gone."""
        self._written.pop(uid, None)
        self._due.pop(uid, None)

    def keep_only(self, uids: Container[Uid]) -> None:
        """Forget all other jobs."""
        self._written = {uid: time for uid, time in self._written.items() if uid in uids}
        self._due = {uid: time for uid, time in self._due.items() if uid in uids}
