"""What a trainer says while it runs: its whole state every time, never a delta, so a lost report loses nothing."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

PROGRESS_VERSION: Final = 1
HISTORY_POINTS: Final = 48
"""Most points of the down-sampled history."""


class Activity(StrEnum):
    """What the trainer is doing at this moment."""

    LOADING = "Loading"
    TRAINING = "Training"
    EVALUATING = "Evaluating"
    SAVING = "Saving"
    FINISHED = "Finished"


@dataclass(frozen=True, kw_only=True)
class HistoryPoint:
    """One point of the curves; `eval_loss` only where an evaluation ran. Step 0 is before training."""

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
    """A checkpoint that did not verify and was passed over on resume, and why."""

    path: str
    why: str


@dataclass(frozen=True, kw_only=True)
class Progress:
    """State of one training attempt.

    `loss` is the mean over the last logging window; `tokens` counts non-padding tokens since step 0 of the run,
    across resumes; `tokens_per_second` is of this attempt, over all devices; `time` is RFC 3339 in UTC.
    """

    version: int
    attempt: int
    activity: Activity
    time: str
    step: int
    max_steps: int
    resumed_from_step: int
    tokens: int
    epoch: float | None = None
    loss: float | None = None
    eval_loss: float | None = None
    learning_rate: float | None = None
    grad_norm: float | None = None
    tokens_per_second: float | None = None
    eta_seconds: int | None = None
    best_step: int | None = None
    checkpoints: tuple[Checkpoint, ...] = ()
    skipped_checkpoints: tuple[SkippedCheckpoint, ...] = ()
    history: tuple[HistoryPoint, ...] = ()
