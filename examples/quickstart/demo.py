"""Run the quickstart from scratch to two finished jobs: no cluster, no GPU, no kubectl.

Starts the local stack, generates model and data, applies the two SFTJobs one after the other, and shows their progress
and results. The exit code is 0 only if both succeeded and learned what they should.
"""

import os
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from examples.quickstart import dataset
from examples.quickstart.answer import answers
from examples.quickstart.display import Screen, curve, status_table
from sftjob_contract.layout import ClaimPath
from sftjob_dev.cluster import Cluster, Object
from sftjob_dev.stack import DATA, Stack, StackError, end_on_signals, log_end

HERE: Final = Path(__file__).resolve().parent
CLAIM: Final = "quickstart-data"
JOB_SECONDS: Final = 1800
"""A job that takes longer than this on any machine is stuck."""
WATCH_SECONDS: Final = 10
"""Interval for checking that the stack is still alive."""
LOG_LINES: Final = 30
ANSWER_WIDTH: Final = 100
PHASES: Final = ("Pending", "Preparing", "Running", "Succeeded")
UPDATES: Final = 3
"""Minimum number of different steps to observe in the status of a job: one between its first and its last.

A fast machine shows few more, since the status is written every few seconds."""
LOSS_RATIO: Final = 0.6
"""Evaluation loss after full fine-tuning must be below this share of the initial one."""
QUESTIONS: Final = (
    "What does `queue.Queue.clear` do?",
    "What does `pathlib.Path.read_lines` do?",
    "What does `asyncio.streams.StreamReader.read` do?",
)


@dataclass(frozen=True)
class Followed:
    """A job at its end, with the observed phases and steps, each once, in order."""

    job: Object
    phases: tuple[str, ...]
    steps: tuple[int, ...]

    @property
    def succeeded(self) -> bool:
        """Whether the job succeeded."""
        return bool(self.job["status"]["phase"] == "Succeeded")

    def metric(self, name: str) -> float:
        """A final metric; NaN, which fails every comparison, if the job has none."""
        return float(self.job["status"].get("output", {}).get("metrics", {}).get(name, "nan"))


def finished(job: Object) -> bool:
    """Whether the job has ended, successfully or not."""
    conditions = job.get("status", {}).get("conditions", [])
    return any(condition["type"] == "Succeeded" and condition["status"] != "Unknown" for condition in conditions)


def follow(stack: Stack, cluster: Cluster, name: str, screen: Screen) -> Followed:
    """Show a job until it ends.

    Raises:
        StackError: a part of the stack died, or the job did not end in time.
    """
    phases: list[str] = []
    steps: list[int] = []
    for job in _changes(stack, cluster, name):
        screen.show(job)
        status = job.get("status", {})
        if (phase := status.get("phase")) is not None and phases[-1:] != [phase]:
            phases.append(phase)
        if (step := status.get("progress", {}).get("step")) is not None and steps[-1:] != [step]:
            steps.append(step)
        if finished(job):
            return Followed(job, tuple(phases), tuple(steps))
    raise StackError(
        f"{name} did not end within {JOB_SECONDS} s; the operator's log ends with:\n{log_end(stack.operator_log)}"
    )


def failures(full: Followed, lora: Followed | None) -> list[str]:
    """Unmet expectations, one sentence each."""
    found = []
    before, after = full.metric("initialEvalLoss"), full.metric("evalLoss")
    for followed in (full, lora):
        if followed is not None and followed.succeeded:
            found += _unseen(followed)
    if not full.succeeded:
        found.append(f"quickstart ended as {full.job['status']['phase']}: {_message(full.job)}")
    elif not after < LOSS_RATIO * before:
        found.append(f"quickstart: evaluation loss {after:.3f} is not below {LOSS_RATIO:.0%} of {before:.3f}")
    if lora is not None and not lora.succeeded:
        found.append(f"quickstart-lora ended as {lora.job['status']['phase']}: {_message(lora.job)}")
    elif lora is not None and not lora.metric("evalLoss") < after:
        found.append(f"quickstart-lora: evaluation loss {lora.metric('evalLoss'):.3f} is not below {after:.3f}")
    return found


def _unseen(followed: Followed) -> list[str]:
    """Expected changes in the status of a successful job that were not observed."""
    name, found = followed.job["metadata"]["name"], []
    if followed.phases not in (PHASES, PHASES[1:]):  # a busy machine can miss Pending, which lasts less than a second
        found.append(f"{name} went through {', '.join(followed.phases)}, not {', '.join(PHASES)}")
    if len(followed.steps) < UPDATES or list(followed.steps) != sorted(followed.steps):
        found.append(f"{name}: its step was seen as {followed.steps}, not as at least {UPDATES} rising ones")
    return found


