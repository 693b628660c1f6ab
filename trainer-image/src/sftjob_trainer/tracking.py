"""Where metrics go besides metrics.jsonl: event files for TensorBoard."""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Protocol

from sftjob_contract import layout
from sftjob_contract.destinations import Tracking

_UPPER: Final = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")


class Tracker(Protocol):
    """Takes metrics of a step under transformers' names, such as train/loss."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keep `values` of `step`."""

    def close(self) -> None:
        """Write what is not written yet."""


class TensorBoard:
    """Event files in a directory. A resumed attempt adds a file, and what it repeats hides what it repeats."""

    def __init__(self, directory: Path, *, first_step: int) -> None:
        from torch.utils.tensorboard import SummaryWriter

        self._writer: Any = SummaryWriter(str(directory), purge_step=first_step)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Keep `values` of `step`."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Write what is not written yet."""
        self._writer.close()


def trackers(tracking: Tracking, volume: Path, *, first_step: int) -> tuple[Tracker, ...]:
    """The trackers that were asked for; `first_step` is the first that this attempt will log."""
    return (TensorBoard(volume / layout.TENSORBOARD, first_step=first_step),) if tracking.tensorboard else ()


def scalar_name(name: str) -> str:
    """Our name of a metric as transformers' callbacks write it: evalLoss is eval/loss, gradNorm train/grad_norm."""
    snake = _UPPER.sub("_", name).lower()
    return f"eval/{snake.removeprefix('eval_')}" if snake.startswith("eval_") else f"train/{snake}"
