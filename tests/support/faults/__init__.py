"""Real trainer processes that misbehave on order.

This directory, put on PYTHONPATH, holds a `sitecustomize` which every Python process runs first. What a trainer does
wrong is a JSON list in the environment variable TRAINER_FAULTS, each fault an object with its `kind`, made by the
functions here. Their keywords `rank` (default: every one) and `attempt` (default: every one) say which process does it.

In a job: `a_job().env(**faulty(slow(0.2), oom(3, above=1)))`, on a stack whose image is made by `python_image`, since a
job cannot set PYTHONPATH; below a launcher the variables reach every process.
"""

import json
import signal as signals
from pathlib import Path
from typing import Any, Final

from support.forking import NOT_FORKED, write_python

DIRECTORY: Final = Path(__file__).parent
VARIABLE: Final = "TRAINER_FAULTS"
LET_GO: Final = "let-go"
"""A file on the job's volume."""

Fault = dict[str, Any]


def faulty(*faults: Fault) -> dict[str, str]:
    """Environment variables that make a trainer misbehave, in an image that has this directory on its PYTHONPATH."""
    whole = any(fault["kind"] == "greedy" for fault in faults)
    return {VARIABLE: json.dumps(faults), **({NOT_FORKED: "1"} if whole else {})}


def python_image(directory: Path, *import_paths: str, faults: Path = DIRECTORY) -> Path:
    """Make `directory` the programs of an image for the sandbox's `--image`: Python with these import paths first.

    `faults` is this directory as it is in the release whose trainer the image has.
    """
    directory.mkdir(parents=True, exist_ok=True)
    write_python(directory / "python", *import_paths, str(faults))
    return directory


def slow(seconds: float, **who: Any) -> Fault:
    """Every step takes at least `seconds`, so that a run lasts on a machine of any speed."""
    return {"kind": "slow", "seconds": seconds, **who}


def signal(number: int, step: int, *, to: str = "self", **who: Any) -> Fault:
    """The process gets the signal `number` after `step`; `to="parent"` sends it to the process that started it."""
    return {"kind": "signal", "number": int(number), "step": step, "to": to, **who}


def signal_in(function: str, number: int = signals.SIGTERM) -> Fault:
    """The process gets the signal `number` when it first calls `function` (a dotted name)."""
    return {"kind": "signal_in", "number": int(number), "function": function}


def killed(step: int, **who: Any) -> Fault:
    """The process is killed after `step`."""
    return signal(signals.SIGKILL, step, **who)


def nan(step: int, **who: Any) -> Fault:
    """The loss of the step after `step` is no number."""
    return {"kind": "nan", "step": step, **who}


def oom(step: int, *, above: int, evaluating: bool = False, **who: Any) -> Fault:
    """The GPU runs out of memory in the step (or `evaluating`) after `step`, with more rows at once than `above`.

    Rows at once are transformers' per_device_train_batch_size: perDeviceBatchSize, or 1 for rows packed by best fit.
    """
    return {"kind": "oom", "step": step, "above": above, "evaluating": evaluating, **who}


def hang(step: int, *, holding_gil: bool = False, **who: Any) -> Fault:
    """The main thread stands still after `step`; `holding_gil`, no other Python thread can run either."""
    return {"kind": "hang", "step": step, "holding_gil": holding_gil, **who}


def held(step: int, *, until: str = LET_GO, **who: Any) -> Fault:
    """The process reports `step` and waits until it is asked to stop, or its job is `let_go` from `until`."""
    return {"kind": "held", "step": step, "until": until, **who}


def let_go(volume: Path, until: str = LET_GO) -> None:
    """Let a job that is `held` continue; `volume` is the job's own."""
    (volume / until).touch()


def scripted(stage: str, **how: Any) -> Fault:
    """The trainer only plays its part, in every stage and attempt: no data is read and no model is trained.

    `stage` fails with `reason` and `message`, if there are any, Train after `step`; `waits`: it reports `step` and
    stays there until it is asked to stop, or with `stops=False` until it is killed. Other stages, and with `attempt`
    other attempts, succeed.
    """
    return {"kind": "scripted", "stage": stage, **how}


def greedy(step: int, *, takes: int, **who: Any) -> Fault:
    """The process reports `step`, takes so many bytes of memory and stays there."""
    return {"kind": "greedy", "step": step, "takes": takes, **who}


def full(step: int, **who: Any) -> Fault:
    """There is no room on the volume for the checkpoint of `step`."""
    return {"kind": "full", "step": step, **who}


def impatient(seconds: float, **who: Any) -> Fault:
    """No fault: steps have to come `seconds` after one another at least, not minutes, or the watchdog ends the run."""
    return {"kind": "impatient", "seconds": seconds, **who}


def processes(number: int, **who: Any) -> Fault:
    """No fault: a Pod without a GPU trains as so many processes on the CPU, and does not wait for other nodes."""
    return {"kind": "processes", "number": number, **who}
