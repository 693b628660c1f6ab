"""How a job's time was used, computed from its status alone."""

from collections.abc import Iterator
from datetime import datetime
from enum import StrEnum
from typing import Final

from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import Stage
from sftjob_operator.api import AttemptStatus, SFTJobStatus
from sftjob_operator.reconcile.observe.times import parse_time


class TimeUse(StrEnum):
    """Uses of a job's time."""

    QUEUED = "queued"
    """No container ran: waiting for a node, an image, a queue or a retry, or suspended."""
    PREPARING = "preparing"
    """Prepare ran."""
    LOADING = "loading"
    """From the start of a trainer to its first step."""
    TRAINING = "training"
    """From a trainer's first step to its end, except for the uses below."""
    EVALUATING = "evaluating"
    SAVING = "saving"
    """Checkpoints were written."""
    PUBLISHING = "publishing"
    """Publish ran."""
    LOST = "lost"
    """Work to be repeated: steps after the last checkpoint of a failed attempt, and all of an attempt that failed
    before its first step was done, or in Prepare or Publish."""


_WITHOUT_STEPS: Final = {Stage.PREPARE: TimeUse.PREPARING, Stage.PUBLISH: TimeUse.PUBLISHING}


def goodput(status: SFTJobStatus, created: str, now: datetime) -> dict[TimeUse, float]:
    """Return seconds by use from the job's creation (RFC 3339) to its end, or until now; they add up to the whole time.

    Attempts that the status no longer holds count as queued.
    """
    end = parse_time(status.completion_time) if status.completion_time is not None else now
    saved = max((checkpoint.step for checkpoint in status.checkpoints), default=0)
    seconds = dict.fromkeys(TimeUse, 0.0)
    for entry in status.attempts:
        for use, part in _uses(entry, saved, end):
            seconds[use] += part
    seconds[TimeUse.QUEUED] = max(0.0, (end - parse_time(created)).total_seconds() - sum(seconds.values()))
    return seconds


def _uses(entry: AttemptStatus, saved: int, end: datetime) -> Iterator[tuple[TimeUse, float]]:
    if entry.start_time is None:
        return
    until = parse_time(entry.end_time) if entry.end_time is not None else end
    whole = max(0.0, (until - parse_time(entry.start_time)).total_seconds())
    failed = entry.end_time is not None and entry.exit_code != ExitCode.DONE
    done = _steps(entry)
    if failed and (entry.stage != Stage.TRAIN or done <= 0):
        yield TimeUse.LOST, whole
    elif entry.stage != Stage.TRAIN:
        yield _WITHOUT_STEPS[entry.stage], whole
    else:
        lost_steps = _lost_steps(entry, saved) if failed else 0
        yield from _trained(entry, whole, min(1.0, lost_steps / done) if done > 0 else 0.0)


def _trained(entry: AttemptStatus, whole: float, lost: float) -> Iterator[tuple[TimeUse, float]]:
    """Split an attempt's seconds by use; `lost` is the fraction from 0 to 1 of its steps that have to be repeated."""
    evaluating = min(whole, entry.evaluating_seconds or 0.0)
    saving = min(whole - evaluating, entry.saving_seconds or 0.0)
    rest = whole - evaluating - saving
    not_begun = entry.end_time is None and _steps(entry) <= 0
    loading = min(rest, entry.loading_seconds or (rest if not_begun else 0.0))
    training = rest - loading
    yield TimeUse.EVALUATING, evaluating
    yield TimeUse.SAVING, saving
    yield TimeUse.LOADING, loading
    yield TimeUse.TRAINING, training * (1 - lost)
    yield TimeUse.LOST, training * lost


def _steps(entry: AttemptStatus) -> int:
    return (entry.reached_step or 0) - (entry.from_step or 0)


def _lost_steps(entry: AttemptStatus, saved: int) -> int:
    """Return the steps of a failed attempt to be repeated: recorded, or estimated until the next attempt reports."""
    if entry.lost_steps is not None:
        return entry.lost_steps
    return max(0, (entry.reached_step or 0) - saved)
