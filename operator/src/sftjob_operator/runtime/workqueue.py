"""A de-duplicating queue of keys: no key is processed twice at once, and no wake-up is lost."""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final, Protocol

Key = tuple[str, str]

FIRST_RETRY_SECONDS: Final = 1.0
LONGEST_RETRY_SECONDS: Final = 300.0


class Timer(Protocol):
    """Something scheduled that can be cancelled."""

    def cancel(self) -> None:
        """Cancel it."""


class Clock(Protocol):
    """The time; injected, so that tests need not wait."""

    def now(self) -> datetime:
        """The wall clock, with a time zone."""

    def monotonic(self) -> float:
        """Seconds that never go backwards."""

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """Call `callback` after this delay."""


class SystemClock:
    """The real time, on the running event loop."""

    def now(self) -> datetime:
        """See Clock."""
        return datetime.now(UTC)

    def monotonic(self) -> float:
        """See Clock."""
        return asyncio.get_running_loop().time()

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        """See Clock."""
        return asyncio.get_running_loop().call_later(seconds, callback)


@dataclass(slots=True)
class _Failures:
    """How often work on the job of this UID failed, when it is retried (monotonic), and what went wrong since."""

    uid: str
    count: int = 0
    due: float = 0.0
    causes: set[str] = field(default_factory=set)


class WorkQueue:
    """Keys in the order in which they were first added; the worker that gets one must call `done`.

    A key that is added while it is being processed is queued again afterwards. Each key has one timer, for the earliest
    time requested since work on the key last began: that work has seen what older timers were set for.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: deque[Key] = deque()
        self._queued: set[Key] = set()
        self._working: set[Key] = set()
        self._timers: dict[Key, tuple[float, Timer]] = {}
        self._failures: dict[Key, _Failures] = {}
        self._wakeup = asyncio.Event()

    def __len__(self) -> int:
        return len(self._waiting)

    def add(self, key: Key) -> None:
        """Process `key` as soon as a worker is free."""
        if key in self._queued:
            return
        self._queued.add(key)
        if key not in self._working:
            self._offer(key)

    def add_after(self, key: Key, seconds: float) -> None:
        """Process `key` after this delay at the latest."""
        if seconds <= 0:
            self.add(key)
            return
        due = self._clock.monotonic() + seconds
        if key in self._timers and self._timers[key][0] <= due:
            return
        self._call_off(key)
        self._timers[key] = (due, self._clock.call_later(seconds, lambda: self._due(key)))

    def retry(self, key: Key, uid: str, cause: str, at_least_seconds: float = 0) -> float | None:
        """Process `key`, whose job has this UID, again after a wait that doubles each time.

        Work that an event triggered early and that fails again does not change the wait.

        Returns:
            The wait in seconds, or None if this cause was already returned for this wait.
        """
        now = self._clock.monotonic()
        known = self._failures.get(key)
        if known is None or known.uid != uid:
            known = _Failures(uid)
        if now >= known.due:
            wait = min(FIRST_RETRY_SECONDS * 2.0 ** min(known.count, 32), LONGEST_RETRY_SECONDS)
            known = _Failures(uid, known.count + 1, now + wait)
        known.due = max(known.due, now + at_least_seconds)
        self._failures[key] = known
        self.add_after(key, known.due - now)
        if cause in known.causes:
            return None
        known.causes.add(cause)
        return known.due - now

    def has_failed(self, key: Key, uid: str) -> bool:
        """Whether the last work on `key`, with the job of this UID, failed."""
        return key in self._failures and self._failures[key].uid == uid

    def succeeded(self, key: Key) -> None:
        """Reset the wait before the next retry of `key` to the shortest."""
        self._failures.pop(key, None)

    def forget(self, key: Key) -> None:
        """Drop all pending work on `key`, unless it is added again."""
        self._call_off(key)
        self._failures.pop(key, None)

    async def get(self) -> Key:
        """Return the next key, exclusively until `done`."""
        while not self._waiting:
            self._wakeup.clear()
            await self._wakeup.wait()
        key = self._waiting.popleft()
        self._queued.discard(key)
        self._working.add(key)
        self._call_off(key)
        return key

    def done(self, key: Key) -> None:
        """Finish work on `key`; if it was added meanwhile, it is queued again."""
        self._working.discard(key)
        if key in self._queued:
            self._offer(key)

    def _offer(self, key: Key) -> None:
        self._waiting.append(key)
        self._wakeup.set()

    def _due(self, key: Key) -> None:
        self._timers.pop(key, None)
        self.add(key)

    def _call_off(self, key: Key) -> None:
        _, timer = self._timers.pop(key, (0.0, None))
        if timer is not None:
            timer.cancel()
