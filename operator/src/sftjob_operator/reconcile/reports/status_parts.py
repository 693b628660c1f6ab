"""Convert a trainer's report to parts of a status."""

from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Final

from sftjob_contract.layout import CHECKPOINTS, checkpoint_name
from sftjob_contract.reports.progress import HistoryPoint, Progress
from sftjob_operator.api import (
    CheckpointStatus,
    HistoryPointStatus,
    ProgressStatus,
    SFTJob,
    SFTJobStatus,
    replace,
)
from sftjob_operator.reconcile.observe.times import duration, rfc3339
from sftjob_operator.render import volume_uri

HISTORY_SHOWN: Final = 12
"""Maximum points of the curve in a status, for people: each takes two lines of `kubectl describe`. Reports have
more."""
_MOST_BEFORE_SUCCESS: Final = 99
"""Percentage after the last step: saving and exporting can still fail."""


def with_progress(status: SFTJobStatus, job: SFTJob, progress: Progress, received: datetime | None) -> SFTJobStatus:
    """Update `status` with all parts of a report. `received` is None for a report in a termination message.

    A listed checkpoint was verified when it was saved; it stays in the list while it is verified again.
    """
    reported = checkpoint_parts(progress, partial(volume_uri, job))
    unverified = set(progress.unverified_checkpoints) - {checkpoint.step for checkpoint in reported}
    listed = (checkpoint for checkpoint in status.checkpoints if checkpoint.step in unverified)
    checkpoints = tuple(sorted((*listed, *reported), key=lambda checkpoint: checkpoint.step))
    best = progress.best_step
    before = status.progress.last_report_time if status.progress is not None else None
    report_time = rfc3339(received) if received is not None else before
    return replace(
        status,
        progress=progress_part(progress, report_time, job.spec.resources.devices),
        history=_history(status.history, progress.history),
        checkpoints=checkpoints,
        latest_checkpoint=checkpoints[-1].uri if checkpoints else None,
        best_checkpoint=volume_uri(job, f"{CHECKPOINTS}/{checkpoint_name(best)}") if best is not None else None,
    )


def stopped(progress: ProgressStatus, job: SFTJob, *, finished: bool) -> ProgressStatus:
    """Return `progress` of an ended attempt: its position stays, its activity is removed unless it is done.

    A finished trainer is complete, even if early stopping skipped the last steps. A custom image is as far as its last
    report.
    """
    ended = replace(progress, eta_seconds=None, eta=None)
    if finished and job.spec.command is not None and progress.max_steps:
        return replace(ended, percent=min(100, 100 * progress.step // progress.max_steps))
    if finished:
        return replace(ended, percent=100)
    return replace(
        ended,
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
    """Add the printer columns' fields, recomputed from the status each time: an earlier version drops them."""
    resources, shown = job.spec.resources, status.progress
    status = replace(status, gpus=resources.gpus * resources.nodes)
    if shown is None:
        return status
    change = _change(status.history, shown.eval_loss)
    return replace(status, progress=replace(shown, percent_text=f"{shown.percent}%", eval_loss_change=change))


def _change(history: tuple[HistoryPointStatus, ...], newest: float | None) -> str | None:
    """Format first and newest evaluation loss to three digits; only the first until there is another."""
    losses = [point.eval_loss for point in history if point.eval_loss is not None]
    losses += [] if newest is None or losses[-1:] == [newest] else [newest]
    reported = [f"{loss:.3g}" for loss in (losses[:1] + losses[1:][-1:])]
    return " -> ".join(reported) or None


def progress_part(progress: Progress, received: str | None, devices: int) -> ProgressStatus:
    """Return the progress of a report that arrived at `received`."""
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
    """Return the reported checkpoints; `uri` returns the URI of a path on the volume."""
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


def history_part(reported: tuple[HistoryPoint, ...]) -> tuple[HistoryPointStatus, ...]:
    """Return the reported curve."""
    return tuple(HistoryPointStatus(step=p.step, loss=p.loss, eval_loss=p.eval_loss) for p in reported)


def _history(
    recorded: tuple[HistoryPointStatus, ...], reported: tuple[HistoryPoint, ...]
) -> tuple[HistoryPointStatus, ...]:
    """Return the reported curve; if a termination message shortened it, the recorded one plus its later points."""
    points = history_part(reported)
    if len(points) < len(recorded):
        points = (*recorded, *(point for point in points if point.step > recorded[-1].step))
    return thinned(points)


def thinned(points: tuple[HistoryPointStatus, ...]) -> tuple[HistoryPointStatus, ...]:
    """Select at most HISTORY_SHOWN of `points`, evenly spaced: both ends of the curve and of its evaluations stay."""
    evaluated = [index for index, point in enumerate(points) if point.eval_loss is not None]
    kept = {0, len(points) - 1, *evaluated[:1], *evaluated[-1:]}
    others = [index for index in range(len(points)) if index not in kept]
    room = min(HISTORY_SHOWN - len(kept), len(others))
    kept |= {others[(2 * number + 1) * len(others) // (2 * room)] for number in range(room)}
    return tuple(points[index] for index in sorted(kept) if 0 <= index < len(points))
