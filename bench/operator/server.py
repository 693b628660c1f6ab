"""The benchmark's API server: the sandbox with a fake node, which counts requests and records event times.

`python server.py DATA DEFINITION JOBS PACE [mortal] [steady] [finished=N]` serves the resource of that file until
SIGTERM, and writes DATA/record.json once JOBS jobs have succeeded. mortal: the first trainer of every job is killed.
steady: train Pods keep running, and DATA/tokens.json is written once JOBS of them run. finished: the server starts with
N copies of the job in DATA/finished.json and of its Pods.
"""

import asyncio
import json
import signal
import sys
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from bench.operator import fake_node
from bench.operator.finished import store_copies
from sftjob_contract.names import GROUP, LABEL_ATTEMPT, LABEL_JOB, LABEL_STAGE, PLURAL, Stage
from sftjob_sandbox.apimachinery.objects import name_of
from sftjob_sandbox.cluster.store import Store
from sftjob_sandbox.http.requests import RequestInfo
from sftjob_sandbox.http.server import ServerSettings
from sftjob_sandbox.sandbox import Sandbox

RECORD: Final = "record.json"
WATCHED: Final = "watched"
"""Created in DATA once the operator watches jobs and Pods: its earlier requests belong to its start."""
TOKENS: Final = "tokens.json"
"""Created in DATA once all trainers of a steady node run: their progress tokens by job name."""
STORED: Final = "stored"
"""Created in DATA once the copies of a finished job are stored."""
PLACED: Final = "placed-{}"
"""Created in DATA once the expected number of jobs or more have a Pod; contains that time."""
CLIENT_AGENT: Final = "bench"
"""User-Agent of the benchmark's own requests, which are not counted as the operator's."""


@dataclass
class Record:
    """Recorded events. Times are seconds of one clock, by job name."""

    requests: Counter[str] = field(default_factory=Counter)
    """The operator's requests since the first job: `verb resource`."""
    created: dict[str, float] = field(default_factory=dict)
    """When the job was stored."""
    placed: dict[str, float] = field(default_factory=dict)
    """When its first Pod was stored."""
    died: dict[str, float] = field(default_factory=dict)
    """When its first trainer's death was stored."""
    replaced: dict[str, float] = field(default_factory=dict)
    """When the Pod of its second train attempt was stored."""
    succeeded: dict[str, float] = field(default_factory=dict)
    """When its status reported success."""

    def request(self, info: RequestInfo, agent: str) -> None:
        """Count a request of the operator."""
        if self.created and agent != CLIENT_AGENT:
            self.requests[f"{info.verb} {'/'.join(filter(None, (info.resource, info.subresource)))}"] += 1

    async def pods(self, store: Store, data: Path, expected: int) -> None:
        """Record each job's first Pod, the death of its first trainer and the Pod that follows."""
        async for change, pod in store.watch_from_start("pods"):
            labels, now = pod["metadata"]["labels"], time.monotonic()
            job, of_training = labels[LABEL_JOB], labels[LABEL_STAGE] == Stage.TRAIN
            if job not in self.placed:
                self.placed[job] = now
                if len(self.placed) >= expected:
                    _write(data / PLACED.format(len(self.placed)), now)
            if pod["status"].get("phase") == "Failed":
                self.died.setdefault(job, now)
            if change == "ADDED" and of_training and labels[LABEL_ATTEMPT] == "2":
                self.replaced.setdefault(job, now)

    async def jobs(self, store: Store, expected: int) -> None:
        """Record creation and success of the jobs, until `expected` have succeeded."""
        async for _, job in store.watch_from_start(f"{PLURAL}.{GROUP}"):
            self.created.setdefault(name_of(job), time.monotonic())
            if job.get("status", {}).get("phase") == "Succeeded":
                self.succeeded.setdefault(name_of(job), time.monotonic())
            if len(self.succeeded) == expected:
                return


async def serve(data: Path, definition: Path, expected: int, pace: float, options: dict[str, str]) -> None:
    """Serve until SIGTERM; ends at once with the error if a task fails."""
    mortal, steady = "mortal" in options, "steady" in options
    stop = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stop.set)
    record = Record()
    settings = ServerSettings(observe=_observer(data, record))
    sandbox = Sandbox(data=data, definitions=[definition], with_node=False, server=settings)
    async with sandbox, asyncio.TaskGroup() as tasks:
        if "finished" in options:
            store_copies(sandbox.store, data, int(options["finished"]))
            (data / STORED).touch()
        work = [
            tasks.create_task(fake_node.play(sandbox.store, pace, mortal=mortal, steady=steady)),
            tasks.create_task(record.pods(sandbox.store, data, expected)),
            tasks.create_task(_finish(data, record, sandbox.store, expected)),
        ]
        if steady:
            work.append(tasks.create_task(_project_tokens(data, sandbox.store, expected)))
        await stop.wait()
        for task in work:
            task.cancel()


def _observer(data: Path, record: Record) -> Callable[[RequestInfo, str], None]:
    missing = {PLURAL, "pods"}

    def observe(info: RequestInfo, agent: str) -> None:
        record.request(info, agent)
        if info.verb == "watch" and info.resource in missing:
            missing.remove(info.resource)
            if not missing:
                (data / WATCHED).touch()

    return observe


async def _finish(data: Path, record: Record, store: Store, expected: int) -> None:
    await record.jobs(store, expected)
    _write(data / RECORD, vars(record))


async def _project_tokens(data: Path, store: Store, expected: int) -> None:
    _write(data / TOKENS, await fake_node.project_tokens(store, expected))


def _write(path: Path, content: Any) -> None:
    """Write atomically: a process waiting for the file finds all of it."""
    staged = path.with_suffix(".tmp")
    staged.write_text(json.dumps(content), encoding="utf-8")
    staged.replace(path)


if __name__ == "__main__":
    data, definition, jobs, pace, *options = sys.argv[1:]
    given = {name: value for name, _, value in (option.partition("=") for option in options)}
    asyncio.run(serve(Path(data), Path(definition), int(jobs), float(pace), given))
