"""Cost of the operator: N SFTJobs in a burst against the sandbox's API server, with a node that simulates Pods.

Three processes: the server with its fake node, the unmodified operator, and this one, which creates the jobs. Prints a
table and writes it into docs/benchmarks.md.
"""

import argparse
import asyncio
import base64
import json
import ssl
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import psutil
import yaml
from rich.console import Console
from rich.table import Table

from bench.operator.server import CLIENT_AGENT, PLACED, RECORD, WATCHED
from bench.pages import PAGE, machine, replace_section, section
from sftjob_contract.names import API_VERSION, GROUP, KIND, PLURAL, VERSION
from sftjob_dev.stack import DEFINITION, Stack, StackError

HERE: Final = Path(__file__).resolve().parent
TARGET: Final = "bench-operator"
SIZES: Final = (1, 100, 1000)
CONNECTIONS: Final = 16
"""Number of jobs created concurrently."""
LONGEST_SECONDS: Final = 600
FROZEN: Final = 1e6
"""A pace at which no created Pod ever starts."""
SAMPLE_SECONDS: Final = 0.1
CHILDREN: Final = frozenset({"persistentvolumeclaims", "configmaps", "pods"})
MEGABYTE: Final = 1e6


class FakeStack(Stack):
    """The local stack with a node that only simulates Pods."""

    def __init__(self, data: Path, jobs: int, pace: float, *options: str) -> None:
        super().__init__(data, progress_interval_seconds=10)
        self._arguments = [str(self.data), str(DEFINITION), str(jobs), str(pace), *options]

    def sandbox_command(self) -> list[str]:
        """The server of this benchmark."""
        return [sys.executable, "-m", "bench.operator.server", *self._arguments]


@dataclass(frozen=True, kw_only=True)
class Result:
    """Measurements of one size."""

    jobs: int
    requests: Counter[str]
    pod_p50_seconds: float
    """From storing the job to storing its first Pod."""
    pod_p99_seconds: float
    burst_seconds: float
    """From storing the first job to storing the last job's first Pod."""
    cpu_seconds: float
    resident_bytes: int
    """The largest value observed."""
    recovery_p50_seconds: float
    """From storing a trainer's death to storing the Pod of the next attempt."""
    recovery_p99_seconds: float
    first_decision_seconds: float
    """From the start of an operator to the first Pod of the first job waiting for it, beside the others."""
    last_decision_seconds: float

    @property
    def child_requests(self) -> float:
        """Requests for claims, ConfigMaps and Pods, per job."""
        return sum(n for what, n in self.requests.items() if what.split()[1] in CHILDREN) / self.jobs

    @property
    def status_writes(self) -> float:
        """Writes of the job's status, per job."""
        return self.requests[f"patch {PLURAL}/status"] / self.jobs


def measure(jobs: int, pace: float = 1.0) -> Result:
    """Run one size; `pace` scales the times of a Pod's life cycle.

    Raises:
        StackError: a process died, or the jobs did not finish in time.
    """
    with tempfile.TemporaryDirectory() as directory, FakeStack(Path(directory), jobs, pace) as stack:
        operator = psutil.Process(stack.operator_pid)
        _wait(stack, WATCHED, operator)
        before = _cpu_seconds(operator)
        asyncio.run(create(config_of(stack), jobs))
        resident = _wait(stack, RECORD, operator)
        record = json.loads((stack.data / RECORD).read_text(encoding="utf-8"))
        cpu_seconds = _cpu_seconds(operator) - before
    created, placed = record["created"], record["placed"]
    waits = sorted(placed[name] - created[name] for name in created)
    recovery_p50_seconds, recovery_p99_seconds = measure_recovery(jobs, pace)
    first_decision_seconds, last_decision_seconds = measure_restart(jobs)
    return Result(
        jobs=jobs,
        requests=Counter(record["requests"]),
        pod_p50_seconds=_quantile(waits, 0.50),
        pod_p99_seconds=_quantile(waits, 0.99),
        burst_seconds=max(placed.values()) - min(created.values()),
        cpu_seconds=cpu_seconds,
        resident_bytes=resident,
        recovery_p50_seconds=recovery_p50_seconds,
        recovery_p99_seconds=recovery_p99_seconds,
        first_decision_seconds=first_decision_seconds,
        last_decision_seconds=last_decision_seconds,
    )


def measure_recovery(jobs: int, pace: float = 1.0) -> tuple[float, float]:
    """Median and 99th percentile of the seconds from a trainer's death to the Pod of the next attempt.

    Raises:
        StackError: a process died, or the jobs did not finish in time.
    """
    with tempfile.TemporaryDirectory() as directory, FakeStack(Path(directory), jobs, pace, "mortal") as stack:
        operator = psutil.Process(stack.operator_pid)
        _wait(stack, WATCHED, operator)
        asyncio.run(create(config_of(stack), jobs))
        _wait(stack, RECORD, operator)
        record = json.loads((stack.data / RECORD).read_text(encoding="utf-8"))
    waits = sorted(record["replaced"][name] - record["died"][name] for name in record["died"])
    return _quantile(waits, 0.50), _quantile(waits, 0.99)


