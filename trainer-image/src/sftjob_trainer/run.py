"""One training run: its config, what is known about it, and who is told."""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sftjob_contract.batches import micro_batches
from sftjob_contract.config import RunConfig
from sftjob_contract.progress import Activity, SkippedCheckpoint
from sftjob_contract.reasons import Reason
from sftjob_contract.stats import PreparedStats
from sftjob_trainer.arguments import is_due
from sftjob_trainer.checkpoints import CheckpointStore
from sftjob_trainer.failure import Failure
from sftjob_trainer.reporter import Reporter
from sftjob_trainer.stop import StopRequest
from sftjob_trainer.telemetry import Telemetry
from sftjob_trainer.watchdog import Watchdog
from sftjob_trainer.world import ALONE, World

logger = logging.getLogger(__name__)

FILLING_TOKENS: Final = 2
"""Tokens of a row that only fills up a batch."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Everything that the parts of one training attempt share.

    After SIGTERM it has `grace_seconds`, where that is known.
    """

    config: RunConfig
    stats: PreparedStats
    volume: Path
    store: CheckpointStore
    telemetry: Telemetry
    reporter: Reporter
    stop: StopRequest
    world: World = ALONE
    grace_seconds: int | None = None
    watchdog: Watchdog = field(default_factory=Watchdog)

    def report(self) -> None:
        """Offer the present state to the operator."""
        self.reporter.offer(self.telemetry.progress())

    def tell_checkpoints(self) -> None:
        """Take into the present state which checkpoints there are."""
        self.telemetry.checkpoints(self.store.complete, self.store.best_step, self.store.unverified)

    def take_up_verified(self, *, wait: bool = False) -> None:
        """Count in older checkpoints that were verified meanwhile, or with `wait` all. Only the leader has any."""
        before = self.store.unverified
        self.pass_over(self.store.take_up(wait=wait))
        if self.store.unverified != before:
            self.tell_checkpoints()

    def settle_checkpoints(self) -> None:
        """Let all processes know every checkpoint that there is. Collective."""
        self.take_up_verified(wait=True)
        self.store.complete = self.world.share(self.store.complete)

    def pass_over(self, skipped: Sequence[SkippedCheckpoint]) -> None:
        """Tell checkpoints that can not be used."""
        for checkpoint in skipped:
            logger.warning("%s is passed over: %s", checkpoint.path, checkpoint.why)
        self.telemetry.skipped(skipped)

    def doing(self, activity: Activity) -> None:
        """Say what happens from now on, and that it does.

        Raises:
            Failure: a checkpoint is about to be written where another job works by now.
        """
        if activity is Activity.SAVING and self.world.leads:
            self.store.check_not_lost()
        self.watchdog.heard(activity)
        if activity is not self.telemetry.activity:
            self.telemetry.doing(activity)
            self.report()

    @contextmanager
    def fetching(self) -> Iterator[None]:
        """Around fetching the batches of a step, with which it begins."""
        self.doing(Activity.TRAINING)
        with self.telemetry.waiting_for_data():
            yield

    def must_stop(self) -> bool:
        """Whether somebody asked for an end. With nothing left to train the run is brought to its own end instead."""
        return self.stop.requested and not self.telemetry.ended

    def agree_to_stop(self) -> bool:
        """Whether to stop, asked of all processes at a point that all of them pass. Collective."""
        self.watchdog.heard(self.telemetry.activity)
        if self.stop.agree():
            self._tell_time_left()
        return self.must_stop()

    def _tell_time_left(self) -> None:
        """Whether a save as long as the longest so far ends before the Pod is killed."""
        longest = self.telemetry.progress().longest_save_seconds
        if self.grace_seconds is None or longest is None or not self.config.checkpoints.on_termination:
            return
        left = self.grace_seconds - self.stop.seconds_since_signal()
        if longest > left:
            logger.warning(
                "asked to stop with %.0f s of %d s left after this step, but a checkpoint took up to %.0f s: this one "
                "may not be complete in time",
                max(left, 0.0),
                self.grace_seconds,
                longest,
            )

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
        return self.world.size * micro_batches(self.config)[0]

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
