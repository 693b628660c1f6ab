"""Pacing of status writes that can wait."""

from collections.abc import Callable, Container

Uid = str
"""UID of an SFTJob: a job that is recreated under the same name has its own pace."""


class WriteRateLimiter:
    """Space out status writes that can wait: at most one per job and interval, and a bounded number of all jobs.

    A write also waits briefly after it was first requested, so that changes in a burst share one request. If more jobs
    request one than `most_per_second` allows in an interval, the interval grows with their number. Times are seconds of
    a monotonic clock.
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
        """When a write may be made, for the jobs that request one."""

    def __len__(self) -> int:
        """Jobs with any recorded time."""
        return len(self._written.keys() | self._due.keys())

    def seconds_until_allowed(self, uid: Uid) -> float:
        """Return 0 if a requested write may be made now, else the wait."""
        now = self._monotonic()
        if (due := self._due.get(uid)) is None:
            self._due[uid] = now
            due = now + self._settle
            if (written := self._written.get(uid)) is not None:
                due = max(due, written + max(self._interval, len(self._due) / self._most_per_second))
            self._due[uid] = due
        return max(0.0, due - now)

    def written(self, uid: Uid) -> None:
        """Record a write of any kind."""
        self._written[uid] = self._monotonic()
        self._due.pop(uid, None)

    def unwanted(self, uid: Uid) -> None:
        """Record that the stored status is current."""
        self._due.pop(uid, None)

    def forget(self, uid: Uid) -> None:
        """Forget a job that has ended or no longer exists."""
        self._written.pop(uid, None)
        self._due.pop(uid, None)

    def keep_only(self, uids: Container[Uid]) -> None:
        """Forget all other jobs."""
        self._written = {uid: time for uid, time in self._written.items() if uid in uids}
        self._due = {uid: time for uid, time in self._due.items() if uid in uids}
