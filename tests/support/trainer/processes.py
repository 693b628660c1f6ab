"""The Train stage as several real processes on this machine's CPU: one Pod, or one Pod a node, with faults on order."""

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from sftjob_contract import names
from sftjob_contract.codec import from_json, to_json
from sftjob_contract.names import Stage
from sftjob_contract.reports.outcome import Outcome
from sftjob_contract.reports.stats import PreparedStats
from sftjob_contract.run.config import RunConfig
from support.faults import DIRECTORY, Fault, faulty, processes
from support.forking import write_python
from support.trainer.training import write_prepared

LIMIT_SECONDS: Final = 200
"""Nothing here hangs: a Pod that has not ended by then is a failure."""


@dataclass(frozen=True)
class Ended:
    """How a Pod's trainer ended."""

    code: int
    outcome: Outcome | None
    out: str
    err: str


@dataclass(frozen=True)
class Pod:
    """A running trainer."""

    process: "subprocess.Popen[str]"
    directory: Path

    def end(self) -> Ended:
        """Wait for the end, which comes in bounded time."""
        out, err = self.process.communicate(timeout=LIMIT_SECONDS)
        log = self.directory / "termination-log"
        said = from_json(Outcome, log.read_bytes(), ignore_unknown=False) if log.exists() else None
        return Ended(self.process.returncode, said, out, err)


def prepare_for_two(volume: Path, config: RunConfig, **options: Any) -> PreparedStats:
    """What Prepare would leave for two devices."""
    return write_prepared(volume, replace(config, gpus=2, nodes=1), **options)


def train_in_one(directory: Path, volume: Path, config: RunConfig, *faults: Fault, **environ: str) -> Ended:
    """Train as one Pod with one process, which misbehaves as `faults` say."""
    with started(directory, volume, config, environ, (processes(1), *faults)) as pod:
        return pod.end()


def train_in_two(directory: Path, volume: Path, config: RunConfig, *faults: Fault, **environ: str) -> Ended:
    """Train as one Pod with two processes, each on the CPU, which misbehave as `faults` say."""
    with started(directory, volume, config, environ, (processes(2), *faults)) as pod:
        return pod.end()


@contextmanager
def two_nodes(directory: Path, volume: Path, config: RunConfig, *faults: Fault) -> Iterator[Sequence[Pod]]:
    """Two Pods on two nodes, with a process each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    places = [
        {names.ENV_NODES: "2", names.ENV_NODE_RANK: str(rank), names.ENV_RENDEZVOUS: f"localhost:{port}"}
        for rank in range(2)
    ]
    with ExitStack() as running:
        yield [
            running.enter_context(started(directory / str(rank), volume, config, place, (processes(1), *faults)))
            for rank, place in enumerate(places)
        ]


@contextmanager
def started(
    directory: Path, volume: Path, config: RunConfig, changes: Mapping[str, str], faults: Sequence[Fault]
) -> Iterator[Pod]:
    """A Pod, whose files lie in `directory`; what is left of it at the end is killed."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(to_json(config))
    python = directory / "python"
    write_python(python, str(DIRECTORY), *filter(None, sys.path))
    environ = {
        "PATH": os.environ["PATH"],
        **faulty(*faults),
        "OMP_NUM_THREADS": "1",
        names.ENV_RUN_CONFIG: str(directory / "config.json"),
        names.ENV_VOLUME: str(volume),
        names.ENV_TERMINATION_LOG: str(directory / "termination-log"),
        **changes,
    }
    with subprocess.Popen(
        [python, "-m", "sftjob_trainer", Stage.TRAIN],
        env=environ,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        try:
            yield Pod(process, directory)
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
