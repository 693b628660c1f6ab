"""A trainer's report as the parts of a status."""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Final

from sftjob_contract.layout import CHECKPOINTS, checkpoint_name
from sftjob_contract.progress import HistoryPoint, Progress
from sftjob_operator.api import (
    CheckpointStatus,
    HistoryPointStatus,
    ProgressStatus,
    SFTJob,
    SFTJobStatus,
    replace,
)
from sftjob_operator.reconcile.times import duration, rfc3339
from sftjob_operator.render import volume_uri

HISTORY_SHOWN: Final = 12
"""Points of the curve in a status, which people read: each takes two lines of `kubectl describe`. Reports have more."""
_MOST_BEFORE_SUCCESS: Final = 99
"""Percent of a run that has done its last step: saving and exporting can still fail."""


def with_progress(status: SFTJobStatus, job: SFTJob, progress: Progress, received: datetime | None) -> SFTJobStatus:
    """`status` with everything that a report tells. `received` is None for one out of a termination message.

    A checkpoint that is listed, since it was verified when it was taken, stays so while it is verified again.
    """
    told = checkpoint_parts(progress, partial(volume_uri, job))
    again = set(progress.unverified_checkpoints) - {checkpoint.step for checkpoint in told}
    listed = (checkpoint for checkpoint in status.checkpoints if checkpoint.step in again)
    checkpoints = tuple(sorted((*listed, *told), key=lambda checkpoint: checkpoint.step))
    best = progress.best_step
    before = status.progress.last_report_time if status.progress is not None else None
    return replace(
        status,
        progress=progress_part(progress, rfc3339(received) if received is not None else before, _devices(job)),
        history=_history(status.history, progress.history),
        checkpoints=checkpoints,
        latest_checkpoint=checkpoints[-1].uri if checkpoints else None,
        best_checkpoint=volume_uri(job, f"{CHECKPOINTS}/{checkpoint_name(best)}") if best is not None else None,
    )


def stopped(progress: ProgressStatus, job: SFTJob, *, finished: bool) -> ProgressStatus:
    """`progress` of an attempt that has ended: where it got to stays, what it was doing goes unless it is done.

    One of the trainer that is done is complete, even where early stopping left out the last steps. An image of the
    user's own is as far as its last report says.
    """
    over = replace(progress, eta_seconds=None, eta=None)
    if finished and job.spec.command is not None and progress.max_steps:
        return replace(over, percent=min(100, 100 * progress.step // progress.max_steps))
    if finished:
        return replace(over, percent=100)
    return replace(
        over,
        activity=None,
        tokens_per_second=None,
        tokens_per_second_per_device=None,
        mfu=None,
        step_seconds=None,
        data_wait_seconds=None,
        loaded_bytes=None,
        weights_bytes=None,
    )


def with_columns(status: SFTJobStatus, job: SFTJob) -> SFTJobStatus:
    """`status` with what columns show of other parts of it, made again each time: an earlier version drops it."""
    resources, shown = job.spec.resources, status.progress
    status = replace(status, gpus=resources.gpus * resources.nodes)
    if shown is None:
        return status
    change = _change(status.history, shown.eval_loss)
    return replace(status, progress=replace(shown, percent_text=f"{shown.percent}%", eval_loss_change=change))


def _change(history: tuple[HistoryPointStatus, ...], newest: float | None) -> str | None:
    """First and newest evaluation loss to three digits; the first one alone until there is another."""
    losses = [point.eval_loss for point in history if point.eval_loss is not None]
    losses += [] if newest is None or losses[-1:] == [newest] else [newest]
    told = [f"{loss:.3g}" for loss in (losses[:1] + losses[1:][-1:])]
    return " -> ".join(told) or None


def _devices(job: SFTJob) -> int:
    resources = job.spec.resources
    return max(1, resources.gpus) * resources.nodes


def progress_part(progress: Progress, received: str | None, devices: int) -> ProgressStatus:
    """Where training stands, by a report that arrived at `received`."""
    eta, speed = progress.eta_seconds, progress.tokens_per_second
    return ProgressStatus(
        activity=progress.activity,
        step=progress.step,
        max_steps=progress.max_steps,
        epoch=progress.epoch,
        percent=min(_MOST_BEFORE_SUCCESS, 100 * progress.step // progress.max_steps) if progress.max_steps else 0,
        loss=progress.loss,
        eval_loss=progress.eval_loss,
        learning_rate=progress.learning_rate,
        grad_norm=progress.grad_norm,
        tokens=progress.tokens,
        tokens_per_second=speed,
        tokens_per_second_per_device=None if speed is None else speed / devices,
        mfu=progress.mfu,
        step_seconds=progress.step_seconds,
        data_wait_seconds=progress.data_wait_seconds,
        peak_memory_bytes=progress.peak_memory_bytes,
        loaded_bytes=progress.loaded_bytes,
        weights_bytes=progress.weights_bytes,
        eta_seconds=eta,
        eta=duration(eta) if eta is not None else None,
        last_report_time=received,
    )


def checkpoint_parts(progress: Progress, uri: Callable[[str], str]) -> tuple[CheckpointStatus, ...]:
    """The reported checkpoints; `uri` is that of a path on the volume."""
    return tuple(
        CheckpointStatus(
            step=checkpoint.step,
            uri=uri(checkpoint.path),
            bytes=checkpoint.bytes,
            time=checkpoint.time,
            eval_loss=checkpoint.eval_loss,
        )
        for checkpoint in progress.checkpoints
    )


def history_part(told: tuple[HistoryPoint, ...]) -> tuple[HistoryPointStatus, ...]:
    """The reported curve."""
    return tuple(HistoryPointStatus(step=p.step, loss=p.loss, eval_loss=p.eval_loss) for p in told)


def _history(
    recorded: tuple[HistoryPointStatus, ...], told: tuple[HistoryPoint, ...]
) -> tuple[HistoryPointStatus, ...]:
    """The reported curve; where a termination message had to shorten it, the recorded one with its later points."""
    points = history_part(told)
    if len(points) < len(recorded):
        points = (*recorded, *(point for point in points if point.step > recorded[-1].step))
    return thinned(points)


def thinned(points: tuple[HistoryPointStatus, ...]) -> tuple[HistoryPointStatus, ...]:
    """At most HISTORY_SHOWN of `points`, evenly spread: the ends of the curve and of its evaluations stay."""
    evaluated = [index for index, point in enumerate(points) if point.eval_loss is not None]
    kept = {0, len(points) - 1, *evaluated[:1], *evaluated[-1:]}
    others = [index for index in range(len(points)) if index not in kept]
    room = min(HISTORY_SHOWN - len(kept), len(others))
    kept |= {others[(2 * number + 1) * len(others) // (2 * room)] for number in range(room)}
    return tuple(points[index] for index in sorted(kept) if 0 <= index < len(points))
