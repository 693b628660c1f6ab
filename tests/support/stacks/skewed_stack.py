"""The local stack on which operators of two releases take over from each other, always with the same settings."""

from enum import StrEnum
from pathlib import Path
from typing import Any, Final

from bench.operator.operator_bench import FROZEN, FakeStack
from sftjob_dev.stack import DEFINITION, Stack
from support.faults import python_image
from support.stacks.previous import Previous

PREVIOUS_IMAGE: Final = "sftjob-trainer:previous"
_MANY: Final = 10_000


class Release(StrEnum):
    """Whose operator runs."""

    PREVIOUS = "previous"
    THIS = "this"


class SkewedStack(Stack):
    """A stack whose operator is the previous release's, until `hand_to` changes that.

    `definition` is the CRD that the server has. Each release comes with a trainer image of its own.
    """

    def __init__(self, data: Path, previous: Previous, definition: Path, *arguments: Any, **options: Any) -> None:
        super().__init__(data, *arguments, **options)
        self.release = Release.PREVIOUS
        self._previous = previous
        self._definition = definition

    def sandbox_command(self) -> list[str]:
        """See Stack: with the CRD `definition`."""
        return [str(self._definition) if part == str(DEFINITION) else part for part in super().sandbox_command()]

    def operator_settings(self) -> dict[str, str]:
        """See Stack."""
        settings = super().operator_settings()
        if self.release is Release.PREVIOUS:
            settings |= {"PYTHONPATH": self._previous.python_path, "SFTJOB_TRAINER_IMAGE": PREVIOUS_IMAGE}
        return settings

    def hand_to(self, release: Release) -> None:
        """End the operator as an upgrade does, and start that of `release`."""
        self.stop_operator()
        self.release = release
        self.start_operator()


class TrainingSkewedStack(SkewedStack):
    """The same with the trainers of both releases as images."""

    def programs(self) -> Path:
        """See Stack."""
        return python_image(self.data / "image")

    def sandbox_command(self) -> list[str]:
        """See Stack."""
        programs = self._previous.image(self.data / "previous-image")
        return [*super().sandbox_command(), "--image", f"{PREVIOUS_IMAGE}={programs}"]


class FrozenSkewedStack(SkewedStack, FakeStack):
    """The same with a node on which nothing happens by itself."""

    def __init__(self, data: Path, previous: Previous, definition: Path) -> None:
        super().__init__(data, previous, definition, _MANY, FROZEN)
        self._interval_seconds = 1
