"""Graceful stop: SIGTERM makes the training loop stop at the next step boundary, where its state can be saved."""

import signal
import time
import types
from typing import Any, Self

from sftjob_trainer.distributed.world import SINGLE_PROCESS, World


class StopRequest:
    """Context manager that turns SIGTERM into the flag `requested`. Only the main thread can use it.

    With several processes, only one may receive the signal, and all must stop at the same step. The flag then changes
    only in `agree`, for all of them at once.
    """

    def __init__(self, world: World = SINGLE_PROCESS) -> None:
        self.requested = False
        self._world = world
        self._signalled = False
        self._agreed = False
        self._signalled_at: float | None = None
        self._previous_handler: Any = signal.SIG_DFL

    @property
    def signalled(self) -> bool:
        """Whether this process received the signal, which the others may not know yet."""
        return self._signalled

    def seconds_since_signal(self) -> float:
        """Seconds since this process first received the signal; 0 if only another process did."""
        return 0.0 if self._signalled_at is None else time.monotonic() - self._signalled_at

    def agree(self) -> bool:
        """Set the flag for a request that any process received; True the first time. Collective."""
        self.requested = self.requested or self._world.any(self._signalled)
        first, self._agreed = self.requested and not self._agreed, self.requested
        return first

    def __enter__(self) -> Self:
        """Install the signal handler."""
        self._previous_handler = signal.signal(signal.SIGTERM, self._request)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: types.TracebackType | None,
    ) -> None:
        """Restore the previous signal handler."""
        signal.signal(signal.SIGTERM, self._previous_handler)

    def _request(self, _number: int, _frame: types.FrameType | None) -> None:
        if not self._signalled:
            self._signalled_at = time.monotonic()
        self._signalled = True
        self.requested = self.requested or self._world.size == 1
