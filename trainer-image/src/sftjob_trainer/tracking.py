"""Where metrics go besides metrics.jsonl: TensorBoard, Weights & Biases, MLflow."""

import re
from collections.abc import Mapping
from enum import Enum, auto
from pathlib import Path
from typing import Any, Final, Protocol

from sftjob_contract import layout
from sftjob_contract.config import RunConfig

_UPPER: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class Ending(Enum):
    """How an attempt's training ended."""

    FINISHED = auto()
    INTERRUPTED = auto()
    """It was asked to stop, and may go on later."""
    FAILED = auto()


class Tracker(Protocol):
    """Takes metrics of a step under transformers' names, such as train/loss."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keep `values` of `step`."""

    def close(self, ending: Ending) -> None:
        """Write what is not written yet, and how it ended."""


class TensorBoard:
    """Event files in a directory. A resumed attempt adds a file, and what it repeats hides what it repeats."""

    def __init__(self, directory: Path, *, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(directory), purge_step=first_step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keep `values` of `step`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self, _ending: Ending) -> None:
        """Write what is not written yet."""
        self._writer.close()


def trackers(config: RunConfig, volume: Path, *, first_step: int) -> tuple[Tracker, ...]:
    """The trackers that were asked for; `first_step` is the first that this attempt will log."""
    tracking = config.tracking
    found: list[Tracker] = []
    if tracking.tensorboard:
        found.append(TensorBoard(volume / layout.TENSORBOARD, first_step=first_step))
    if tracking.wandb is not None:
        from sftjob_trainer.background import Background
        from sftjob_trainer.wandb_tracker import open_wandb

        found.append(Background("tracking.wandb", lambda: open_wandb(config, volume)))
    if tracking.mlflow is not None:
        from sftjob_trainer.background import Background
        from sftjob_trainer.mlflow_tracker import open_mlflow

        found.append(Background("tracking.mlflow", lambda: open_mlflow(config, volume)))
    return tuple(found)


def scalar_name(name: str) -> str:
    """Our name of a metric as transformers' callbacks write it: evalLoss is eval/loss, gradNorm train/grad_norm."""
    snake = _UPPER.sub("_", name).lower()
    return f"eval/{snake.removeprefix('eval_')}" if snake.startswith("eval_") else f"train/{snake}"
