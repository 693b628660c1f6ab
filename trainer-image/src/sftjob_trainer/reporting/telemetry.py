"""The current state of a run, accumulated step by step into the contract's Progress.

Pure state: clocks are injected, and nothing is written or sent here. The checkpoint carries what a resumed run needs as
SavedTelemetry.
"""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from datetime import datetime
from typing import Final

from sftjob_contract.reports.progress import (
    HISTORY_POINTS,
    PROGRESS_VERSION,
    Activity,
    Checkpoint,
    HistoryPoint,
    Progress,
    SkippedCheckpoint,
)
from sftjob_contract.run.config import EarlyStopping
from sftjob_trainer.reporting.mfu import ComputeCost
from sftjob_trainer.reporting.timing import Timing

SAVED_TELEMETRY: Final = "sftjob-telemetry.json"
"""File in a checkpoint that holds SavedTelemetry."""
_LARGEST_EXPONENT: Final = 700.0
_DIGITS: Final = 4


@dataclass(frozen=True, kw_only=True)
class SavedTelemetry:
    """State that outlives an attempt.

    `tokens` are non-padding ones since step 0, `loss_sum` is the sum of the loss of every step, `seconds` is time spent
    in steps (not in evaluations or saves), `evaluated_step` is the step of `eval_loss` and `eval_metrics`.
    `trainable_parameters` are those of all `parameters`, as PEFT counts them. `best_eval_loss` is the lowest so far,
    and `evaluations_without_better` the number of evaluations since its last improvement. `first_weights` is the
    fingerprint of the trained weights at step 0.
    """

    step: int = 0
    tokens: int = 0
    loss_sum: float = 0.0
    seconds: float = 0.0
    logged_step: int = 0
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    initial_eval_loss: float | None = None
    evaluated_step: int | None = None
    eval_metrics: Mapping[str, float] = field(default_factory=dict, hash=False)
    best_eval_loss: float | None = None
    evaluations_without_better: int = 0
    learning_rate: float | None = None
    grad_norm: float | None = None
    trainable_parameters: int | None = None
    parameters: int | None = None
    history: tuple[HistoryPoint, ...] = ()
    first_weights: str | None = None


@dataclass(frozen=True, kw_only=True)
class TrainingLog:
    """Values of the training loop at a logging step.

    `loss` is the mean since the previous log, `tokens` counts non-padding tokens since this attempt began. `grad_norm`
    is None if the step was skipped because the gradients overflowed in fp16. `peak_memory_bytes` is the device's peak
    since this attempt began.
    """

    step: int
    loss: float
    learning_rate: float
    grad_norm: float | None
    tokens: int
    peak_memory_bytes: int | None = None


@dataclass(frozen=True, kw_only=True)
class _Speed:
    """Speed over the last logging window; `tokens_per_second` is over the whole attempt."""

    tokens_per_second: float | None = None
    step_seconds: float | None = None
    data_wait_seconds: float | None = None
    mfu: float | None = None


class History:
    """At most HISTORY_POINTS points, evenly spread over the run.

    The run is divided into equal intervals of steps. Each keeps one point: an evaluated one if there is one, else the
    newest. An old point therefore never moves, and memory is bounded for any run length.
    """

    def __init__(self, max_steps: int) -> None:
        self._max_steps = max(max_steps, 1)
        self._points: dict[int, HistoryPoint] = {}

    def add(self, point: HistoryPoint) -> None:
        """Add `point`; a point of the same step is completed rather than replaced."""
        interval = point.step * (HISTORY_POINTS - 1) // self._max_steps
        old = self._points.get(interval)
        if old is not None and old.step == point.step:
            point = HistoryPoint(
                step=point.step,
                loss=old.loss if point.loss is None else point.loss,
                eval_loss=old.eval_loss if point.eval_loss is None else point.eval_loss,
            )
        if old is None or old.step == point.step or old.eval_loss is None or point.eval_loss is not None:
            self._points[interval] = point

    @property
    def points(self) -> tuple[HistoryPoint, ...]:
        """The points by rising step."""
        return tuple(sorted(self._points.values(), key=lambda point: point.step))


