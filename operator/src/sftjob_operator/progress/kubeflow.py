"""Kubeflow's trainer status from an unmodified transformers Trainer, converted to a progress report.

Two of its fields are ignored. estimatedRemainingSeconds divides the time of this process by all steps of the run,
including those of earlier processes; here it is computed from the time between reports. progressPercentage is 100 at
the end of training even if training stopped early; here the epoch of the last report decides.

https://github.com/huggingface/transformers/pull/44487 (transformers.integrations.KubeflowCallback)
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sftjob_contract.codec import from_untrusted_json
from sftjob_contract.names import PROGRESS_BODY_LIMIT_BYTES
from sftjob_contract.reports.progress import HISTORY_POINTS, PROGRESS_VERSION, Activity, HistoryPoint, Progress
from sftjob_contract.times import parse_time

NEWEST_SHARE: Final = 0.3
"""Weight of the newest step time in the exponential mean: about the last ten reports count, so that an evaluation or a
checkpoint between two of them soon has no effect."""
_ROUNDED_EPOCH: Final = 0.005
"""Maximum error of an epoch: it is sent with two digits."""
_ENDED_PERCENT: Final = 100
"""Sent only at the end of training: before it, at most 99."""
_LARGEST: Final = 2**53
_LONGEST_NUMBER: Final = 64
"""Maximum characters of a metric's value that are read."""


@dataclass(frozen=True, kw_only=True)
class _Metric:
    name: str
    value: str


@dataclass(frozen=True, kw_only=True)
class _Status:
    last_updated_time: str
    progress_percentage: int | None = None
    metrics: tuple[_Metric, ...] = ()


@dataclass(frozen=True, kw_only=True)
class _Body:
    trainer_status: _Status


def kubeflow_progress(body: bytes, attempt: int, known: Progress | None) -> Progress:
    """Return the state of `attempt` after a POST with `body`; `known` is the newest one of the job, if any.

    The first POST of a process has the total number of steps but not its first step; the last POST has neither.

    Raises:
        ValueError: not such a body, or the number of steps was never sent; the text explains what is wrong.
    """
    status = from_untrusted_json(_Body, body, longest=PROGRESS_BODY_LIMIT_BYTES).trainer_status
    measured = _measured(status.metrics)
    time = _moment(status.last_updated_time)
    before = known if known is not None and known.attempt == attempt else None
    max_steps = _whole(measured, "total_steps", None if before is None else before.max_steps)
    if max_steps is None:
        raise ValueError("trainerStatus.metrics lacks total_steps, and no earlier report had it")
    ended = status.progress_percentage == _ENDED_PERCENT
    step = _whole(measured, "current_step", _last_step(before, measured, max_steps) if ended else None)
    step_seconds = _step_seconds(before, step, time)
    left = None if step is None or step_seconds is None or ended else max(0, max_steps - step) * step_seconds
    return Progress(
        version=PROGRESS_VERSION,
        attempt=attempt,
        activity=_activity(step, ended=ended),
        time=time.isoformat(),
        step=step or 0,
        max_steps=max_steps,
        resumed_from_step=None,
        tokens=_whole(measured, "num_tokens", _whole(measured, "num_input_tokens_seen", None)),
        epoch=measured.get("current_epoch", measured.get("epoch")),
        loss=measured.get("loss"),
        eval_loss=measured.get("eval_loss"),
        learning_rate=measured.get("learning_rate"),
        grad_norm=measured.get("grad_norm"),
        eta_seconds=None if left is None else round(left),
        step_seconds=step_seconds,
        history=_history(before, step, measured.get("loss"), measured.get("eval_loss")),
    )


def _activity(step: int | None, *, ended: bool) -> Activity:
    if ended:
        return Activity.FINISHED
    return Activity.LOADING if step is None else Activity.TRAINING


def _measured(metrics: tuple[_Metric, ...]) -> Mapping[str, float]:
    """Keep metrics that are finite numbers, which a status can hold."""
    numbers: dict[str, float] = {}
    for metric in metrics:
        try:
            number = float(metric.value[:_LONGEST_NUMBER])
        except ValueError:
            continue
        if math.isfinite(number):
            numbers[metric.name] = number
    return numbers


def _whole(measured: Mapping[str, float], name: str, otherwise: int | None) -> int | None:
    if name not in measured:
        return otherwise
    if not 0 <= measured[name] <= _LARGEST:
        raise ValueError(f"trainerStatus.metrics: {name} must be between 0 and 2**53, not {measured[name]:g}")
    return int(measured[name])


def _moment(text: str) -> datetime:
    try:
        return parse_time(text)
    except ValueError as error:
        raise ValueError(f"trainerStatus.lastUpdatedTime: {error}") from error


def _last_step(before: Progress | None, measured: Mapping[str, float], max_steps: int) -> int | None:
    """Return the step at which training ended: the last POST has none, and those before it are seconds apart.

    Its epoch distinguishes a full run from an early stop. Without one, the newest reported step counts; without both,
    the end of the run.
    """
    if before is None or not before.step:
        return max_steps
    epoch = measured.get("epoch")
    if not before.epoch or epoch is None:
        return before.step
    step = before.step * epoch / before.epoch
    uncertain = _ROUNDED_EPOCH / before.epoch * max_steps
    return max_steps if step + max(1.0, uncertain) >= max_steps else max(before.step, round(step))


def _step_seconds(before: Progress | None, step: int | None, time: datetime) -> float | None:
    """Exponential mean of the seconds per step, from two reports that both have their step."""
    if before is None or step is None:
        return None
    known, steps = before.step_seconds, step - before.step
    seconds = (time - _moment(before.time)).total_seconds()
    if before.activity is not Activity.TRAINING or steps <= 0 or seconds <= 0:
        return known
    newest = seconds / steps
    return newest if known is None else known + NEWEST_SHARE * (newest - known)


def _history(
    before: Progress | None, step: int | None, loss: float | None, eval_loss: float | None
) -> tuple[HistoryPoint, ...]:
    """Add a point for what is new in a report; a full curve drops the point whose neighbours are closest."""
    points = () if before is None else before.history
    new_loss = loss if before is None or loss != before.loss else None
    new_eval_loss = eval_loss if before is None or eval_loss != before.eval_loss else None
    if step is None or (new_loss is None and new_eval_loss is None) or (points and step <= points[-1].step):
        return points
    points = (*points, HistoryPoint(step=step, loss=new_loss, eval_loss=new_eval_loss))
    if len(points) <= HISTORY_POINTS:
        return points
    dense = min(range(1, len(points) - 1), key=lambda i: points[i + 1].step - points[i - 1].step)
    return (*points[:dense], *points[dense + 1 :])
