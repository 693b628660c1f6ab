"""Launch the processes of a run: one per device of this Pod, supervised together, with one verdict for all.

The processes find each other through torchrun's variables (RANK, WORLD_SIZE, MASTER_ADDR, ...). torchrun itself always
exits with 1, whatever exit code they have.
"""

import os
import queue
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Final, Self

from sftjob_contract.codec import ContractError, from_json
from sftjob_contract.names import ENV_RENDEZVOUS, ENV_TERMINATION_LOG, Stage
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.outcome import Outcome
from sftjob_contract.run.config import RunConfig
from sftjob_trainer.distributed.rendezvous import Rendezvous, wait_for_pods
from sftjob_trainer.process import termination
from sftjob_trainer.process.environment import ENV_LAUNCHED, Environment
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.watchdog import DUMP_SECONDS, DUMP_SIGNAL

GRACE_SECONDS: Final = 15.0
"""How long the other processes may take to end after one has failed. The leader flushes its reports meanwhile."""
COMMAND: Final = (sys.executable, "-m", "sftjob_trainer", Stage.TRAIN.value)
"""Command of each process; its environment identifies it."""
OTHER_NODES_SECONDS: Final = GRACE_SECONDS + 5
"""How long a Pod without a known cause waits for the Pod that has one to end first."""
_UNKNOWN: Final = (None, Reason.INTERNAL_ERROR, Reason.INTERRUPTED)
"""Reasons of a process that may only have lost its peer."""
_THREADS: Final = "OMP_NUM_THREADS"
_SIGNAL_BASE: Final = 128


@dataclass(frozen=True, kw_only=True)
class ProcessExit:
    """How one process ended: `code` as in subprocess, `time` in seconds when it knew, and its outcome if it left one.

    `was_killed`: it did not end by itself and was killed because another one had ended.
    """

    rank: int
    code: int
    time: float
    outcome: Outcome | None
    was_killed: bool = False


@dataclass(frozen=True, kw_only=True)
class _Child:
    rank: int
    process: subprocess.Popen[bytes]
    log: Path


def local_processes(config: RunConfig) -> int:
    """Processes in this Pod: one per GPU, or one on the CPU."""
    return max(1, config.gpus)


def needs_launcher(config: RunConfig, environment: Environment) -> bool:
    """Whether this process has to launch the training processes and is not one of them."""
    return environment.processes == 1 and local_processes(config) * config.nodes > 1


def launch(config: RunConfig, environment: Environment, environ: MutableMapping[str, str]) -> Outcome:
    """Start the processes of this Pod, forward signals to them, and wait; returns their combined outcome.

    The Pods of several nodes first wait for each other.

    Raises:
        StageError: the Pod does not know its rank, or another Pod disappeared before training began.
        SystemExit: a process was killed by a signal that the trainer did not send. As in a run with one process, the
            code is the kernel's (128 + N) and there is no outcome.
    """
    locations = list(_process_variables(config, environment, environ))
    wait_for_pods(_pod_rendezvous(config, environment, locations[0]))
    with tempfile.TemporaryDirectory(prefix="sftjob-") as directory, _Children() as children:
        for location in locations:
            children.start({**environ, **location}, Path(directory))
        exits = children.wait()
    cause = find_root_cause(exits)
    if cause.outcome is None and cause.code != 0 and -cause.code in children.forwarded:
        failure = StageError(Reason.INTERRUPTED, "train was stopped while it was starting")
        return termination.failed(Stage.TRAIN, failure)
    if config.nodes > 1 and cause.code != 0 and _reason(cause) is not Reason.INTERRUPTED and not _has_cause(cause):
        time.sleep(OTHER_NODES_SECONDS)
    return _combined_outcome(cause)


def find_root_cause(exits: Sequence[ProcessExit]) -> ProcessExit:
    """The process whose outcome represents all: the first one with a cause of its own, else the first that failed.

    A process whose peer has disappeared or hangs fails as well, and may end first. It reports that it blames a peer,
    and is chosen only if no other process has a cause. If all ended alike, the lowest rank is chosen, which has the
    most information.
    """
    failed = [process_exit for process_exit in exits if process_exit.code != 0]
    if not failed:
        return min(exits, key=lambda process_exit: process_exit.rank)
    first = min(
        failed,
        key=lambda process_exit: (
            not _has_cause(process_exit),
            process_exit.was_killed,
            _blames_peer(process_exit),
            process_exit.time,
        ),
    )
    if first.outcome is None or _reason(first) is Reason.INTERNAL_ERROR:
        return first
    alike = (process_exit for process_exit in failed if _reason(process_exit) is _reason(first))
    return min(alike, key=lambda process_exit: (_blames_peer(process_exit), process_exit.rank))


def _has_cause(process_exit: ProcessExit) -> bool:
    return _reason(process_exit) not in _UNKNOWN


def _blames_peer(process_exit: ProcessExit) -> bool:
    return process_exit.outcome is not None and process_exit.outcome.blames_peer


def _reason(process_exit: ProcessExit) -> Reason | None:
    return None if process_exit.outcome is None else process_exit.outcome.reason


def _combined_outcome(process_exit: ProcessExit) -> Outcome:
    if process_exit.outcome is not None:
        return process_exit.outcome
    if process_exit.code < 0:
        sys.stderr.write(
            f"the process of rank {process_exit.rank} was ended by {signal.Signals(-process_exit.code).name}\n"
        )
        sys.exit(_SIGNAL_BASE - process_exit.code)
    message = f"the process of rank {process_exit.rank} ended with exit code {process_exit.code} and left no message"
    return termination.failed(Stage.TRAIN, StageError(Reason.INTERNAL_ERROR, message))


