"""One training run: its config, what is known about it, and who is told."""

import math
from dataclasses import dataclass
from pathlib import Path

from sftjob_contract.config import RunConfig
from sftjob_contract.progress import Activity
from sftjob_contract.reasons import Reason
from sftjob_contract.stats import PreparedStats
from sftjob_trainer.arguments import is_due
from sftjob_trainer.checkpoints import CheckpointStore
from sftjob_trainer.failure import Failure
from sftjob_trainer.reporter import Reporter
from sftjob_trainer.stop import StopRequest
from sftjob_trainer.telemetry import Telemetry


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

    def stopped(self) -> Failure:
        """What to raise once the state is saved, or where there is nothing new to save."""
        saved = f"{self.store.complete[-1].path} is saved" if self.store.complete else "there is no checkpoint yet"
        return Failure(
            Reason.INTERRUPTED,
            f"stopped on request after step {self.telemetry.step} of {self.stats.max_steps}; {saved}",
        )

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
