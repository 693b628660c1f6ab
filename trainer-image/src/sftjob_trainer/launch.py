"""Several processes for one run: one for each device of this Pod, watched together, with one verdict for all.

The processes find one another as those of torchrun do (RANK, WORLD_SIZE, MASTER_ADDR, ...); torchrun itself would end
with 1 whatever they end with.
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
from sftjob_contract.config import RunConfig
from sftjob_contract.names import ENV_RENDEZVOUS, ENV_TERMINATION_LOG, Stage
from sftjob_contract.outcome import Outcome
from sftjob_contract.reasons import Reason
from sftjob_trainer import outcome
from sftjob_trainer.environment import ENV_LAUNCHED, Environment
from sftjob_trainer.failure import Failure
from sftjob_trainer.gathering import Meeting, gather
from sftjob_trainer.watchdog import DUMP_SECONDS, DUMP_SIGNAL

GRACE_SECONDS: Final = 15.0
"""How long the others may take to end by themselves once one has failed. The leader flushes its reports meanwhile."""
COMMAND: Final = (sys.executable, "-m", "sftjob_trainer", Stage.TRAIN.value)
"""What each process runs; its environment says which of them it is."""
OTHER_NODES_SECONDS: Final = GRACE_SECONDS + 5
"""How long a Pod that does not know what went wrong lets the Pod that does end first."""
_UNKNOWN: Final = (None, Reason.INTERNAL_ERROR, Reason.INTERRUPTED)
"""Reasons of a process that may only have lost its peer."""
_THREADS: Final = "OMP_NUM_THREADS"
_SIGNAL_BASE: Final = 128


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How one process ended: `code` as of subprocess, `time` in seconds when it knew, its last word if it left one.

    `given_up`: it did not end by itself, but was killed since another one had.
    """

    rank: int
    code: int
    time: float
    outcome: Outcome | None
    given_up: bool = False


@dataclass(frozen=True, kw_only=True)
class _Child:
    rank: int
    process: subprocess.Popen[bytes]
    log: Path


def local_processes(config: RunConfig) -> int:
    """Processes in this Pod: one for each GPU, or one on the CPU."""
    return max(1, config.gpus)


def is_needed(config: RunConfig, environment: Environment) -> bool:
    """Whether this process is to start those that train, and is not one of them."""
    return environment.processes == 1 and local_processes(config) * config.nodes > 1


def launch(config: RunConfig, environment: Environment, environ: MutableMapping[str, str]) -> Outcome:
    """Start the processes of this Pod, pass signals on to them, and wait; how they ended as one.

    The Pods of several nodes first wait until all of them are here.

    Raises:
        Failure: the Pod does not know its place among the others, or one of them is gone before training began.
        SystemExit: a process was ended by a signal that nobody of ours sent. As for a run of one process, the code is
            the kernel's (128 + N) and there is no last word.
    """
    places = list(_places(config, environment, environ))
    gather(_meeting(config, environment, places[0]))
    with tempfile.TemporaryDirectory(prefix="sftjob-") as directory, _Children() as children:
        for place in places:
            children.start({**environ, **place}, Path(directory))
        ends = children.wait()
    blamed = culprit(ends)
    if blamed.outcome is None and blamed.code != 0 and -blamed.code in children.forwarded:
        failure = Failure(Reason.INTERRUPTED, "train was asked to stop while it was starting")
        return outcome.failed(Stage.TRAIN, failure)
    if config.nodes > 1 and blamed.code != 0 and _reason(blamed) is not Reason.INTERRUPTED and not _knows(blamed):
        time.sleep(OTHER_NODES_SECONDS)
    return _verdict(blamed)


def culprit(ends: Sequence[Ended]) -> Ended:
    """The process that speaks for all: the first to know a reason of its own, else the first that failed.

    A process whose peer has vanished or hangs fails as well, and may be the first to end; it says that it blames a
    peer, and speaks only where nobody else does. Where all ended alike it is that of the lowest rank, which knows the
    most.
    """
    failed = [end for end in ends if end.code != 0]
    if not failed:
        return min(ends, key=lambda end: end.rank)
    first = min(failed, key=lambda end: (not _knows(end), end.given_up, _blames_peer(end), end.time))
    if first.outcome is None or _reason(first) is Reason.INTERNAL_ERROR:
        return first
    alike = (end for end in failed if _reason(end) is _reason(first))
    return min(alike, key=lambda end: (_blames_peer(end), end.rank))


def _knows(end: Ended) -> bool:
    return _reason(end) not in _UNKNOWN


def _blames_peer(end: Ended) -> bool:
    return end.outcome is not None and end.outcome.blames_peer


def _reason(end: Ended) -> Reason | None:
    return None if end.outcome is None else end.outcome.reason


def _verdict(end: Ended) -> Outcome:
    if end.outcome is not None:
        return end.outcome
    if end.code < 0:
        sys.stderr.write(f"the process of rank {end.rank} was ended by {signal.Signals(-end.code).name}\n")
        sys.exit(_SIGNAL_BASE - end.code)
    message = f"the process of rank {end.rank} ended with exit code {end.code} and left no message"
    return outcome.failed(Stage.TRAIN, Failure(Reason.INTERNAL_ERROR, message))


