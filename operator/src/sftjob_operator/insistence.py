"""The end of tasks that outlive being cancelled once."""

import asyncio
from types import TracebackType
from typing import Final, Self

PATIENCE_SECONDS: Final = 8.0
"""kopf gives what is left of its tasks 5 s to end by themselves, then cancels each once."""
INTERVAL_SECONDS: Final = 1.0


class Insistence:
    """Context manager around kopf's operator: once it ends, every task that was begun in it is made to end.

    kopf cancels what is left of its tasks once, and then waits for them however long it takes. A watch whose request is
    under way takes that for a pause and goes on (kopf 1.45, `api.stream`), so the process would neither watch nor end.
    """

    def __init__(self, patience_seconds: float = PATIENCE_SECONDS, interval_seconds: float = INTERVAL_SECONDS) -> None:
        self._patience_seconds = patience_seconds
        self._interval_seconds = interval_seconds
        self._timer: asyncio.TimerHandle | None = None

    def __enter__(self) -> Self:
        """Tasks that exist already are spared."""
        self._spared = asyncio.all_tasks()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._timer is not None:
            self._timer.cancel()

    def begin(self) -> None:
        """The end has begun: cancel what is left after the patience, again and again."""
        self._call_later(self._patience_seconds)

    def _again(self) -> None:
        for task in asyncio.all_tasks() - self._spared:
            task.cancel()
        self._call_later(self._interval_seconds)

    def _call_later(self, seconds: float) -> None:
        self._timer = asyncio.get_running_loop().call_later(seconds, self._again)
