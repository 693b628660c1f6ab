"""N reporting trainers: `python trainers.py` reads a Load as JSON from stdin and prints a Measurement as JSON.

Each trainer has its own address (127.0.x.y), as Pods have, its Pod's token, and its own offset within the interval.
They start one after another over several intervals. With `keep_alive`, each reports on one connection, otherwise on a
new connection each time.
"""

import asyncio
import os
import ssl
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final

import aiohttp
import psutil

from sftjob_contract.codec import from_json, to_json
from sftjob_contract.names import progress_path
from sftjob_contract.reports.progress import PROGRESS_VERSION, Activity, Checkpoint, HistoryPoint, Progress

NAMESPACE: Final = "default"
DONE: Final = 204
NOT_SENT: Final = "not sent"
"""Outcome of a report that was due while the previous one had no response: a trainer only sends its latest state."""
START_INTERVALS: Final = 4
"""Number of intervals over which trainers start: a first report costs a connection, a TokenReview, a status write."""
WARM_UP_INTERVALS: Final = START_INTERVALS + 2
"""First reports are not part of the measurement."""
_ADDRESSES: Final = 250
"""Trainers of one /24 network."""
_LONGEST_SECONDS: Final = 60.0
_CONNECTION_SECONDS: Final = 600.0
_MAX_STEPS: Final = 10_000
_POINTS: Final = 48
"""As many as any release accepts."""


@dataclass(frozen=True, kw_only=True)
class Load:
    """What is sent, and for how long."""

    url: str
    ca: str
    tokens: Mapping[str, str]
    """By job name."""
    interval_seconds: float
    window_seconds: float
    keep_alive: bool
    operator_pid: int
    server_pid: int


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """Measurements within the window."""

    answer_seconds: tuple[float, ...]
    """From sending a report, including connecting, to the complete response; only accepted reports."""
    refused: Mapping[str, int]
    """Other outcomes: HTTP status, NOT_SENT, or the error name of a report without a response."""
    answered: int
    """Responses within the window, including those to warm-up reports: what the operator's CPU time was spent on."""
    late_seconds: tuple[float, ...]
    """Delay of each report against its schedule: this process or the machine lacked CPU time."""
    operator_cpu_seconds: float
    """All CPU time of the operator in the window, including status writes and watch events."""
    server_cpu_seconds: float
    """The same for the API server and its fake node."""
    trainers_cpu_seconds: float
    """The same for the process of the trainers."""
    busy_cores: float
    """Cores in use on the whole machine, by this benchmark and everything else."""


@dataclass
class _Tally:
    begin: float
    end: float
    answers: list[float] = field(default_factory=list)
    answered: int = 0
    late: list[float] = field(default_factory=list)
    refused: Counter[str] = field(default_factory=Counter)


async def report(load: Load) -> Measurement:
    """Let all trainers report until the window ends."""
    context = ssl.create_default_context(cadata=load.ca)
    start = time.monotonic()
    begin = start + WARM_UP_INTERVALS * load.interval_seconds
    tally = _Tally(begin, begin + load.window_seconds)
    processes = [psutil.Process(pid) for pid in (load.operator_pid, load.server_pid, os.getpid())]
    async with AsyncExitStack() as sessions, asyncio.TaskGroup() as trainers:
        for number, (job, token) in enumerate(sorted(load.tokens.items())):
            session = _session(number, token, context, keep_alive=load.keep_alive)
            await sessions.enter_async_context(session)
            due = start + START_INTERVALS * load.interval_seconds * number / len(load.tokens)
            trainers.create_task(_train(session, load.url + progress_path(NAMESPACE, job), due, load, tally))
        await asyncio.sleep(begin - time.monotonic())
        before, psutil_before = [_cpu_seconds(each) for each in processes], psutil.cpu_times()
        await asyncio.sleep(tally.end - time.monotonic())
        after, psutil_after = [_cpu_seconds(each) for each in processes], psutil.cpu_times()
    operator, server, own = (now - then for then, now in zip(before, after, strict=True))
    idle = psutil_after.idle + psutil_after.iowait - psutil_before.idle - psutil_before.iowait
    return Measurement(
        answer_seconds=tuple(sorted(tally.answers)),
        refused=dict(tally.refused),
        answered=tally.answered,
        late_seconds=tuple(sorted(tally.late)),
        operator_cpu_seconds=operator,
        server_cpu_seconds=server,
        trainers_cpu_seconds=own,
        busy_cores=(psutil.cpu_count() or 1) - idle / load.window_seconds,
    )


def _cpu_seconds(process: psutil.Process) -> float:
    return sum(process.cpu_times()[:2])


def _session(number: int, token: str, context: ssl.SSLContext, *, keep_alive: bool) -> aiohttp.ClientSession:
    address = f"127.0.{1 + number // _ADDRESSES}.{1 + number % _ADDRESSES}"
    kept = {"keepalive_timeout": _CONNECTION_SECONDS} if keep_alive else {"force_close": True}
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context, local_addr=(address, 0), limit=1, **kept),
        headers={"Authorization": f"Bearer {token}", "Content-Type": "application/json"},
        timeout=aiohttp.ClientTimeout(total=_LONGEST_SECONDS),
    )


async def _train(session: aiohttp.ClientSession, url: str, due: float, load: Load, tally: _Tally) -> None:
    step = 1000
    while due < tally.end:
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        body = to_json(progress(step)).encode()
        sent = time.monotonic()
        try:
            async with session.post(url, data=body) as answer:
                await answer.read()
            outcome = str(answer.status)
            tally.answered += tally.begin <= time.monotonic() < tally.end
        except (aiohttp.ClientError, OSError) as error:
            outcome = type(error).__name__
        if due >= tally.begin:
            tally.late.append(sent - due)
            if outcome == str(DONE):
                tally.answers.append(time.monotonic() - sent)
            else:
                tally.refused[outcome] += 1
        step += 10
        due += load.interval_seconds
        while due + load.interval_seconds < min(time.monotonic(), tally.end):
            if due >= tally.begin:
                tally.refused[NOT_SENT] += 1
            due += load.interval_seconds


def progress(step: int) -> Progress:
    """A trainer's report in the middle of a long run: 48 points of its curves and three checkpoints."""
    now = datetime.now(UTC).isoformat(timespec="seconds").replace("+00:00", "Z")
    return Progress(
        version=PROGRESS_VERSION,
        attempt=1,
        activity=Activity.TRAINING,
        time=now,
        step=step,
        max_steps=_MAX_STEPS,
        resumed_from_step=0,
        tokens=step * 8192,
        epoch=step / 3000,
        loss=2.0 + 100 / step,
        eval_loss=2.125,
        learning_rate=0.0002,
        grad_norm=0.75,
        tokens_per_second=8192.0,
        eta_seconds=_MAX_STEPS - step,
        loading_seconds=20.5,
        step_seconds=1.0,
        data_wait_seconds=0.01,
        evaluating_seconds=30.5,
        saving_seconds=12.5,
        longest_save_seconds=4.5,
        peak_memory_bytes=40_000_000_000,
        best_step=900,
        checkpoints=tuple(
            Checkpoint(step=each, path=f"checkpoints/checkpoint-{each}", bytes=10_000_000, time=now, eval_loss=2.25)
            for each in (300, 600, 900)
        ),
        history=tuple(
            HistoryPoint(step=step * n // _POINTS, loss=3.5 - n / 40, eval_loss=3.625 - n / 40) for n in range(_POINTS)
        ),
    )


if __name__ == "__main__":
    print(to_json(asyncio.run(report(from_json(Load, sys.stdin.read(), ignore_unknown=False)))))
