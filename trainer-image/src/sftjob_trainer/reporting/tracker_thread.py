"""A tracker in its own thread, so that a slow server delays no step and an unreachable one fails no run."""

import logging
import threading
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Final, TypeVar

from sftjob_trainer.reporting.tracker import FinalStatus, Tracker

logger = logging.getLogger(__name__)

T = TypeVar("T")
_Entry = tuple[int, Mapping[str, float]]

PENDING: Final = 10_000
"""Maximum number of logs queued for an unreachable server; the oldest are dropped first."""


@dataclass(frozen=True, kw_only=True)
class BackoffPolicy:
    """Seconds: first and longest pause between attempts, and how long the end of a run waits for pending logs."""

    first_backoff: float = 1.0
    max_backoff: float = 30.0
    flush: float = 10.0


class _AbandonedError(Exception):
    """The run is over, and pending logs are dropped."""


class BackgroundTracker:
    """Forwards logs to a tracker that is opened, written to and closed in a thread.

    Failed calls are retried in order until they succeed or the run ends. The first failure is logged, and so is
    whatever was never sent. metrics.jsonl always has everything.
    """

    def __init__(self, name: str, open_tracker: Callable[[], Tracker], policy: BackoffPolicy = BackoffPolicy()) -> None:
        """`name` is the option that configured the tracker."""
        self._name = name
        self._open_tracker = open_tracker
        self._policy = policy
        self._changed = threading.Condition()
        self._pending: deque[_Entry] = deque()
        self._dropped = 0
        self._status: FinalStatus | None = None
        self._abandoned = False
        self._warned = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Queue the `values` of `step` for sending. Never blocks."""
        with self._changed:
            if len(self._pending) == PENDING:
                self._pending.popleft()
                self._dropped += 1
            self._pending.append((step, values))
            self._changed.notify()

    def close(self, status: FinalStatus) -> None:
        """Let the thread send pending logs within `policy.flush`."""
        with self._changed:
            self._status = status
            self._changed.notify()
        self._thread.join(self._policy.flush)
        with self._changed:
            self._abandoned = True
            self._changed.notify()
            unsent = len(self._pending) + self._dropped
        if unsent:
            logger.warning("%s: %d logs were not sent; logs/metrics.jsonl has them", self._name, unsent)
        elif self._thread.is_alive():
            logger.warning("%s: the end of the run could not be sent in time", self._name)

    def _run(self) -> None:
        try:
            tracker = self._retry(self._open_tracker)
            while (entry := self._next()) is not None:
                self._retry(partial(tracker.log, *entry))
                self._sent(entry)
            self._retry(partial(tracker.close, self._status or FinalStatus.FAILED))
        except _AbandonedError:
            return

    def _next(self) -> _Entry | None:
        """The oldest unsent log, once there is one; None at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._pending or self._status is not None)
            return self._pending[0] if self._pending else None

    def _sent(self, entry: _Entry) -> None:
        with self._changed:
            if self._pending and self._pending[0] is entry:
                self._pending.popleft()

    def _retry(self, action: Callable[[], T]) -> T:
        """The result of `action`, retried as often as necessary.

        Raises:
            _GivenUpError: the time to send pending logs is over.
        """
        backoff = self._policy.first_backoff
        while True:
            try:
                return action()
            except Exception as error:  # noqa: BLE001 -- a client may raise anything: training continues
                if not self._warned:
                    logger.warning("%s: %s; training continues, and it is tried again", self._name, error)
                self._warned = True
            self._wait(backoff)
            backoff = min(2 * backoff, self._policy.max_backoff)

    def _wait(self, seconds: float) -> None:
        """Wait before the next attempt, which starts at once when the run ends."""
        with self._changed:
            status = self._status
            self._changed.wait_for(
                lambda: self._abandoned or self._status is not status,
                seconds if status is None else self._policy.first_backoff,
            )
            if self._abandoned:
                raise _AbandonedError
