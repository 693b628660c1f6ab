"""A polite end: SIGTERM asks the training loop to stop at the next step edge, where its state can be saved."""

import signal
import types
from typing import Any, Self


class StopRequest:
    """Context manager that turns SIGTERM into the flag `requested`. Only the main thread can use it."""

    def __init__(self) -> None:
        self.requested = False
        self._before: Any = signal.SIG_DFL

    def __enter__(self) -> Self:
        """Listen from now on."""
        self._before = signal.signal(signal.SIGTERM, self._request)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        """Give the signal back to whoever had it."""
        signal.signal(signal.SIGTERM, self._before)

    def _request(self, _number: int, _frame: types.FrameType | None) -> None:
        self.requested = True
