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
from unittest.mock import patch

from sftjob_contract import names
from sftjob_contract.codec import from_json, to_json
from sftjob_contract.config import RunConfig
from sftjob_contract.outcome import Outcome
from sftjob_contract.stats import PreparedStats
from support.training import write_prepared

LIMIT_SECONDS: Final = 200
"""Nothing here hangs: a Pod that has not ended by then is a failure."""
_FAULT: Final = "FAULT"
_POD: Final = "from support import processes; processes.run_pod()"
_RANK: Final = "from support import processes; processes.run_rank()"


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


def train_in_two(directory: Path, volume: Path, config: RunConfig, **changes: str) -> Ended:
    """Train as one Pod with two processes, each on the CPU; `fault` is what befalls one of them, see `run_rank`."""
    with started(directory, volume, config, {"PROCESSES": "2", **_named(changes)}) as pod:
        return pod.end()


@contextmanager
def two_nodes(directory: Path, volume: Path, config: RunConfig, **changes: str) -> Iterator[Sequence[Pod]]:
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
            running.enter_context(
                started(directory / str(rank), volume, config, {"PROCESSES": "1", **place, **_named(changes)})
            )
            for rank, place in enumerate(places)
        ]


@contextmanager
def started(directory: Path, volume: Path, config: RunConfig, changes: Mapping[str, str]) -> Iterator[Pod]:
    """A Pod, whose files lie in `directory`; what is left of it at the end is killed."""
    directory.mkdir(parents=True)
    (directory / "config.json").write_text(to_json(config))
    environ = {
        "PATH": os.environ["PATH"],
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "OMP_NUM_THREADS": "2",
        names.ENV_RUN_CONFIG: str(directory / "config.json"),
        names.ENV_VOLUME: str(volume),
        names.ENV_TERMINATION_LOG: str(directory / "termination-log"),
        **changes,
    }
    with subprocess.Popen(
        [sys.executable, "-c", _POD, "train"],
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


def run_pod() -> None:
    """The trainer, with as many processes on the CPU as PROCESSES says where it would have one."""
    from sftjob_trainer import launch
    from sftjob_trainer.__main__ import main

    processes = int(os.environ["PROCESSES"])
    with patch.multiple(
        launch,
        local_processes=lambda _config: processes,
        COMMAND=(sys.executable, "-c", _RANK, "train"),
        OTHER_NODES_SECONDS=0.0,
    ):
        main()


def run_rank() -> None:
    """One process, with the fault FAULT (`KIND RANK STEP`) after that step of that rank.

    A number is a signal that the process gets; `pod` asks the Pod to stop, as a node does; `nan` makes the loss of the
    next step one.
    """
    from sftjob_trainer.__main__ import main

    kind, rank, step = os.environ.get(_FAULT, "none -1 -1").split()
    if rank == os.environ["RANK"]:
        _arrange(kind, int(step))
    main()


def _arrange(kind: str, step: int) -> None:
    from sftjob_trainer.evaluation import Trainer
    from sftjob_trainer.telemetry import Telemetry

    step_ended, compute_loss = Telemetry.step_ended, Trainer.compute_loss

    def ended(self: Telemetry, number: int, epoch: float) -> None:
        step_ended(self, number, epoch)
        if number == step and kind.isdigit():
            os.kill(os.getpid(), int(kind))
        if number == step and kind == "pod":
            os.kill(os.getppid(), signal.SIGTERM)

    def computed(self: Any, model: Any, *arguments: Any, **options: Any) -> Any:
        loss = compute_loss(self, model, *arguments, **options)
        broken = kind == "nan" and self.state.global_step == step and self.model.training
        return loss * float("nan") if broken else loss

    patch.object(Telemetry, "step_ended", ended).start()
    patch.object(Trainer, "compute_loss", computed).start()


def _named(changes: Mapping[str, str]) -> dict[str, str]:
    return {name.upper(): value for name, value in changes.items()}
