"""One training run: its config, what is known about it, and who is told."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from sftjob_contract.config import RunConfig
from sftjob_contract.progress import Activity
from sftjob_contract.reasons import Reason
from sftjob_contract.stats import PreparedStats
from sftjob_trainer.arguments import is_due, micro_batches
from sftjob_trainer.checkpoints import CheckpointStore
from sftjob_trainer.failure import Failure
from sftjob_trainer.reporter import Reporter
from sftjob_trainer.stop import StopRequest
from sftjob_trainer.telemetry import Telemetry
from sftjob_trainer.world import ALONE, World

FILLING_TOKENS: Final = 2
"""Tokens of a row that only fills up a batch."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that the parts of one training attempt share."""

    config: RunConfig
    stats: PreparedStats
    volume: Path
    store: CheckpointStore
    telemetry: Telemetry
    reporter: Reporter
    stop: StopRequest
    world: World = ALONE

    def report(self) -> None:
        """Offer the present state to the operator."""
        self.reporter.offer(self.telemetry.progress())

    def doing(self, activity: Activity) -> None:
        """Say what happens from now on."""
        if activity is not self.telemetry.activity:
            self.telemetry.doing(activity)
            self.report()

    def must_stop(self) -> bool:
        """Whether somebody asked for an end. With nothing left to train the run is brought to its own end instead."""
        return self.stop.requested and not self.telemetry.ended

    def agree_to_stop(self) -> bool:
        """Whether to stop, asked of all processes at a point that all of them pass. Collective."""
        self.stop.agree()
        return self.must_stop()

    def stopped(self) -> Failure:
        """What to raise once the state is saved, or where there is nothing new to save."""
        saved = f"{self.store.complete[-1].path} is saved" if self.store.complete else "there is no checkpoint yet"
        return Failure(
            Reason.INTERRUPTED,
            f"stopped on request after step {self.telemetry.step} of {self.stats.max_steps}; {saved}",
        )

    @property
    def batch_rows(self) -> int:
        """Rows of one forward pass of all processes; every part of the data is filled up to a multiple of it."""
        return self.world.size * micro_batches(self.config.training)[0]

    def filling_tokens(self) -> int:
        """Tokens of rows that were no data, which each epoch of several processes ends with, since the attempt began.

        One process takes a smaller last batch instead.
        """
        if self.world.size == 1:
            return 0
        steps = (self.telemetry.resumed_from_step, self.telemetry.step)
        first, last = (step // self.stats.steps_per_epoch for step in steps)
        return (last - first) * (-self.stats.sequences % self.batch_rows) * FILLING_TOKENS

    def evaluates_at(self, step: int) -> bool:
        """Whether there is held-out data, and `step` is one after which to evaluate on it."""
        return self.stats.evaluation_sequences > 0 and is_due(
            step, self.config.evaluation.every_steps, self.config.evaluation.per_epoch, self.stats
        )

    def is_output(self, loss: float) -> bool:
        """Whether a run that ended after an evaluation with this loss would put out what was evaluated.

        It is the last one, or with early stopping the best of those that have a checkpoint.
        """
        if self.config.training.early_stopping is None:
            return True
        losses = [checkpoint.eval_loss for checkpoint in self.store.complete if checkpoint.eval_loss is not None]
        return loss < min(losses, default=math.inf)

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint is taken after `step`."""
        return is_due(step, self.config.checkpoints.every_steps, self.config.checkpoints.per_epoch, self.stats)