def measure_restart(jobs: int) -> tuple[float, float]:
    """Seconds from the start of an operator until it has processed the first and the last of `jobs`.

    Measured by the first Pods of two jobs created before its start, which sort before and after the others.

    Raises:
        StackError: a process died, or it did not finish in time.
    """
    with tempfile.TemporaryDirectory() as directory, FakeStack(Path(directory), jobs, FROZEN) as stack:
        asyncio.run(create(config_of(stack), jobs))
        _wait(stack, PLACED.format(jobs), psutil.Process(stack.operator_pid))
        stack.kill_operator()
        for prefix in ("a", "z"):
            asyncio.run(create(config_of(stack), 1, prefix))
        begin = time.monotonic()
        stack.start_operator()
        _wait(stack, PLACED.format(jobs + 2), psutil.Process(stack.operator_pid))
        times = [json.loads((stack.data / PLACED.format(jobs + n)).read_text(encoding="utf-8")) for n in (1, 2)]
        return times[0] - begin, times[1] - begin


def config_of(stack: Stack) -> dict[str, Any]:
    """The kubeconfig of a stack."""
    config: dict[str, Any] = yaml.safe_load(stack.kubeconfig.read_text(encoding="utf-8"))
    return config


async def create(config: dict[str, Any], jobs: int, prefix: str = "job") -> None:
    """Create the jobs as fast as the server of the kubeconfig accepts them."""
    url = f"{config['clusters'][0]['cluster']['server']}/apis/{GROUP}/{VERSION}/namespaces/default/{PLURAL}"
    async with client(config) as session, asyncio.TaskGroup() as tasks:
        for number in range(jobs):
            tasks.create_task(_post(session, url, _job(f"{prefix}-{number:04d}")))


def client(config: dict[str, Any]) -> aiohttp.ClientSession:
    """A session of a kubeconfig's user, with the benchmark's own User-Agent."""
    cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    headers = {"Authorization": f"Bearer {user['token']}", "User-Agent": CLIENT_AGENT}
    connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=authority), limit=CONNECTIONS)
    return aiohttp.ClientSession(connector=connector, headers=headers)


async def _post(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> None:
    async with session.post(url, json=body) as answer:
        answer.raise_for_status()


def _job(name: str) -> dict[str, Any]:
    return {
        "apiVersion": API_VERSION,
        "kind": KIND,
        "metadata": {"name": name},
        "spec": {
            "model": {"source": "hf://Qwen/Qwen2.5-0.5B-Instruct"},
            "dataset": {"source": "pvc://team-data/train.jsonl"},
            "method": {"lora": {}},
        },
    }


def _wait(stack: Stack, name: str, operator: psutil.Process) -> int:
    """Wait until the server writes a file; returns the operator's peak resident memory meanwhile, in bytes."""
    deadline, largest = time.monotonic() + LONGEST_SECONDS, 0
    while not (stack.data / name).exists():
        stack.check()
        if time.monotonic() > deadline:
            raise StackError(f"the server did not write {name} within {LONGEST_SECONDS} s")
        largest = max(largest, operator.memory_info().rss)
        time.sleep(SAMPLE_SECONDS)
    return largest


def _cpu_seconds(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)


def _quantile(ordered: list[float], part: float) -> float:
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def columns(results: list[Result]) -> tuple[list[str], list[list[str]]]:
    """Header and rows of the table: one row per measure, one column per size."""
    verbs = sorted({what for result in results for what in result.requests})
    rows = [[f"`{what}` per job", *(f"{r.requests[what] / r.jobs:.2f}" for r in results)] for what in verbs]
    rows += [
        ["child-object requests per job", *(f"{r.child_requests:.2f}" for r in results)],
        ["status writes per job", *(f"{r.status_writes:.2f}" for r in results)],
        ["create to first Pod, p50", *(f"{r.pod_p50_seconds * 1000:,.0f} ms" for r in results)],
        ["create to first Pod, p99", *(f"{r.pod_p99_seconds * 1000:,.0f} ms" for r in results)],
        ["first create to last first Pod", *(f"{r.burst_seconds:.2f} s" for r in results)],
        ["operator CPU per job", *(f"{r.cpu_seconds / r.jobs * 1000:.1f} ms" for r in results)],
        ["trainer's death to next Pod, p50", *(f"{r.recovery_p50_seconds:.2f} s" for r in results)],
        ["trainer's death to next Pod, p99", *(f"{r.recovery_p99_seconds:.2f} s" for r in results)],
        ["operator start to first decision", *(f"{r.first_decision_seconds:.2f} s" for r in results)],
        ["operator start to last decision", *(f"{r.last_decision_seconds:.2f} s" for r in results)],
        ["operator resident memory", *(f"{r.resident_bytes / MEGABYTE:.0f} MB" for r in results)],
    ]
    return ["", *(f"{result.jobs:,} jobs" for result in results)], rows


def main() -> None:
    """Run the benchmark, print the table and write it into the docs."""
    parser = argparse.ArgumentParser(description="Measure what the operator costs.")
    parser.add_argument("sizes", type=int, nargs="*", default=SIZES, metavar="JOBS", help="default: 1 100 1000")
    parser.add_argument("--no-write", action="store_true", help="leave docs/benchmarks.md as it is")
    arguments = parser.parse_args()
    machine_text = machine()
    console = Console()
    results = []
    for jobs in arguments.sizes:
        console.print(f"{jobs} jobs ...")
        results.append(measure(jobs))
    header, rows = columns(results)
    table = Table(*header)
    for row in rows:
        table.add_row(*row)
    console.print(f"Machine: {machine_text}")
    console.print(table)
    if not arguments.no_write:
        page = replace_section(PAGE.read_text(encoding="utf-8"), section(TARGET, machine_text, header, rows))
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
