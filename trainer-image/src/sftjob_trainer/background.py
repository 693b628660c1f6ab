"""A tracker in a thread of its own, so that a slow server holds up no step and an absent one ends no run."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from sftjob_trainer.tracking import Ending, Tracker

logger = logging.getLogger(__name__)

T = TypeVar("T")
_Entry = tuple[int, Mapping[str, float]]

PENDING: Final = 10_000
"""Most logs that wait for an absent server; the oldest go first."""


@dataclass(frozen=True, kw_only=True)
class Pace:
    """Seconds: between attempts after the first failure and at most, and at the end until what is left is given up."""

    first_backoff: float = 1.0
    max_backoff: float = 30.0
    flush: float = 10.0


class _GivenUpError(Exception):
    """The run is over, and nobody waits any more."""


class Background:
    """Hands logs on to a tracker that is opened, written to and closed in a thread.

    What fails is tried again until it works or the run ends, in order; the first failure is told, and what was never
    sent. metrics.jsonl has it all anyway.
    """

    def __init__(self, name: str, open_: Callable[[], Tracker], pace: Pace = Pace()) -> None:
        """`name` is the option that asked for it."""
        self._name = name
        self._open = open_
        self._pace = pace
        self._changed = threading.Condition()
        self._pending: deque[_Entry] = deque()
        self._lost = 0
        self._ending: Ending | None = None
        self._given_up = False
        self._warned = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keep `values` of `step` until they are sent. Never waits."""
        with self._changed:
            if len(self._pending) == PENDING:
                self._pending.popleft()
                self._lost += 1
            self._pending.append((step, values))
            self._changed.notify()

    def close(self, ending: Ending) -> None:
        """Let the thread send what is left, within `pace.flush`."""
        with self._changed:
            self._ending = ending
            self._changed.notify()
        self._thread.join(self._pace.flush)
        with self._changed:
            self._given_up = True
            self._changed.notify()
            left = len(self._pending) + self._lost
        if left:
            logger.warning("%s: %d logs were not sent; logs/metrics.jsonl has them", self._name, left)
        elif self._thread.is_alive():
            logger.warning("%s: the run's end could not be told in time", self._name)

    def _run(self) -> None:
        try:
            tracker = self._persist(self._open)
            while (entry := self._next()) is not None:
                self._persist(partial(tracker.log, *entry))
                self._sent(entry)
            self._persist(partial(tracker.close, self._ending or Ending.FAILED))
        except _GivenUpError:
            return

    def _next(self) -> _Entry | None:
        """The oldest log that was not sent, once there is one; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._ending is not None)
            return self._pending[0] if self._pending else None

    def _sent(self, entry: _Entry) -> None:
        with self._changed:
            if self._pending and self._pending[0] is entry:
                self._pending.popleft()

    def _persist(self, action: Callable[[], T]) -> T:
        """What `action` gives, as often as it must be tried.

        Raises:
            _GivenUpError: the time to send what is left is over.
        """
        backoff = self._pace.first_backoff
        while True:
            try:
                return action()
            except Exception as error:  # noqa: BLE001 -- whatever a client raises: training goes on
                if not self._warned:
                    logger.warning("%s: %s; training goes on, and it is tried again", self._name, error)
                self._warned = True
            self._wait(backoff)
            backoff = min(2 * backoff, self._pace.max_backoff)

    def _wait(self, seconds: float) -> None:
        """Wait before the next attempt, which comes at once when the run ends."""
        with self._changed:
            ending = self._ending
            self._changed.wait_for(
                lambda: self._given_up or self._ending is not ending,
                seconds if ending is None else self._pace.first_backoff,
            )
            if self._given_up:
                raise _GivenUpError