def _process_variables(
    config: RunConfig, environment: Environment, environ: Mapping[str, str]
) -> Iterator[Mapping[str, str]]:
    """Variables to add to the environment of each process of this Pod, by rank."""
    local_count = local_processes(config)
    address, port = _rendezvous_address(config, environment)
    threads = int(environ.get(_THREADS) or 0) or len(os.sched_getaffinity(0))
    for local_rank in range(local_count):
        yield {
            ENV_LAUNCHED: str(os.getpid()),
            "RANK": str(environment.node_rank * local_count + local_rank),
            "LOCAL_RANK": str(local_rank),
            "WORLD_SIZE": str(local_count * config.nodes),
            "LOCAL_WORLD_SIZE": str(local_count),
            "MASTER_ADDR": address,
            "MASTER_PORT": port,
            _THREADS: str(max(1, threads // local_count)),
        }


def _pod_rendezvous(config: RunConfig, environment: Environment, location: Mapping[str, str]) -> Rendezvous:
    """Where the Pods wait for each other: at the address that their processes use later."""
    return Rendezvous(
        rank=environment.node_rank,
        size=config.nodes,
        host=location["MASTER_ADDR"],
        port=int(location["MASTER_PORT"]),
        key=f"{config.job.uid}/{environment.attempt}",
    )


def _rendezvous_address(config: RunConfig, environment: Environment) -> tuple[str, str]:
    """Host and port at which the processes meet."""
    if config.nodes != environment.nodes:
        raise StageError(
            Reason.INTERNAL_ERROR, f"the run has {config.nodes} nodes, but this Pod is one of {environment.nodes}"
        )
    if config.nodes == 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return "127.0.0.1", str(free.getsockname()[1])
    host, colon, port = (environment.rendezvous or "").rpartition(":")
    if not (host and colon and port.isdigit()):
        raise StageError(
            Reason.INTERNAL_ERROR,
            f"the environment variable {ENV_RENDEZVOUS} must be HOST:PORT, not {environment.rendezvous!r}",
        )
    return host, port


class _Children:
    """Context manager that forwards signals to the started processes and lets none of them outlive it.

    DUMP_SIGNAL is forwarded to all of them when one sends it: see `write_peers_stacks`.
    """

    def __init__(self) -> None:
        self.forwarded: list[int] = []
        self._started: list[_Child] = []
        self._finished: queue.SimpleQueue[_Child] = queue.SimpleQueue()
        self._ended_at: dict[int, float] = {}
        self._killed_ranks: set[int] = set()

    def __enter__(self) -> Self:
        handlers = {signal.SIGTERM: self._forward, signal.SIGINT: self._forward, DUMP_SIGNAL: self._relay}
        self._previous_handlers = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        for number, handler in self._previous_handlers.items():
            signal.signal(number, handler)

    def start(self, environ: Mapping[str, str], directory: Path) -> None:
        """Start one process, which writes its outcome to `directory`."""
        rank = int(environ["RANK"])
        log = directory / f"outcome-{rank}.json"
        process = subprocess.Popen(COMMAND, env={**environ, ENV_TERMINATION_LOG: str(log)})  # noqa: S603 -- ourselves
        child = _Child(rank=rank, process=process, log=log)
        self._started.append(child)
        for number in self.forwarded:
            process.send_signal(number)
        threading.Thread(target=self._await, args=(child,), daemon=True).start()

    def wait(self) -> list[ProcessExit]:
        """How each of them ended. Once one has failed, the others have GRACE_SECONDS."""
        exits: list[ProcessExit] = []
        deadline: float | None = None
        failed = False
        while len(exits) < len(self._started):
            try:
                child = self._finished.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                self._kill_remaining(exits)
                deadline = None
                continue
            process_exit = _process_exit(child, self._ended_at[child.rank])
            exits.append(
                replace(process_exit, was_killed=process_exit.outcome is None and child.rank in self._killed_ranks)
            )
            if child.process.returncode != 0 and not failed:
                failed, deadline = True, time.monotonic() + GRACE_SECONDS
        return exits

    def _await(self, child: _Child) -> None:
        child.process.wait()
        self._ended_at[child.rank] = time.time()
        self._finished.put(child)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self.forwarded.append(number)
        self._relay(number, frame)

    def _relay(self, number: int, _frame: FrameType | None) -> None:
        self._signal(number)

    def _kill_remaining(self, exits: Sequence[ProcessExit]) -> None:
        """Let the remaining processes write their stacks, then kill them."""
        self._killed_ranks = {child.rank for child in self._started} - {process_exit.rank for process_exit in exits}
        self._signal(DUMP_SIGNAL)
        time.sleep(DUMP_SECONDS)
        self._kill()

    def _signal(self, number: int) -> None:
        for child in self._started:
            child.process.send_signal(number)

    def _kill(self) -> None:
        self._signal(signal.SIGKILL)


def _process_exit(child: _Child, ended_at: float) -> ProcessExit:
    """How a process ended, timed by its outcome: shutdown can take longer than another process's whole end."""
    try:
        outcome = from_json(Outcome, child.log.read_bytes(), ignore_unknown=True)
        ended_at = child.log.stat().st_mtime
    except (OSError, ContractError):
        outcome = None
    code = child.process.returncode
    if outcome is not None and outcome.exit_code != code:
        outcome = None
    return ProcessExit(rank=child.rank, code=code, time=ended_at, outcome=outcome)
