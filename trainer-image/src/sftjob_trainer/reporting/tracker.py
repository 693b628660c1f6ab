"""What a tracker of a run is: it accepts metrics, and the final status."""

from collections.abc import Mapping
from enum import Enum, auto
from typing import Protocol


class FinalStatus(Enum):
    """How an attempt's training ended."""

    FINISHED = auto()
    INTERRUPTED = auto()
    """A stop was requested; the run may continue later."""
    FAILED = auto()


class Tracker(Protocol):
    """Accepts the metrics of a step under transformers' names, such as train/loss."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log the `values` of `step`."""

    def close(self, status: FinalStatus) -> None:
        """Write pending values and the final state."""
