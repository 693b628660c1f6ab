"""A polite end: SIGTERM asks the training loop to stop at the next step edge, where its state can be saved."""

import signal
import time
import types
from typing import Any, Self

from sftjob_trainer.world import ALONE, World


class StopRequest:
    """Context manager that turns SIGTERM into the flag `requested`. Only the main thread can use it.

    Of several processes only one may get the signal, and all must stop at the same step. So there the flag changes
    in `agree` alone, for all of them at once.
    """

    def __init__(self, world: World = ALONE) -> None:
        self.requested = False
        self._world = world
        self._signalled = False
        self._agreed = False
        self._signalled_at: float | None = None
        self._before: Any = signal.SIG_DFL

    @property
    def signalled(self) -> bool:
        """Whether this process got the signal, which the others need not know yet."""
        return self._signalled

    def seconds_since_signal(self) -> float:
        """Seconds since this process first got the signal; 0 where only another one did."""
        return 0.0 if self._signalled_at is None else time.monotonic() - self._signalled_at

    def agree(self) -> bool:
        """Take up a request that any of the processes got; True the first time that there is one. Collective."""
        self.requested = self.requested or self._world.any(self._signalled)
        first, self._agreed = self.requested and not self._agreed, self.requested
        return first

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
        if not self._signalled:
            self._signalled_at = time.monotonic()
        self._signalled = True
        self.requested = self.requested or self._world.size == 1
