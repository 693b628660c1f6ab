"""Waiting: exponential backoff, and waking up those who wait."""

import asyncio
import contextlib


class Backoff:
    """Waits that double from `first_seconds` up to `max_seconds`; `start_seconds` may come before the first."""

    def __init__(self, first_seconds: float, max_seconds: float, start_seconds: float | None = None) -> None:
        self._first = first_seconds
        self._max = max_seconds
        self._start = first_seconds if start_seconds is None else start_seconds
        self._next = self._start

    def take(self) -> float:
        """Seconds to wait now."""
        seconds, self._next = self._next, min(self._next * 2 or self._first, self._max)
        return seconds

    def reset(self) -> None:
        """Start over."""
        self._next = self._start


class Wakeup:
    """Something changed; everyone who waits looks again."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify(self) -> None:
        """Wake all who wait now."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, timeout_seconds: float | None = None) -> None:
        """Wait for the next `notify`, at most so long."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await self._event.wait()


def go_duration(seconds: float) -> str:
    """Whole seconds as Go prints a time.Duration: `10s`, `2m40s`, `1h0m0s`."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes}m{rest}s"
    return f"{minutes}m{rest}s" if minutes else f"{rest}s"