def _places(config: RunConfig, environment: Environment, environ: Mapping[str, str]) -> Iterator[Mapping[str, str]]:
    """What to add to the environment of each process of this Pod, by rank."""
    here = local_processes(config)
    address, port = _rendezvous(config, environment)
    threads = int(environ.get(_THREADS) or 0) or len(os.sched_getaffinity(0))
    for local_rank in range(here):
        yield {
            ENV_LAUNCHED: str(os.getpid()),
            "RANK": str(environment.node_rank * here + local_rank),
            "LOCAL_RANK": str(local_rank),
            "WORLD_SIZE": str(here * config.nodes),
            "LOCAL_WORLD_SIZE": str(here),
            "MASTER_ADDR": address,
            "MASTER_PORT": port,
            _THREADS: str(max(1, threads // here)),
        }


def _meeting(config: RunConfig, environment: Environment, place: Mapping[str, str]) -> Meeting:
    """Where the Pods wait for one another: at the address that their processes meet at later."""
    return Meeting(
        rank=environment.node_rank,
        size=config.nodes,
        host=place["MASTER_ADDR"],
        port=int(place["MASTER_PORT"]),
        key=f"{config.job.uid}/{environment.attempt}",
    )


def _rendezvous(config: RunConfig, environment: Environment) -> tuple[str, str]:
    """Host and port at which the processes meet."""
    if config.nodes != environment.nodes:
        raise Failure(
            Reason.INTERNAL_ERROR, f"the run has {config.nodes} nodes, but this Pod is one of {environment.nodes}"
        )
    if config.nodes == 1:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            return "127.0.0.1", str(free.getsockname()[1])
    host, colon, port = (environment.rendezvous or "").rpartition(":")
    if not (host and colon and port.isdigit()):
        raise Failure(
            Reason.INTERNAL_ERROR,
            f"the environment variable {ENV_RENDEZVOUS} must be HOST:PORT, not {environment.rendezvous!r}",
        )
    return host, port


class _Children:
    """Context manager: signals go to the processes that were started, and none of them outlives it.

    DUMP_SIGNAL goes to all of them too when one sends it: see `write_peers_stacks`.
    """

    def __init__(self) -> None:
        self.forwarded: list[int] = []
        self._started: list[_Child] = []
        self._over: queue.SimpleQueue[_Child] = queue.SimpleQueue()
        self._knew: dict[int, float] = {}
        self._given_up: set[int] = set()

    def __enter__(self) -> Self:
        handlers = {signal.SIGTERM: self._forward, signal.SIGINT: self._forward, DUMP_SIGNAL: self._pass_on}
        self._before = {number: signal.signal(number, handler) for number, handler in handlers.items()}
        return self

    def __exit__(self, *_: object) -> None:
        self._kill()
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def start(self, environ: Mapping[str, str], directory: Path) -> None:
        """One process, which leaves its last word in `directory`."""
        rank = int(environ["RANK"])
        log = directory / f"outcome-{rank}.json"
        process = subprocess.Popen(COMMAND, env={**environ, ENV_TERMINATION_LOG: str(log)})  # noqa: S603 -- ourselves
        child = _Child(rank=rank, process=process, log=log)
        self._started.append(child)
        for number in self.forwarded:
            process.send_signal(number)
        threading.Thread(target=self._await, args=(child,), daemon=True).start()

    def wait(self) -> list[Ended]:
        """How each of them ended. Once one has failed the others have GRACE_SECONDS."""
        ends: list[Ended] = []
        deadline: float | None = None
        failed = False
        while len(ends) < len(self._started):
            try:
                child = self._over.get(timeout=None if deadline is None else max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                self._give_up(ends)
                deadline = None
                continue
            end = _ended(child, self._knew[child.rank])
            ends.append(replace(end, given_up=end.outcome is None and child.rank in self._given_up))
            if child.process.returncode != 0 and not failed:
                failed, deadline = True, time.monotonic() + GRACE_SECONDS
        return ends

    def _await(self, child: _Child) -> None:
        child.process.wait()
        self._knew[child.rank] = time.time()
        self._over.put(child)

    def _forward(self, number: int, frame: FrameType | None) -> None:
        self.forwarded.append(number)
        self._pass_on(number, frame)

    def _pass_on(self, number: int, _frame: FrameType | None) -> None:
        self._signal(number)

    def _give_up(self, ends: Sequence[Ended]) -> None:
        """Let those that go on write down where they are, and end them."""
        self._given_up = {child.rank for child in self._started} - {end.rank for end in ends}
        self._signal(DUMP_SIGNAL)
        time.sleep(DUMP_SECONDS)
        self._kill()

    def _signal(self, number: int) -> None:
        for child in self._started:
            child.process.send_signal(number)

    def _kill(self) -> None:
        self._signal(signal.SIGKILL)


def _ended(child: _Child, over: float) -> Ended:
    """A process knows why it ends when it writes so; taking itself down can last longer than another's whole end."""
    try:
        said = from_json(Outcome, child.log.read_bytes(), ignore_unknown=True)
        over = child.log.stat().st_mtime
    except (OSError, ContractError):
        said = None
    code = child.process.returncode
    if said is not None and said.exit_code != code:
        said = None
    return Ended(rank=child.rank, code=code, time=over, outcome=said)
