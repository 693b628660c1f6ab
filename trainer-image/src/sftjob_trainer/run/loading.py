"""Report progress while weights are loaded: over a network, 140 GB take longer than any hang may last."""

import logging
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sftjob_contract.reports.progress import Activity, Progress
from sftjob_trainer.process.disk import quantity
from sftjob_trainer.run.context import Run
from sftjob_trainer.sources.weights import weight_files

logger = logging.getLogger(__name__)

PERIOD_SECONDS: Final = 10.0
MIN_BYTES: Final = 1 << 20
"""Threshold per period: the process itself also reads small amounts of other data."""
_COUNTERS: Final = Path("/proc/self/io")


@dataclass(frozen=True, kw_only=True)
class ReadCounters:
    """What this process has read so far.

    `read_bytes` are those of read(2), or those that storage delivered if they are more: of mapped files, without what
    was in the page cache. `mapped_bytes` are pages that the process waited for, on any file system.
    """

    read_bytes: int
    mapped_bytes: int


def counters() -> ReadCounters:
    """The current counters, from proc(5) `io` and getrusage(2); 0 if the kernel does not count."""
    try:
        lines = _COUNTERS.read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    found = {name: int(value) for name, _, value in (line.partition(": ") for line in lines)}
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    return ReadCounters(
        read_bytes=max(found.get("rchar", 0), found.get("read_bytes", 0)),
        mapped_bytes=faults * os.sysconf("SC_PAGE_SIZE"),
    )


class LoadingProgress:
    """How much of `weights_bytes` was read since `start`, polled from time to time."""

    def __init__(self, weights_bytes: int, start: ReadCounters) -> None:
        self.weights_bytes = weights_bytes
        self.loaded_bytes = 0
        self._start = self._last = start

    def advanced(self, now: ReadCounters) -> bool:
        """Whether a significant amount was read since this last returned True."""
        read = now.read_bytes - self._last.read_bytes
        if max(read, now.mapped_bytes - self._last.mapped_bytes) < MIN_BYTES:
            return False
        self._last = now
        self.loaded_bytes = min(self.weights_bytes, now.read_bytes - self._start.read_bytes)
        return True

    def __str__(self) -> str:
        return f"{quantity(self.loaded_bytes)} of {quantity(self.weights_bytes)} of weights are read"


@contextmanager
def loading(run: Run, directory: Path, *, read: Callable[[], ReadCounters] = counters) -> Iterator[None]:
    """Wrap loading the weights in `directory`: reads signal the watchdog and are shown in reports."""
    state = LoadingProgress(weights_bytes(directory), read())
    known = run.telemetry.progress()
    done = threading.Event()
    thread = threading.Thread(target=watch, args=(run, known, state, read, done), name="loading", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def watch(
    run: Run, known: Progress, state: LoadingProgress, read: Callable[[], ReadCounters], done: threading.Event
) -> None:
    """Poll every few seconds in a separate thread: the loading thread is inside the libraries."""
    while not done.wait(PERIOD_SECONDS):
        if state.advanced(read()):
            run.watchdog.heartbeat(Activity.LOADING)
            logger.info("%s", state)
            progress = replace(known, loaded_bytes=state.loaded_bytes, weights_bytes=state.weights_bytes)
            run.reporter.offer(replace(progress, time=run.telemetry.timestamp()))


def weights_bytes(directory: Path) -> int:
    """Size of the files that transformers loads from `directory`."""
    names = sorted(path.name for path in directory.iterdir() if path.is_file())
    files = weight_files(names, lambda name: (directory / name).read_bytes())
    return sum((directory / name).stat().st_size for name in files if name in names)
