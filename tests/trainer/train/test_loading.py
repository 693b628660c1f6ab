"""While weights are read there is life, and reports show how much: only a load that stands still is a hang."""

import itertools
import mmap
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sftjob_contract.reports.progress import PROGRESS_VERSION, Activity, Progress
from sftjob_trainer.run.loading import MIN_BYTES, LoadingProgress, ReadCounters, counters, watch, weights_bytes

GIB = 1 << 30
AT_START = ReadCounters(read_bytes=50_000_000, mapped_bytes=0)
KNOWN = Progress(
    version=PROGRESS_VERSION,
    attempt=2,
    activity=Activity.LOADING,
    time="2026-05-04T00:00:00Z",
    step=40,
    max_steps=100,
    resumed_from_step=40,
    tokens=1000,
)


def read_so_far(read_bytes: int = 0, mapped_bytes: int = 0) -> ReadCounters:
    return ReadCounters(read_bytes=AT_START.read_bytes + read_bytes, mapped_bytes=mapped_bytes)


@dataclass
class Recorded:
    """What the watchdog hears and the reporter is offered."""

    heard: list[Activity] = field(default_factory=list)
    offered: list[Progress] = field(default_factory=list)

    def run(self) -> Any:
        return SimpleNamespace(
            watchdog=SimpleNamespace(heartbeat=self.heard.append),
            reporter=SimpleNamespace(offer=self.offered.append),
            telemetry=SimpleNamespace(
                progress=lambda: KNOWN, timestamp=lambda: datetime(2026, 5, 5, tzinfo=UTC).isoformat()
            ),
        )


def periods(count: int) -> Any:
    """An event that is waited for so many times in vain."""
    answers = itertools.chain([False] * count, itertools.repeat(True))
    return SimpleNamespace(wait=lambda _seconds: next(answers))


def test_as_long_as_bytes_arrive_the_watchdog_hears_it_and_reports_show_how_many() -> None:
    seen = Recorded()
    moments = iter([read_so_far(GIB), read_so_far(3 * GIB), read_so_far(9 * GIB)])
    watch(seen.run(), KNOWN, LoadingProgress(8 * GIB, AT_START), lambda: next(moments), periods(3))
    assert seen.heard == [Activity.LOADING] * 3
    shown = [(report.loaded_bytes, report.weights_bytes) for report in seen.offered]
    assert shown == [(GIB, 8 * GIB), (3 * GIB, 8 * GIB), (8 * GIB, 8 * GIB)]
    assert {replace(report, loaded_bytes=None, weights_bytes=None, time=KNOWN.time) for report in seen.offered} == {
        KNOWN
    }
    assert seen.offered[0].time > KNOWN.time


@pytest.mark.parametrize(
    ("now", "life"),
    [
        (read_so_far(), False),
        (read_so_far(MIN_BYTES - 1), False),
        (read_so_far(MIN_BYTES), True),
        (read_so_far(mapped_bytes=MIN_BYTES), True),
    ],
    ids=["standing still", "only what the process itself reads", "bytes of files", "pages of a mapped file"],
)
def test_a_load_that_stands_still_gives_no_sign_of_life(now: ReadCounters, life: bool) -> None:
    seen = Recorded()
    watch(seen.run(), KNOWN, LoadingProgress(GIB, AT_START), lambda: now, periods(4))
    assert len(seen.heard) == len(seen.offered) == int(life)


def test_the_kernel_counts_what_is_read(tmp_path: Path) -> None:
    file = tmp_path / "weights"
    file.write_bytes(bytes(4 * MIN_BYTES))
    before = counters()
    file.read_bytes()
    assert counters().read_bytes - before.read_bytes >= 4 * MIN_BYTES
    with file.open("rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        assert sum(mapped[:: mmap.PAGESIZE]) == 0
    assert counters().mapped_bytes >= before.mapped_bytes


def test_only_the_files_that_are_loaded_count(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(bytes(3000))
    (tmp_path / "consolidated.safetensors").write_bytes(bytes(3000))
    (tmp_path / "tokenizer.json").write_bytes(bytes(100))
    assert weights_bytes(tmp_path) == 3000
