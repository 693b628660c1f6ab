"""Signs of life while weights are loaded: a model of 140 GB takes longer over a network than any hang may."""

import logging
import os
import resource
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sftjob_contract.progress import Activity, Progress
from sftjob_trainer.disk import quantity
from sftjob_trainer.run import Run
from sftjob_trainer.weights import weight_files

logger = logging.getLogger(__name__)

PERIOD_SECONDS: Final = 10.0
LEAST_BYTES: Final = 1 << 20
"""Of a period in which something was read: the process itself reads a little of other things."""
_COUNTERS: Final = Path("/proc/self/io")


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What this process has read so far.

    `read_bytes` are those of read(2), or those that storage delivered if they are more: of mapped files, without what
    the page cache had. `mapped_bytes` are pages that the process waited for, on any file system.
    """

    read_bytes: int
    mapped_bytes: int


def counters() -> Counters:
    """Those of now, from proc(5) `io` and getrusage(2); 0 where the kernel does not count."""
    try:
        lines = _COUNTERS.read_text(encoding="ascii").splitlines()
    except OSError:
        lines = []
    found = {name: int(value) for name, _, value in (line.partition(": ") for line in lines)}
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_majflt
    return Counters(
        read_bytes=max(found.get("rchar", 0), found.get("read_bytes", 0)),
        mapped_bytes=faults * os.sysconf("SC_PAGE_SIZE"),
    )


class Loading:
    """How much of `weights_bytes` was read since `began`, asked from time to time."""

    def __init__(self, weights_bytes: int, began: Counters) -> None:
        self.weights_bytes = weights_bytes
        self.loaded_bytes = 0
        self._began = self._last = began

    def advanced(self, now: Counters) -> bool:
        """Whether anything worth mentioning was read since this last returned True."""
        read = now.read_bytes - self._last.read_bytes
        if max(read, now.mapped_bytes - self._last.mapped_bytes) < LEAST_BYTES:
            return False
        self._last = now
        self.loaded_bytes = min(self.weights_bytes, now.read_bytes - self._began.read_bytes)
        return True

    def __str__(self) -> str:
        return f"{quantity(self.loaded_bytes)} of {quantity(self.weights_bytes)} of weights are read"


@contextmanager
def loading(run: Run, directory: Path, *, read: Callable[[], Counters] = counters) -> Iterator[None]:
    """Around loading the weights in `directory`: while they are read, the watchdog hears it and reports show it."""
    state = Loading(weights_bytes(directory), read())
    known = run.telemetry.progress()
    done = threading.Event()
    thread = threading.Thread(target=watch, args=(run, known, state, read, done), name="loading", daemon=True)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def watch(run: Run, known: Progress, state: Loading, read: Callable[[], Counters], done: threading.Event) -> None:
    """Look every few seconds, in a thread of its own: the one that loads is inside the libraries."""
    while not done.wait(PERIOD_SECONDS):
        if state.advanced(read()):
            run.watchdog.heard(Activity.LOADING)
            logger.info("%s", state)
            told = replace(known, loaded_bytes=state.loaded_bytes, weights_bytes=state.weights_bytes)
            run.reporter.offer(replace(told, time=run.telemetry.timestamp()))


def weights_bytes(directory: Path) -> int:
    """Size of the files that transformers loads from `directory`."""
    names = sorted(path.name for path in directory.iterdir() if path.is_file())
    files = weight_files(names, lambda name: (directory / name).read_bytes())
    return sum((directory / name).stat().st_size for name in files if name in names)
