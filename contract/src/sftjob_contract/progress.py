"""What a trainer says while it runs: its whole state every time, never a delta, so a lost report loses nothing."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

PROGRESS_VERSION: Final = 1
HISTORY_POINTS: Final = 24
"""Most points of the down-sampled history that a trainer reports: `kubectl describe` prints two lines for each."""
HISTORY_LIMIT: Final = 48
"""Most points that a report or a status may hold: trainers of earlier versions report as many."""


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
    `resumed_from_step` and `tokens` are None only for a trainer that is not ours and does not tell them.

    Of this attempt, in seconds: `loading_seconds` from the start of the process to the first step without the
    evaluation before it, `step_seconds` the mean over the last logging window, `data_wait_seconds` the part of it that
    was spent waiting for data, `evaluating_seconds` and `saving_seconds` all evaluations and all checkpoints,
    `longest_save_seconds` one of those. `mfu` is the share from 0 to 1 of the devices' peak that the model's own
    arithmetic used, where that peak is known; `peak_memory_bytes` is the most that one device held, or the process with
    no GPU.

    While weights are loaded, `loaded_bytes` of `weights_bytes` have been read.

    `unverified_checkpoints` are steps of checkpoints of earlier attempts that this one has yet to verify: so far none
    of `checkpoints`, and none that was passed over.
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
