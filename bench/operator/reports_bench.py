"""Cost of reports and finished jobs for the operator, in the previous release and in this version.

Reports: N trainers run on the fake node, and one process reports for all of them. Finished jobs: the server starts with
many of them, and a separate process resyncs. Prints a table and writes it into docs/benchmarks.md.
"""

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
from rich.console import Console
from rich.table import Table

from bench.operator.finished import FINISHED, with_curves
from bench.operator.operator_bench import HERE, LONGEST_SECONDS, SAMPLE_SECONDS, FakeStack, client, config_of, create
from bench.operator.server import RECORD, STORED, TOKENS, WATCHED
from bench.operator.trainers import Load, Measurement
from bench.pages import PAGE, machine, replace_section, section
from sftjob_contract.codec import from_json, to_json
from sftjob_contract.names import GROUP, PLURAL, VERSION
from sftjob_dev.stack import DEFINITION, Stack, StackError
from support.stacks.previous import RELEASE, Previous, extract_previous

TARGET: Final = "bench-operator, reports"
TRAINERS: Final = 1000
FINISHED_JOBS: Final = 10_000
INTERVAL_SECONDS: Final = 10.0
WINDOW_SECONDS: Final = 40.0
_START_PACE: Final = 0.1
"""Pods start in a tenth of the usual time: the measurement begins only after all of them run."""
_RESYNC_SECONDS: Final = 600
MILLISECOND: Final = 1e-3


class ReleaseStack(FakeStack):
    """The fake stack with the operator and the CRD of a release; None for this version."""

    def __init__(self, data: Path, release: Previous | None, jobs: int, *options: str) -> None:
        super().__init__(data, jobs, _START_PACE, *options)
        self._release = release

    def sandbox_command(self) -> list[str]:
        """See Stack."""
        definition = DEFINITION if self._release is None else self._release.definition
        return [str(definition) if part == str(DEFINITION) else part for part in super().sandbox_command()]

    def operator_settings(self) -> dict[str, str]:
        """See Stack."""
        return super().operator_settings() | environment(self._release)


@dataclass(frozen=True, kw_only=True)
class Cost:
    """Measurements of one release."""

    reports: Measurement
    jobs_cpu_seconds: list[float]
    """CPU seconds of two resyncs with finished jobs without Pods; the first is that of a start."""
    pods_cpu_seconds: list[float]
    """The same with the two Pods of each job."""


def environment(release: Previous | None) -> dict[str, str]:
    """Environment variables that make Python import the packages of a release."""
    return {} if release is None else {"PYTHONPATH": release.python_path}


def measure_reports(
    release: Previous | None, trainers: int, interval_seconds: float, window_seconds: float, *, keep_alive: bool
) -> Measurement:
    """Let the given number of trainers report, each once per interval.

    Raises:
        StackError: a process died, or not all trainers started in time.
    """
    with (
        tempfile.TemporaryDirectory() as directory,
        ReleaseStack(Path(directory), release, trainers, "steady") as stack,
    ):
        _wait(stack, WATCHED)
        asyncio.run(create(config_of(stack), trainers))
        _wait(stack, TOKENS)
        load = Load(
            url=stack.operator_settings()["SFTJOB_PROGRESS_URL"],
            ca=(stack.data / "progress-tls" / "ca.crt").read_text(encoding="utf-8"),
            tokens=json.loads((stack.data / TOKENS).read_text(encoding="utf-8")),
            interval_seconds=interval_seconds,
            window_seconds=window_seconds,
            keep_alive=keep_alive,
            operator_pid=stack.operator_pid,
            server_pid=stack.sandbox_pid,
        )
        command = [sys.executable, str(HERE / "trainers.py")]
        done = subprocess.run(command, input=to_json(load), stdout=subprocess.PIPE, text=True, check=True)
        stack.check()
    return from_json(Measurement, done.stdout, ignore_unknown=False)


def measure_resync(release: Previous | None, jobs: int, *, with_pods: bool) -> list[float]:
    """CPU seconds of resyncs with `jobs` finished jobs, optionally with two Pods each; the first is that of a start.

    Raises:
        StackError: a process died, or the job to copy did not finish in time.
    """
    with tempfile.TemporaryDirectory() as directory:
        with ReleaseStack(Path(directory) / "one", None, 1) as stack:
            _wait(stack, WATCHED)
            asyncio.run(create(config_of(stack), 1))
            _wait(stack, RECORD)
            job, *pods = asyncio.run(_job_and_pods(config_of(stack)))
        stack = ReleaseStack(Path(directory) / "many", release, jobs + 1, f"finished={jobs}")
        stack.data.mkdir()
        (stack.data / FINISHED).write_text(json.dumps([job, *pods] if with_pods else [job]), encoding="utf-8")
        try:
            stack.start_sandbox()
            _wait(stack, STORED)
            command = [sys.executable, str(HERE / "resync.py"), str(stack.kubeconfig)]
            variables = {**os.environ, **environment(release)}
            done = subprocess.run(
                command, env=variables, stdout=subprocess.PIPE, text=True, check=True, timeout=_RESYNC_SECONDS
            )
        finally:
            stack.stop()
    spent: list[float] = json.loads(done.stdout)
    return spent


