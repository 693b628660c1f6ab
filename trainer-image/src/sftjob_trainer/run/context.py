"""One training run: its config, its state, and its reporting."""

import logging
import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sftjob_contract.reasons import Reason
from sftjob_contract.reports.progress import Activity, SkippedCheckpoint
from sftjob_contract.reports.stats import PreparedStats
from sftjob_contract.run.batches import micro_batches
from sftjob_contract.run.config import RunConfig
from sftjob_trainer.distributed.stop_request import StopRequest
from sftjob_trainer.distributed.world import SINGLE_PROCESS, World
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.watchdog import Watchdog
from sftjob_trainer.reporting.reporter import Reporter
from sftjob_trainer.reporting.telemetry import Telemetry
from sftjob_trainer.run.checkpoints import CheckpointStore
from sftjob_trainer.run.sft_config import is_due

logger = logging.getLogger(__name__)

PADDING_ROW_TOKENS: Final = 2
"""Tokens of a row that only pads a batch."""


@dataclass(frozen=True, kw_only=True)
class Run:
    """Shared state of the parts of one training attempt.

    After SIGTERM it has `grace_seconds`, if known.
    """

    config: RunConfig
    stats: PreparedStats
    volume: Path
    store: CheckpointStore
    telemetry: Telemetry
    reporter: Reporter
    stop: StopRequest
    world: World = SINGLE_PROCESS
    grace_seconds: int | None = None
    watchdog: Watchdog = field(default_factory=Watchdog)

    def report(self) -> None:
        """Offer the current state to the operator."""
        self.reporter.offer(self.telemetry.progress())

    def update_checkpoints(self) -> None:
        """Update the list of checkpoints in the current state."""
        self.telemetry.set_checkpoints(self.store.complete, self.store.best_step, self.store.unverified)

    def collect_verified(self, *, wait: bool = False) -> None:
        """Count older checkpoints verified so far, or with `wait` all of them. Only the leader has any."""
        before = self.store.unverified
        self.report_skipped(self.store.collect_verified(wait=wait))
        if self.store.unverified != before:
            self.update_checkpoints()

    def share_checkpoints(self) -> None:
        """Share the complete list of checkpoints with all processes. Collective."""
        self.collect_verified(wait=True)
        self.store.complete = self.world.broadcast(self.store.complete)

    def report_skipped(self, skipped: Sequence[SkippedCheckpoint]) -> None:
        """Report checkpoints that are unusable."""
        for checkpoint in skipped:
            logger.warning("%s is skipped: %s", checkpoint.path, checkpoint.why)
        self.telemetry.add_skipped(skipped)

    def set_activity(self, activity: Activity) -> None:
        """Set the current activity and signal the watchdog.

        Raises:
            StageError: a checkpoint is about to be written, but another job has taken over the directory.
        """
        if activity is Activity.SAVING and self.world.is_leader:
            self.store.check_still_owned()
        self.watchdog.heartbeat(activity)
        if activity is not self.telemetry.activity:
            self.telemetry.set_activity(activity)
            self.report()

    @contextmanager
    def fetching(self) -> Iterator[None]:
        """Wrap fetching the batches of a step, with which the step starts."""
        self.set_activity(Activity.TRAINING)
        with self.telemetry.waiting_for_data():
            yield

    def must_stop(self) -> bool:
        """Whether a stop was requested. If nothing is left to train, the run ends normally instead."""
        return self.stop.requested and not self.telemetry.ended

    def agree_to_stop(self) -> bool:
        """Whether to stop, decided by all processes at a common point. Collective."""
        self.watchdog.heartbeat(self.telemetry.activity)
        if self.stop.agree():
            self._warn_if_time_is_short()
        return self.must_stop()

    def _warn_if_time_is_short(self) -> None:
        """Warn if a save as long as the longest so far would not end before the Pod is killed."""
        longest = self.telemetry.progress().longest_save_seconds
        if self.grace_seconds is None or longest is None or not self.config.checkpoints.on_termination:
            return
        seconds_left = self.grace_seconds - self.stop.seconds_since_signal()
        if longest > seconds_left:
            logger.warning(
                "stop requested with %.0f s of %d s left after this step, but a checkpoint took up to %.0f s: this one "
                "may not be complete in time",
                max(seconds_left, 0.0),
                self.grace_seconds,
                longest,
            )

    def stop_error(self) -> StageError:
        """The StageError to raise once the state is saved, or if there is nothing new to save."""
        saved = f"{self.store.complete[-1].path} is saved" if self.store.complete else "there is no checkpoint yet"
        return StageError(
            Reason.INTERRUPTED,
            f"stopped on request after step {self.telemetry.step} of {self.stats.max_steps}; {saved}",
        )

    @property
    def batch_rows(self) -> int:
        """Rows of one forward pass of all processes; every part of the data is padded to a multiple of it."""
        return self.world.size * micro_batches(self.config)[0]

    def padding_tokens(self) -> int:
        """Padding tokens processed since the attempt began: with several processes, each epoch ends with padding rows.

        A single process takes a smaller last batch instead.
        """
        if self.world.size == 1:
            return 0
        steps = (self.telemetry.resumed_from_step, self.telemetry.step)
        first, last = (step // self.stats.steps_per_epoch for step in steps)
        return (last - first) * (-self.stats.sequences % self.batch_rows) * PADDING_ROW_TOKENS

    def evaluates_at(self, step: int) -> bool:
        """Whether there is held-out data and an evaluation is due after `step`."""
        return self.stats.evaluation_sequences > 0 and is_due(
            step, self.config.evaluation.every_steps, self.config.evaluation.per_epoch, self.stats
        )

    def is_output(self, loss: float) -> bool:
        """Whether a run that ended after an evaluation with this loss would output the evaluated model.

        That is the last one, or with early stopping the best of those that have a checkpoint.
        """
        if self.config.training.early_stopping is None:
            return True
        losses = [checkpoint.eval_loss for checkpoint in self.store.complete if checkpoint.eval_loss is not None]
        return loss < min(losses, default=math.inf)

    def saves_at(self, step: int) -> bool:
        """Whether a checkpoint is saved after `step`."""
        return is_due(step, self.config.checkpoints.every_steps, self.config.checkpoints.per_epoch, self.stats)