def run(stack: Stack, console: Console) -> list[str]:
    """Run both jobs on a started stack and show everything; returns the failures."""
    cluster = Cluster(stack.kubeconfig)
    _say(console, "Making a data set, a tokenizer and a small model ...")
    dataset.write(stack.volume(CLAIM))
    cluster.apply(HERE / "data.yaml")
    full = _job(stack, cluster, "quickstart", "sftjob.yaml", console)
    lora = _job(stack, cluster, "quickstart-lora", "lora.yaml", console) if full.succeeded else None
    console.print()
    console.print(status_table(cluster.table()))
    ended = [followed for followed in (full, lora) if followed is not None]
    for followed in ended:
        if followed.succeeded:
            _show_result(stack, followed, console)
        else:
            _show_logs(cluster, followed, console)
    if lora is not None and lora.succeeded:
        _show_answers(stack, full, lora, console)
    return failures(full, lora)


def _changes(stack: Stack, cluster: Cluster, name: str) -> Iterator[Object]:
    deadline = time.monotonic() + JOB_SECONDS
    while time.monotonic() < deadline:
        stack.check()
        yield from cluster.follow(name, WATCH_SECONDS)


def _job(stack: Stack, cluster: Cluster, name: str, manifest: str, console: Console) -> Followed:
    _say(console, f"\nkubectl apply -f examples/quickstart/{manifest}")
    cluster.apply(HERE / manifest)
    with Screen(console) as screen:
        followed = follow(stack, cluster, name, screen)
    _say(console, " > ".join(followed.phases))
    return followed


def _show_result(stack: Stack, followed: Followed, console: Console) -> None:
    before, after = followed.metric("initialEvalLoss"), followed.metric("evalLoss")
    _say(console, f"\n{curve(followed.job)}")
    _say(console, f"Evaluation loss {before:.3f} -> {after:.3f} ({after / before:.0%})")
    _say(console, f"Output: {_place(stack, followed.job)}")
    _say(console, f"Logs and metrics: {stack.volume(followed.job['metadata']['name']) / 'logs'}")


def _show_logs(cluster: Cluster, followed: Followed, console: Console) -> None:
    for pod, log in cluster.logs(followed.job["metadata"]["name"], LOG_LINES).items():
        _say(console, f"\nThe last lines of {pod}:\n{log}")


def _show_answers(stack: Stack, full: Followed, lora: Followed, console: Console) -> None:
    """Show the answers of the untrained model, the tuned one and the one with the adapter."""
    tuned, adapter = _place(stack, full.job), _place(stack, lora.job)
    shown = {
        "untuned": answers(QUESTIONS, stack.volume(CLAIM) / "model"),
        "tuned": answers(QUESTIONS, tuned),
        "tuned, then LoRA": answers(QUESTIONS, tuned, adapter),
    }
    for number, question in enumerate(QUESTIONS):
        _say(console, f"\n{question}")
        for name, texts in shown.items():
            _say(console, f"  {name}: {_readable(texts[number])}")


def _readable(text: str) -> str:
    """`text` on one line, without unprintable characters: an untrained model generates anything."""
    shown = "".join(character if character.isprintable() and character != "\ufffd" else "?" for character in text)
    return shown if len(shown) <= ANSWER_WIDTH else f"{shown[:ANSWER_WIDTH]} ..."


def _say(console: Console, text: str, style: str | None = None) -> None:
    """Print `text` unchanged: no markup, no colors of rich's own, no added line breaks."""
    console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)


def _place(stack: Stack, job: Object) -> Path:
    """Directory of `pvc://CLAIM/PATH` in the sandbox."""
    place = ClaimPath.parse(job["status"]["output"]["uri"])
    return stack.volume(place.claim) / place.path


def _message(job: Object) -> str:
    conditions = job["status"].get("conditions", [])
    return next((condition["message"] for condition in conditions if condition["type"] == "Succeeded"), "no reason")


def main() -> int:
    """Run the demo; returns the exit code."""
    os.environ.update(HF_HUB_OFFLINE="1", HF_HUB_DISABLE_PROGRESS_BARS="1", TRANSFORMERS_VERBOSITY="error")
    end_on_signals()
    console = Console()
    began = time.monotonic()
    try:
        _say(console, "Starting a local API server (an emulator, not a cluster), a node and the operator ...")
        with Stack(DATA) as stack:
            wrong = run(stack, console)
    except StackError as error:
        wrong = [str(error)]
    except KeyboardInterrupt:
        wrong = ["interrupted"]
    _say(console, f"\n{time.monotonic() - began:.0f} s")
    for sentence in wrong:
        _say(console, f"FAILED: {sentence}", style="bold red")
    if not wrong:
        _say(console, "Both jobs succeeded, and both learned. `make sandbox` starts the same for you to play with.")
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
