"""A run that hangs ends: at a deadline learned from its own pace, with the stacks of all threads in the log."""

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

from sftjob_contract.progress import Activity

FACTOR: Final = 10
"""How many times longer than the slowest recent one a step may take, or an evaluation batch, or a save."""
LEAST_SECONDS: Final = {
    Activity.LOADING: 3600.0,
    Activity.TRAINING: 300.0,
    Activity.EVALUATING: 600.0,
    Activity.SAVING: 3600.0,
    Activity.FINISHED: 3600.0,
}
"""How long nothing may be heard in each activity whatever its pace: a file system or another job may be in the way.

That of LOADING holds for the first step too, in which kernels are compiled.
"""
MARGIN_SECONDS: Final = 10.0
"""How much later the second line acts: a C thread that needs no GIL, so it ends a process in which nothing else can."""
DUMP_SIGNAL: Final = signal.SIGUSR1
"""Makes a process that is being watched write the stacks of its threads to stderr, whatever it is doing."""
DUMP_SECONDS: Final = 1.0
"""How long a process has for that."""
_RECENT: Final = 50
_STDERR: Final = 2
"""By number, since sys.stderr may be anything."""
_WAITS_FOR_PEERS: Final = ("/torch/distributed/", "/torch/autograd/graph.py")
"""Where the Python part of a process stands that waits for others: in a collective, or in a backward pass with one."""
_WAITS_FOR_GPU: Final = re.compile(
    r"\.(item|tolist|cpu|numpy|nonzero|synchronize|wait|any|all|to)\(|\b(float|int|bool)\(|/torch/cuda/"
)
"""Calls of a line, or the file of a function, that wait until the GPU has done what it was given before."""


@dataclass(frozen=True, kw_only=True)
class Silence:
    """For how long nothing was heard during an activity, when `allowed_seconds` were."""

    activity: Activity
    allowed_seconds: float


class Pace:
    """How long each activity went without a sign of life, of late, and so how long it may."""

    def __init__(self) -> None:
        self._recent: dict[Activity, deque[float]] = {}

    def took(self, activity: Activity, seconds: float) -> None:
        """Between two signs of life lay `seconds` of `activity`."""
        self._recent.setdefault(activity, deque(maxlen=_RECENT)).append(seconds)

    def allows(self, activity: Activity) -> float:
        """Seconds until the next sign of life has to come."""
        recent = self._recent.get(activity, ())
        first = activity is Activity.TRAINING and not recent
        return max(LEAST_SECONDS[Activity.LOADING if first else activity], FACTOR * max(recent, default=0.0))


class Watchdog:
    """Expects a sign of life every so often while it is on watch, and calls for the end when none comes."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """`clock` gives seconds that only rise."""
        self._clock = clock
        self._pace = Pace()
        self._changed = threading.Condition()
        self._watching = False
        self._heard = Silence(activity=Activity.LOADING, allowed_seconds=0.0)
        self._heard_at = 0.0

    @contextmanager
    def on_watch(self, on_silence: Callable[[Silence], None]) -> Iterator[None]:
        """Watch; `on_silence` is called in a thread of its own and is to end the process."""
        thread = threading.Thread(target=self._watch, args=(on_silence,), name="watchdog", daemon=True)
        faulthandler.register(DUMP_SIGNAL, file=_STDERR, all_threads=True)
        self._watching = True
        self._hear(Activity.LOADING)
        thread.start()
        try:
            yield
        finally:
            with self._changed:
                self._watching = False
                self._changed.notify()
            faulthandler.cancel_dump_traceback_later()
            faulthandler.unregister(DUMP_SIGNAL)
            thread.join()

    def heard(self, activity: Activity) -> None:
        """There is life, and `activity` is what it does from now on."""
        if self._watching:
            self._pace.took(self._heard.activity, self._clock() - self._heard_at)
            self._hear(activity)

    def _hear(self, activity: Activity) -> None:
        allowed = self._pace.allows(activity)
        with self._changed:
            self._heard = Silence(activity=activity, allowed_seconds=allowed)
            self._heard_at = self._clock()
            self._changed.notify()
        faulthandler.dump_traceback_later(allowed + MARGIN_SECONDS, exit=True, file=_STDERR)

    def _watch(self, on_silence: Callable[[Silence], None]) -> None:
        with self._changed:
            while self._watching:
                remaining = self._heard_at + self._heard.allowed_seconds - self._clock()
                if remaining <= 0:
                    break
                self._changed.wait(remaining)
            else:
                return
        on_silence(self._heard)


def write_stacks(log: Path) -> None:
    """Write the stacks of all threads of this process to stderr, and to the end of `log`."""
    faulthandler.dump_traceback(_STDERR, all_threads=True)
    with log.open("a", encoding="utf-8") as stream:
        faulthandler.dump_traceback(stream, all_threads=True)


def write_peers_stacks(launcher: int) -> None:
    """Make the processes that process `launcher` has started write theirs, before they learn that this one is gone."""
    os.kill(launcher, DUMP_SIGNAL)
    time.sleep(DUMP_SECONDS)


def main_thread_frame() -> FrameType | None:
    """Where the main thread is."""
    return sys._current_frames().get(threading.main_thread().ident or 0)  # noqa: SLF001 -- documented


def place_of(frame: FrameType | None) -> str:
    """The innermost frame in words: `FILE:LINE in FUNCTION`."""
    stack = traceback.extract_stack(frame)
    return f"{Path(stack[-1].filename).name}:{stack[-1].lineno} in {stack[-1].name}"


def waits_for_peers(frame: FrameType | None, *, on_gpu: bool) -> bool:
    """Whether this looks like a process that waits for others.

    `on_gpu`: collectives are done by the GPU, and whatever waits for it waits for those before.
    """
    stack = traceback.extract_stack(frame)[-3:]
    if any(part in frame.filename for frame in stack for part in _WAITS_FOR_PEERS):
        return True
    innermost = stack[-1]
    return on_gpu and _WAITS_FOR_GPU.search(f"{innermost.filename}\n{innermost.line}") is not None
