"""End a hanging run at a deadline learned from its own pace, and log the stacks of all threads."""

import faulthandler
import os
import re
import signal
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Final

from sftjob_contract.reports.progress import Activity

FACTOR: Final = 10
"""Deadline of a step, an evaluation batch or a save, as a multiple of the slowest recent one."""
MIN_SECONDS: Final = {
    Activity.LOADING: 3600.0,
    Activity.TRAINING: 300.0,
    Activity.EVALUATING: 600.0,
    Activity.SAVING: 3600.0,
    Activity.FINISHED: 3600.0,
}
"""Minimum deadline of each activity, whatever its pace: a file system or another job may slow it down.

That of LOADING also applies to the first step, in which kernels are compiled.
"""
MARGIN_SECONDS: Final = 10.0
"""Extra delay of the second line of defense: a C thread without the GIL, which can end a fully blocked process."""
DUMP_SIGNAL: Final = signal.SIGUSR1
"""Makes a watched process write the stacks of its threads to stderr, whatever it is doing."""
DUMP_SECONDS: Final = 1.0
"""How long a process has to write them."""
_RECENT: Final = 50
_STDERR: Final = 2
"""By number, since sys.stderr may be any object."""
_WAITS_FOR_PEERS: Final = ("/torch/distributed/", "/torch/autograd/graph.py")
"""Python code locations of a process that waits for others: in a collective, or in a backward pass with one."""
_WAITS_FOR_GPU: Final = re.compile(
    r"\.(item|tolist|cpu|numpy|nonzero|synchronize|wait|any|all|to)\(|\b(float|int|bool)\(|/torch/cuda/"
)
"""Calls in a line, or the file of a function, that wait until the GPU has finished earlier work."""


@dataclass(frozen=True, kw_only=True)
class Hang:
    """How long there was no sign of life during an activity, when `allowed_seconds` was the limit."""

    activity: Activity
    allowed_seconds: float


class HangTimeouts:
    """The recent longest time of each activity without a sign of life, and the resulting limit."""

    def __init__(self) -> None:
        self._recent: dict[Activity, deque[float]] = {}

    def record(self, activity: Activity, seconds: float) -> None:
        """Record `seconds` between two signs of life during `activity`."""
        self._recent.setdefault(activity, deque(maxlen=_RECENT)).append(seconds)

    def timeout_seconds(self, activity: Activity) -> float:
        """Seconds until the next sign of life is due."""
        recent = self._recent.get(activity, ())
        first = activity is Activity.TRAINING and not recent
        return max(MIN_SECONDS[Activity.LOADING if first else activity], FACTOR * max(recent, default=0.0))


class Watchdog:
    """Expects regular signs of life while it is on watch, and calls back if none arrives."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` returns monotonic seconds."""
        self._clock = clock
        self._timeouts = HangTimeouts()
        self._changed = threading.Condition()
        self._is_guarding = False
        self._current = Hang(activity=Activity.LOADING, allowed_seconds=0.0)
        self._last_heartbeat = 0.0

    @contextmanager
    def guard(self, on_hang: Callable[[Hang], None]) -> Iterator[None]:
        """Watch; `on_hang` is called in a separate thread and must end the process."""
        thread = threading.Thread(target=self._watch, args=(on_hang,), name="watchdog", daemon=True)
        faulthandler.register(DUMP_SIGNAL, file=_STDERR, all_threads=True)
        self._is_guarding = True
        self._restart(Activity.LOADING)
        thread.start()
        try:
            yield
        finally:
            with self._changed:
                self._is_guarding = False
                self._changed.notify()
            faulthandler.cancel_dump_traceback_later()
            faulthandler.unregister(DUMP_SIGNAL)
            thread.join()

    def heartbeat(self, activity: Activity) -> None:
        """Record a sign of life and the current `activity`."""
        if self._is_guarding:
            self._timeouts.record(self._current.activity, self._clock() - self._last_heartbeat)
            self._restart(activity)

    def _restart(self, activity: Activity) -> None:
        allowed = self._timeouts.timeout_seconds(activity)
        with self._changed:
            self._current = Hang(activity=activity, allowed_seconds=allowed)
            self._last_heartbeat = self._clock()
            self._changed.notify()
        faulthandler.dump_traceback_later(allowed + MARGIN_SECONDS, exit=True, file=_STDERR)

    def _watch(self, on_hang: Callable[[Hang], None]) -> None:
        with self._changed:
            while self._is_guarding:
                remaining = self._last_heartbeat + self._current.allowed_seconds - self._clock()
                if remaining <= 0:
                    break
                self._changed.wait(remaining)
            else:
                return
        on_hang(self._current)


def write_stacks(log: Path) -> None:
    """Write the stacks of all threads of this process to stderr, and to the end of `log`."""
    faulthandler.dump_traceback(_STDERR, all_threads=True)
    with log.open("a", encoding="utf-8") as stream:
        faulthandler.dump_traceback(stream, all_threads=True)


def write_peers_stacks(launcher: int) -> None:
    """Make the other processes of `launcher` write their stacks before they notice that this one has ended."""
    os.kill(launcher, DUMP_SIGNAL)
    time.sleep(DUMP_SECONDS)


def main_thread_frame() -> FrameType | None:
    """The current frame of the main thread."""
    return sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001 -- documented


def frame_location(frame: FrameType | None) -> str:
    """The innermost frame as text: `FILE:LINE in FUNCTION`."""
    stack = traceback.extract_stack(frame)
    return f"{Path(stack[-1].filename).name}:{stack[-1].lineno} in {stack[-1].name}"


def waits_for_peers(frame: FrameType | None, *, on_gpu: bool) -> bool:
    """Whether the process appears to wait for other processes.

    `on_gpu`: collectives run on the GPU, so anything that waits for the GPU also waits for them.
    """
    stack = traceback.extract_stack(frame)[-3:]
    if any(part in frame.filename for frame in stack for part in _WAITS_FOR_PEERS):
        return True
    innermost = stack[-1]
    return on_gpu and _WAITS_FOR_GPU.search(f"{innermost.filename}\n{innermost.line}") is not None
