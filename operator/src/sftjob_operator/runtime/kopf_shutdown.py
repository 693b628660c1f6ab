"""Repeated cancellation of tasks that survive the first one."""

import asyncio
from types import TracebackType
from typing import Final, Self

GRACE_SECONDS: Final = 8.0
"""kopf gives its remaining tasks 5 s to end by themselves, then cancels each once."""
INTERVAL_SECONDS: Final = 1.0


class ShutdownCanceller:
    """Context manager around kopf's operator: after it, every task that was started in it is cancelled until it ends.

    kopf cancels its remaining tasks once, and then waits for them without limit. A watch with a request in flight
    treats the cancellation as a pause and continues (kopf 1.45, `api.stream`), so the process would neither watch nor
    end.
    """

    def __init__(self, grace_seconds: float = GRACE_SECONDS, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._grace_seconds = grace_seconds
        self._interval_seconds = interval_seconds
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        """Exclude tasks that already exist."""
        self._earlier_tasks = asyncio.all_tasks()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def start(self) -> None:
        """Shutdown has started: after the grace time, cancel the remaining tasks repeatedly."""
        self._call_later(self._grace_seconds)

    def _cancel_all(self) -> None:
        for task in asyncio.all_tasks() - self._earlier_tasks:
            task.cancel()
        self._call_later(self._interval_seconds)

    def _call_later(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._cancel_all)
