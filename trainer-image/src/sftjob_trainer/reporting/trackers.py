"""Trackers in addition to metrics.jsonl: TensorBoard, Weights & Biases, MLflow."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sftjob_contract import layout
from sftjob_contract.run.config import RunConfig
from sftjob_trainer.reporting.mlflow_tracker import open_mlflow
from sftjob_trainer.reporting.tracker import FinalStatus, Tracker
from sftjob_trainer.reporting.tracker_thread import BackgroundTracker
from sftjob_trainer.reporting.wandb_tracker import open_wandb

_UPPER: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class TensorBoard:
    """Event files in a directory. A resumed attempt adds a file; its repeated steps hide the earlier ones."""

    def __init__(self, directory: Path, *, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(directory), purge_step=first_step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the `values` of `step`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, _status: FinalStatus) -> None:
        """Write pending values."""
        self._writer.close()


def trackers(config: RunConfig, volume: Path, *, first_step: int) -> tuple[Tracker, ...]:
    """The configured trackers; `first_step` is the first step that this attempt will log."""
    tracking = config.tracking
    found: list[Tracker] = []
    if tracking.tensorboard:
        found.append(TensorBoard(volume / layout.TENSORBOARD, first_step=first_step))
    if tracking.wandb is not None:
        found.append(BackgroundTracker("tracking.wandb", lambda: open_wandb(config, volume)))
    if tracking.mlflow is not None:
        found.append(BackgroundTracker("tracking.mlflow", lambda: open_mlflow(config, volume)))
    return tuple(found)


def scalar_name(name: str) -> str:
    """Convert a metric name to that of transformers' callbacks: evalLoss is eval/loss, gradNorm train/grad_norm."""
    snake = _UPPER.sub("_", name).lower()
    return f"eval/{snake.removeprefix('eval_')}" if snake.startswith("eval_") else f"train/{snake}"