async def _job_and_pods(config: dict[str, Any]) -> list[dict[str, Any]]:
    """The only job of a server, finished, and its Pods."""
    server = config["clusters"][0]["cluster"]["server"]
    async with client(config) as session:
        jobs = await _items(session, f"{server}/apis/{GROUP}/{VERSION}/namespaces/default/{PLURAL}")
        pods = await _items(session, f"{server}/api/v1/namespaces/default/pods")
    typed = [{**pod, "apiVersion": "v1", "kind": "Pod"} for pod in pods]
    return [with_curves(jobs[0]), *typed]


async def _items(session: aiohttp.ClientSession, url: str) -> list[dict[str, Any]]:
    async with session.get(url) as answer:
        answer.raise_for_status()
        items: list[dict[str, Any]] = (await answer.json())["items"]
        return items


def _wait(stack: Stack, name: str) -> None:
    deadline = time.monotonic() + LONGEST_SECONDS
    while not (stack.data / name).exists():
        stack.check()
        if time.monotonic() > deadline:
            raise StackError(f"the server did not write {name} within {LONGEST_SECONDS} s")
        time.sleep(SAMPLE_SECONDS)


def quantile(ordered: tuple[float, ...], part: float) -> float:
    """The value that this part of `ordered` does not exceed; NaN if it is empty."""
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))] if ordered else float("nan")


def rows(costs: list[Cost]) -> list[list[str]]:
    """Rows of the table: one column per release."""
    reports = [cost.reports for cost in costs]
    answers = {"p50": 0.50, "p99": 0.99, "longest": 1.0}
    spent = {
        "operator": [each.operator_cpu_seconds for each in reports],
        "API server and node": [each.server_cpu_seconds for each in reports],
        "trainers": [each.trainers_cpu_seconds for each in reports],
    }
    return [
        ["accepted reports", *(f"{len(each.answer_seconds):,}" for each in reports)],
        ["other outcomes", *(_outcomes(each) for each in reports)],
        *(
            [f"answer to a report, {name}", *(_milliseconds(quantile(each.answer_seconds, q)) for each in reports)]
            for name, q in answers.items()
        ),
        ["report sent late, p99", *(_milliseconds(quantile(each.late_seconds, 0.99)) for each in reports)],
        *(
            [f"CPU per report, {who}", *(_per_report(each, cpu) for each, cpu in zip(reports, seconds, strict=True))]
            for who, seconds in spent.items()
        ),
        ["cores in use, whole machine", *(f"{each.busy_cores:.2f}" for each in reports)],
        ["resync beside the finished jobs, CPU", *(f"{cost.jobs_cpu_seconds[-1]:.2f} s" for cost in costs)],
        ["the same with their Pods, CPU", *(f"{cost.pods_cpu_seconds[-1]:.2f} s" for cost in costs)],
    ]


def _outcomes(reports: Measurement) -> str:
    return ", ".join(f"{n:,} x {what}" for what, n in reports.refused.items()) or "0"


def _milliseconds(seconds: float) -> str:
    return f"{seconds / MILLISECOND:,.0f} ms"


def _per_report(reports: Measurement, cpu_seconds: float) -> str:
    return f"{cpu_seconds / max(1, reports.answered) / MILLISECOND:.2f} ms"


def measure(release: Previous | None, trainers: int, finished_jobs: int) -> Cost:
    """All measurements of one release, with the trainers of its time: one connection per report, or a kept one.

    Raises:
        StackError: a process died, or a step did not finish in time.
    """
    reports = measure_reports(release, trainers, INTERVAL_SECONDS, WINDOW_SECONDS, keep_alive=release is None)
    return Cost(
        reports=reports,
        jobs_cpu_seconds=measure_resync(release, finished_jobs, with_pods=False),
        pods_cpu_seconds=measure_resync(release, finished_jobs, with_pods=True),
    )


def main() -> None:
    """Run the benchmark, print the table and write it into the docs."""
    parser = argparse.ArgumentParser(description="Measure what reports and finished jobs cost the operator.")
    parser.add_argument("--trainers", type=int, default=TRAINERS)
    parser.add_argument("--finished", type=int, default=FINISHED_JOBS, metavar="JOBS")
    parser.add_argument("--no-write", action="store_true", help="leave docs/benchmarks.md as it is")
    arguments = parser.parse_args()
    machine_text, console = machine(), Console()
    with tempfile.TemporaryDirectory() as directory:
        releases = {f"previous release ({RELEASE[:7]})": extract_previous(Path(directory)), "this version": None}
        costs = []
        for name, release in releases.items():
            console.print(f"{name} ...")
            costs.append(measure(release, arguments.trainers, arguments.finished))
    header = [f"{arguments.trainers:,} trainers, {arguments.finished:,} finished jobs", *releases]
    table = Table(*header)
    for row in rows(costs):
        table.add_row(*row)
    console.print(f"Machine: {machine_text}")
    console.print(table)
    if not arguments.no_write:
        new = section(TARGET, machine_text, header, rows(costs))
        PAGE.write_text(replace_section(PAGE.read_text(encoding="utf-8"), new), encoding="utf-8")


if __name__ == "__main__":
    main()
