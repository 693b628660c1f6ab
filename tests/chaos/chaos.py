"""Chaos: real trainers, the operator and an API server, and everything that can go wrong, drawn from a seed.

Each round is one small job, to which random things happen; after each the invariants are checked, and the weights have
to be those of a job that was left alone, bit for bit. `make chaos` prints a table of what was done and what came of it.
"""

import argparse
import random
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import zip_longest
from pathlib import Path
from typing import Final, Generic, Self, TypeVar

import yaml
from rich.console import Console
from rich.table import Table

from chaos import admission
from chaos.eyes import Eyes, Status
from chaos.mischief import DEEDS, GRACEFUL, WEIGHTS, Done, Victim, allowed, name
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.layout import OUTPUT_MODEL
from sftjob_contract.reasons import Reason
from sftjob_dev.stack import end_on_signals
from support.clients.kubectl import Kubectl
from support.faults import faulty, full, processes, slow
from support.jobs.builders import JobBuilder
from support.jobs.small_jobs import a_small_job, provide_input
from support.servers.hostile_api import WRITES, Asked, Fault, Storm, no_faults
from support.stacks.hostile_stack import HostileStack

STEPS: Final = 60
SAVE_STEPS: Final = 10
KEEP: Final = 3
LAST_DEED_STEP: Final = 40
"""Nothing is done after it, so that the run still goes on when it is done."""
STEP_SECONDS: Final = 0.1
DEEDS_A_ROUND: Final = 3
FAULT_RATE: Final = 0.1
CALM: Final = (True, False, False)
"""Of so many rounds, those in which the API server is well: the operator has no excuse for not knowing a reason."""
PROCESSES: Final = (2, 1)
"""As how many processes the jobs train, in turn."""
DISK_FULL: Final = (True, False, False, False, False)
"""Of so many rounds, those in which the volume is too small for a checkpoint."""
SAVED: Final = frozenset({Reason.INTERRUPTED, Reason.PREEMPTED, Reason.EVICTED})
"""Reasons of attempts that could save before they ended."""

Card = TypeVar("Card")


class Deck(Generic[Card]):
    """Cards in random order; each comes once before any comes again."""

    def __init__(self, cards: Sequence[Card], random: random.Random) -> None:
        self._cards = cards
        self._random = random
        self._left: list[Card] = []

    def draw(self) -> Card:
        """The next one."""
        self._left = self._left or self._random.sample(self._cards, len(self._cards))
        return self._left.pop()


@dataclass
class Tally:
    """What was done, and what came of it."""

    injected: Counter[str] = field(default_factory=Counter)
    ends: Counter[str] = field(default_factory=Counter)
    """Attempts by the reason that they ended with."""
    rounds: int = 0
    recoveries: int = 0
    """Attempts that followed another, and operators that followed another."""
    steps_lost: int = 0
    """Steps that had to be done again."""
    denials: Counter[str] = field(default_factory=Counter)
    """Creates that admission refused, by what refused them."""
    violations: list[str] = field(default_factory=list)