class Telemetry:
    """The state of one attempt. Only the training thread uses it; returned values are immutable."""

    def __init__(
        self,
        *,
        attempt: int,
        max_steps: int,
        clock: Callable[[], float],
        now: Callable[[], datetime],
        early_stopping: EarlyStopping | None = None,
        started: float | None = None,
    ) -> None:
        """`clock` returns monotonic seconds, `now` the UTC time; the process started at `started`."""
        self._attempt = attempt
        self._max_steps = max_steps
        self._early_stopping = early_stopping
        self._now = now
        self._timing = Timing(clock, started=started)
        self._compute_cost: ComputeCost | None = None
        self._history = History(max_steps)
        self._state = self._resumed = SavedTelemetry()
        self._skipped: tuple[SkippedCheckpoint, ...] = ()
        self._checkpoints: tuple[Checkpoint, ...] = ()
        self._unverified: tuple[int, ...] = ()
        self._best_step: int | None = None
        self._speed = _Speed()
        self._logged_tokens = 0
        self._peak_memory_bytes: int | None = None

    def resume(self, saved: SavedTelemetry) -> None:
        """Continue from the state in a checkpoint."""
        self._state = self._resumed = saved
        for point in saved.history:
            self._history.add(point)

    def add_skipped(self, skipped: Iterable[SkippedCheckpoint]) -> None:
        """Record more checkpoints that failed verification and are skipped."""
        self._skipped = (*self._skipped, *skipped)

    def set_activity(self, activity: Activity) -> None:
        """Set the current activity. Only time in TRAINING counts as training time."""
        if activity is Activity.TRAINING and self._timing.loading_seconds is None:
            self._timing.finish_startup_part("set-up")
        self._timing.set_activity(activity)

    def finish_startup_part(self, part: str) -> None:
        """Record that a part of the startup before the first step is done."""
        self._timing.finish_startup_part(part)

    def waiting_for_data(self) -> AbstractContextManager[None]:
        """Wrap fetching the batches of a step."""
        return self._timing.waiting_for_data()

    def set_compute_cost(self, compute_cost: ComputeCost | None) -> None:
        """Set the cost of a token, if known."""
        self._compute_cost = compute_cost

    def set_parameters(self, trainable_parameters: int, parameters: int) -> None:
        """Set the number of parameters, and how many of them are trained."""
        self._state = replace(self._state, trainable_parameters=trainable_parameters, parameters=parameters)

    def set_initial_weights(self, first_weights: str) -> None:
        """Record the start of training at step 0, with the fingerprint of the weights."""
        self._state = replace(self._state, first_weights=first_weights)

    def end_step(self, step: int, epoch: float) -> None:
        """Record a completed optimizer step."""
        self._timing.add_elapsed()
        if self._state.step == self._resumed.step:
            self._timing.finish_startup_part("first step")
        self._state = replace(self._state, step=step, epoch=epoch)

    def record_log(self, log: TrainingLog) -> None:
        """Record a log of the training loop."""
        state = self._state
        self._measure(log)
        self._state = replace(
            state,
            loss=log.loss,
            learning_rate=log.learning_rate,
            grad_norm=log.grad_norm,
            tokens=self._resumed.tokens + log.tokens,
            loss_sum=state.loss_sum + log.loss * (log.step - state.logged_step),
            logged_step=log.step,
        )
        self._history.add(HistoryPoint(step=log.step, loss=log.loss))

    def record_evaluation(self, step: int, loss: float, metrics: Mapping[str, float] | None = None) -> None:
        """Record a completed evaluation; `loss` is the mean over all trained tokens of the held-out part.

        transformers' EarlyStoppingCallback defines whether the loss counts as better than the best so far.
        """
        state, threshold = self._state, self._early_stopping.threshold if self._early_stopping else 0.0
        best = state.best_eval_loss
        better = best is None or best - loss > threshold
        self._state = replace(
            state,
            eval_loss=loss,
            evaluated_step=step,
            eval_metrics=metrics or {},
            initial_eval_loss=loss if step == 0 else state.initial_eval_loss,
            best_eval_loss=loss if best is None else min(best, loss),
            evaluations_without_better=0 if better else state.evaluations_without_better + 1,
        )
        self._history.add(HistoryPoint(step=step, eval_loss=loss))

    def set_checkpoints(
        self, complete: tuple[Checkpoint, ...], best_step: int | None, unverified: tuple[int, ...] = ()
    ) -> None:
        """Update the complete checkpoints, after a save if one was in progress; `unverified` are steps of others."""
        self._timing.saved()
        self._checkpoints = complete
        self._unverified = unverified
        self._best_step = best_step

    @property
    def activity(self) -> Activity:
        """The current activity."""
        return self._timing.activity

    @property
    def step(self) -> int:
        """Optimizer steps done since step 0."""
        return self._state.step

    @property
    def ended(self) -> bool:
        """Whether nothing is left to train: the last step is done, or the run stopped early."""
        return self._state.step >= self._max_steps or self.stopped_early

    @property
    def stopped_early(self) -> bool:
        """Whether early stopping's patience is exhausted: that many evaluations brought no improvement."""
        early = self._early_stopping
        return early is not None and self._state.evaluations_without_better >= early.patience

    @property
    def resumed_from_step(self) -> int:
        """The step at which this attempt began."""
        return self._resumed.step

    def eval_loss_at(self, step: int) -> float | None:
        """Evaluation loss after `step`, if it was the last evaluated step."""
        return self._state.eval_loss if self._state.evaluated_step == step else None

    def timestamp(self) -> str:
        """The current time as RFC 3339."""
        return self._now().strftime("%Y-%m-%dT%H:%M:%SZ")

    def saved(self) -> SavedTelemetry:
        """The state that a checkpoint must contain."""
        return replace(self._state, seconds=self._training_seconds, history=self._history.points)

    def progress(self) -> Progress:
        """The whole state as the contract's message."""
        state, timing, speed = self._state, self._timing, self._speed
        return Progress(
            version=PROGRESS_VERSION,
            attempt=self._attempt,
            activity=timing.activity,
            time=self.timestamp(),
            step=state.step,
            max_steps=self._max_steps,
            resumed_from_step=self._resumed.step,
            tokens=state.tokens,
            epoch=state.epoch,
            loss=state.loss,
            eval_loss=state.eval_loss,
            learning_rate=state.learning_rate,
            grad_norm=state.grad_norm,
            tokens_per_second=speed.tokens_per_second,
            eta_seconds=self._eta_seconds(),
            mfu=speed.mfu,
            loading_seconds=_rounded(timing.loading_seconds),
            step_seconds=speed.step_seconds,
            data_wait_seconds=speed.data_wait_seconds,
            evaluating_seconds=_rounded(timing.spent(Activity.EVALUATING) or None),
            saving_seconds=_rounded(timing.saving_seconds),
            longest_save_seconds=_rounded(timing.longest_save_seconds),
            peak_memory_bytes=self._peak_memory_bytes,
            best_step=self._best_step,
            checkpoints=self._checkpoints,
            unverified_checkpoints=self._unverified,
            skipped_checkpoints=self._skipped,
            history=self._history.points,
        )

    def metrics(self, output: SavedTelemetry | None = None) -> dict[str, float]:
        """Final metrics under the names that Output documents.

        Evaluations are those of the checkpoint that became the output, by default the current state.
        """
        state = self._state
        evaluated = output or state
        metrics = {
            "initialEvalLoss": state.initial_eval_loss,
            "evalLoss": evaluated.eval_loss,
            "evalPerplexity": perplexity(evaluated.eval_loss),
            **evaluated.eval_metrics,
            "trainLoss": state.loss_sum / state.logged_step if state.logged_step else None,
            "trainSeconds": round(self._training_seconds, 3),
        }
        return {name: value for name, value in metrics.items() if value is not None}

    @property
    def loading_parts(self) -> Mapping[str, float]:
        """Seconds of each part of the startup before the second step, in order."""
        return self._timing.parts

    @property
    def _training_seconds(self) -> float:
        """Time spent in steps since step 0."""
        return self._resumed.seconds + self._timing.spent(Activity.TRAINING)

    def _measure(self, log: TrainingLog) -> None:
        """Measure the speed since the last log."""
        window = self._timing.window(log.step - max(self._state.logged_step, self._resumed.step))
        seconds = self._timing.spent(Activity.TRAINING)
        tokens, self._logged_tokens = log.tokens - self._logged_tokens, log.tokens
        steps = max(1, window.steps)
        self._speed = _Speed(
            tokens_per_second=round(log.tokens / seconds, 1) if seconds > 0 else None,
            step_seconds=_rounded(window.seconds / steps),
            data_wait_seconds=_rounded(window.data_wait_seconds / steps),
            mfu=_rounded(self._compute_cost.utilization(tokens, window.seconds)) if self._compute_cost else None,
        )
        self._peak_memory_bytes = log.peak_memory_bytes

    def _eta_seconds(self) -> int | None:
        """Remaining steps times the mean wall time of this attempt's steps, including evaluations and saves."""
        if self.ended:
            return 0
        done = self._state.step - self._resumed.step
        remaining = self._max_steps - self._state.step
        if self._timing.stepping_seconds is None or done == 0:
            return None
        return round(remaining * self._timing.stepping_seconds / done)


def _rounded(number: float | None) -> float | None:
    """Round to the number of digits for display."""
    return None if number is None else round(number, _DIGITS)


def perplexity(loss: float | None) -> float | None:
    """exp(loss); None if JSON cannot represent the result."""
    return math.exp(loss) if loss is not None and loss < _LARGEST_EXPONENT else None
