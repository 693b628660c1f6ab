"""Progress reports of a running trainer: always its whole state, never a delta, so a lost report loses nothing."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

PROGRESS_VERSION: Final = 1
HISTORY_POINTS: Final = 24
"""Maximum points of the down-sampled history in a trainer's report: `kubectl describe` prints two lines for each."""
HISTORY_LIMIT: Final = 48
"""Maximum points that a report or a status may contain: trainers of earlier versions report as many."""


class Activity(StrEnum):
    """Current activity of the trainer."""

    LOADING = "Loading"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    SAVING = "Saving"
    FINISHED = "Finished"


@dataclass(frozen=True, kw_only=True)
class HistoryPoint:
    """One point of the curves; `eval_loss` only if an evaluation ran. Step 0 is before training."""

    step: int
    loss: float | None = None
    eval_loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A complete, verified checkpoint. `path` is relative to the volume, `time` is RFC 3339 in UTC."""

    step: int
    path: str
    bytes: int
    time: str
    eval_loss: float | None = None


@dataclass(frozen=True, kw_only=True)
class SkippedCheckpoint:
    """A checkpoint that failed verification and was skipped on resume, and the reason."""

    path: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Progress:
    """State of one training attempt.

    `loss` is the mean over the last logging window; `tokens` counts non-padding tokens since step 0 of the run, across
    resumes; `tokens_per_second` is of this attempt, over all devices; `time` is RFC 3339 in UTC. `resumed_from_step`
    and `tokens` are None only for a custom trainer that does not report them.

    Of this attempt, in seconds: `loading_seconds` from the start of the process to the first step without the
    evaluation before it, `step_seconds` the mean over the last logging window, `data_wait_seconds` the part of it spent
    waiting for data, `evaluating_seconds` and `saving_seconds` the sums over all evaluations and all checkpoints,
    `longest_save_seconds` the longest single checkpoint. `mfu` is the fraction from 0 to 1 of the devices' peak that
    the model's own arithmetic used, if that peak is known; `peak_memory_bytes` is the maximum that one device held, or
    the process without a GPU.

    While weights are loading, `loaded_bytes` of `weights_bytes` have been read.

    `unverified_checkpoints` are steps of checkpoints of earlier attempts that this attempt has not verified yet: they
    are neither in `checkpoints` nor skipped so far.
    """

    version: int
    attempt: int
    activity: Activity | None
    time: str
    step: int
    max_steps: int
    resumed_from_step: int | None
    tokens: int | None
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: int | None = None
    mfu: float | None = None
    loaded_bytes: int | None = None
    weights_bytes: int | None = None
    loading_seconds: float | None = None
    step_seconds: float | None = None
    data_wait_seconds: float | None = None
    evaluating_seconds: float | None = None
    saving_seconds: float | None = None
    longest_save_seconds: float | None = None
    peak_memory_bytes: int | None = None
    best_step: int | None = None
    checkpoints: tuple[Checkpoint, ...] = ()
    unverified_checkpoints: tuple[int, ...] = ()
    skipped_checkpoints: tuple[SkippedCheckpoint, ...] = ()
    history: tuple[HistoryPoint, ...] = ()