class Chaos:
    """A stack on which rounds are played."""

    def __init__(self, directory: Path, seed: int, console: Console) -> None:
        self.tally = Tally()
        self._random = random.Random(seed)
        self._deeds = Deck(DEEDS, self._random)
        self._calm, self._full = Deck(CALM, self._random), Deck(DISK_FULL, self._random)
        self._console = console
        self.stack = HostileStack(directory, progress_interval_seconds=1)
        self.kubectl = Kubectl(self.stack.kubeconfig, directory / "kubectl-cache")
        self._weights: dict[int, bytes] = {}

    def __enter__(self) -> Self:
        with ExitStack() as on_error:
            on_error.enter_context(self.stack)
            provide_input(self.stack, self.kubectl, rows=200)
            on_error.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.stop()

    def play(self) -> None:
        """One round."""
        number = PROCESSES[self.tally.rounds % len(PROCESSES)]
        self.tally.rounds += 1
        job, draw = f"round-{self.tally.rounds}", self._random
        calm = self._calm.draw()
        full_at = draw.randrange(2, 6) * SAVE_STEPS if self._full.draw() else None
        weights = self._undisturbed(number)
        self.stack.api.plan = no_faults if calm else Storm(draw.randrange(2**32), FAULT_RATE, _may)
        faults = [slow(STEP_SECONDS), processes(number), *([] if full_at is None else [full(full_at)])]
        eyes = self._apply(_job(job).env(**faulty(*faults)))
        victim = Victim(job, self.stack, self.kubectl, eyes, random.Random(draw.random()))
        done = self._disturb(victim)
        self.stack.keep_operator(until=lambda: eyes.ended)
        self.stack.api.plan = no_faults
        expected = "Succeeded" if full_at is None else Reason.DISK_FULL
        found = [
            *eyes.violations(keep=KEEP, broken=victim.broken),
            *wrong_ends(eyes.attempts, done, blind=not calm, disk_full=full_at is not None),
            *self._wrong_result(eyes, expected, weights),
        ]
        self._note(victim, [each.deed for each in done] + ["disk full"] * (full_at is not None))
        told = ", ".join(f"{each.deed} (attempt {each.attempt})" for each in done)
        kind = f"{number} process{'es' * (number > 1)}{', calm' * calm}{', disk full' * (full_at is not None)}"
        self._console.print(
            f"{job} ({kind}): {told}: {eyes.status['phase']}, {len(eyes.attempts)} attempts", soft_wrap=True
        )
        for violation in found:
            self.tally.violations.append(f"{job}: {violation}")
            self._console.print(f"{job}: {violation}", style="red")

    def refuse(self, directory: Path, seed: int) -> None:
        """Play the stage of hostile admission on a stack of its own."""
        refused = admission.play(directory, seed)
        self.tally.denials.update(refused.denials)
        self.tally.violations += refused.violations
        told = f"{admission.JOBS} jobs, {refused.denials.total()} creates refused"
        self._console.print(f"hostile admission: {told}, {len(refused.violations)} violations", soft_wrap=True)
        for violation in refused.violations:
            self._console.print(violation, style="red")

    def _undisturbed(self, number: int) -> bytes:
        """Weights of the job that is left alone, trained as so many processes."""
        if number not in self._weights:
            job = f"undisturbed-{number}"
            eyes = self._apply(_job(job).env(**faulty(processes(number))))
            self.stack.keep_operator(until=lambda: eyes.ended)
            if eyes.status["phase"] != "Succeeded":
                raise RuntimeError(f"the job that is left alone did not succeed: {eyes.status}")
            self._weights[number] = self._output(job)
        return self._weights[number]

    def _note(self, victim: Victim, injected: list[str]) -> None:
        attempts = victim.eyes.attempts
        self.tally.injected.update(injected)
        self.tally.ends.update(attempt["reason"] for attempt in attempts)
        self.tally.recoveries += len(attempts) - 1 + injected.count("kill operator")
        self.tally.steps_lost += victim.repeated()

    def _apply(self, job: JobBuilder) -> Eyes:
        self.kubectl("apply", "-f", "-", text=yaml.safe_dump(job.manifest()))
        return Eyes(self.stack.kubeconfig, job.metadata["name"])

    def _disturb(self, victim: Victim) -> list[Done]:
        """Do something at some steps of the job."""
        done: list[Done] = []
        eyes, lines_before = victim.eyes, 0
        for step in sorted(victim.random.sample(range(2, LAST_DEED_STEP), DEEDS_A_ROUND)):

            def trains(step: int = step, lines_before: int = lines_before) -> bool:
                lines, reached = victim.told()
                return eyes.ended or (eyes.live is not None and lines > lines_before and reached >= step)

            self.stack.keep_operator(until=trains)
            if eyes.ended or (live := eyes.live) is None:
                break
            pod, attempt = live
            deed = self._deeds.draw()
            done.append(Done(name(deed), attempt, deed(victim, pod)))
            lines_before, _ = victim.told()
        return done

    def _wrong_result(self, eyes: Eyes, expected: str, weights: bytes) -> list[str]:
        if expected != "Succeeded":
            return [] if eyes.attempts[-1]["reason"] == expected else [f"it did not end as {expected}"]
        if eyes.status["phase"] != expected:
            return [f"it ended as {eyes.status['phase']}: {eyes.status['conditions']}"]
        same = self._output(eyes.job) == weights
        return [] if same else ["its weights are not those of the undisturbed job"]

    def _output(self, job: str) -> bytes:
        return (self.stack.volume(job) / OUTPUT_MODEL / WEIGHTS).read_bytes()

    def table(self) -> Table:
        """What was done, by kind, and what came of it."""
        table = Table("", "number")
        for what, times in sorted(self.tally.injected.items()):
            table.add_row(what, str(times))
        for fault, times in sorted(self.stack.api.injected.items()):
            table.add_row(f"API server: {fault}", str(times))
        for what, times in sorted(self.tally.denials.items()):
            table.add_row(f"admission: {what}", str(times))
        table.add_section()
        for reason, times in sorted(self.tally.ends.items()):
            table.add_row(f"attempts that ended with {reason}", str(times))
        table.add_section()
        for what in ("rounds", "recoveries", "steps_lost"):
            table.add_row(what.replace("_", " "), str(getattr(self.tally, what)))
        table.add_row("violations", str(len(self.tally.violations)))
        return table


def _job(name: str) -> JobBuilder:
    return (
        a_small_job(name)
        .training(max_steps=STEPS, precision="fp32", seed=7)
        .checkpoints(every_steps=SAVE_STEPS, keep=KEEP)
        .failure_policy(max_retries=20, backoff_seconds=1)
    )


def _may(asked: Asked, fault: Fault) -> bool:
    """What a server calls invalid is no passing failure, unless it was about a status, which is written again."""
    return fault != Fault.INVALID or (asked.verb in WRITES and asked.subresource == "status")


def wrong_ends(attempts: Sequence[Status], done: Sequence[Done], *, blind: bool, disk_full: bool) -> list[str]:
    """Attempts that ended with a reason that is not that of what was done to them, or lost steps without need."""
    found = []
    for attempt, after in zip_longest(attempts, attempts[1:]):
        ours = [each for each in done if each.attempt == attempt["number"]]
        reasons = allowed(ours, blind=blind) | {"Completed"} | ({Reason.DISK_FULL} if disk_full else set())
        told = f"attempt {attempt['number']} ({', '.join(each.deed for each in ours) or 'nothing was done to it'})"
        if attempt["reason"] not in reasons:
            found.append(f"{told} ended with {attempt['reason']}: {attempt.get('message')}")
        saves = attempt["reason"] in SAVED and {each.deed for each in ours if each.reasons} <= GRACEFUL
        if saves and attempt.get("exitCode") != ExitCode.RETRY:
            found.append(f"{told} ended with exit code {attempt.get('exitCode')}, though it had the time to save")
        if saves and after is not None and (lost := _steps_lost(attempt, after)):
            found.append(f"{told} lost {lost} steps, though it had the time to save")
    return found


def _steps_lost(before: Status, after: Status) -> int:
    """Steps that an attempt had done and the next one had to do again."""
    reached, begins = before.get("reachedStep", 0), after.get("fromStep", 0)
    return max(0, int(reached) - int(begins))


def main() -> int:
    """Play rounds until the time is over."""
    parser = argparse.ArgumentParser(description="Play rounds of chaos.")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32), help="default: a new one")
    parser.add_argument("--minutes", type=float, default=7.0, help="begin no round after so long; default: 7")
    arguments = parser.parse_args()
    end_on_signals()
    console = Console()
    console.print(f"seed {arguments.seed}")
    end = time.monotonic() + 60 * arguments.minutes
    with tempfile.TemporaryDirectory() as directory, Chaos(Path(directory), arguments.seed, console) as chaos:
        while time.monotonic() < end:
            chaos.play()
        with tempfile.TemporaryDirectory() as stage:
            chaos.refuse(Path(stage), arguments.seed)
        console.print(chaos.table())
    return 1 if chaos.tally.violations else 0


if __name__ == "__main__":
    sys.exit(main())
