"""Record the metrics of each logged step and each evaluation in metrics.jsonl and in the trackers."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from sftjob_contract import layout
from sftjob_contract.reasons import Reason
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.reporting.tracker import FinalStatus, Tracker
from sftjob_trainer.reporting.trackers import scalar_name, trackers
from sftjob_trainer.run.context import Run


class MetricsRecorder:
    """Context manager around the training loop; opens everything on entry and closes it on exit."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._open = ExitStack()
        self._trackers: tuple[Tracker, ...] = ()

    def __enter__(self) -> Self:
        """Open the trackers and metrics.jsonl, to which attempts append. Only one of several processes records."""
        if not self._run.world.is_leader:
            return self
        path = self._run.volume / layout.METRICS
        path.parent.mkdir(parents=True, exist_ok=True)
        first = self._run.telemetry.resumed_from_step + 1 if self._run.telemetry.resumed_from_step else 0
        with ExitStack() as opening:
            self._metrics = opening.enter_context(path.open("a", encoding="utf-8", buffering=1))
            self._trackers = trackers(self._run.config, self._run.volume, first_step=first)
            self._open = opening.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Close everything; the trackers receive how the run ended."""
        with self._open:
            for tracker in self._trackers:
                tracker.close(self._final_status(error))

    def _final_status(self, error: BaseException | None) -> FinalStatus:
        interrupted = isinstance(error, StageError) and error.reason is Reason.INTERRUPTED
        if interrupted or (error is None and self._run.must_stop()):
            return FinalStatus.INTERRUPTED
        return FinalStatus.FINISHED if error is None else FinalStatus.FAILED

    def write(self, values: Mapping[str, float | None]) -> None:
        """Record the `values` of the current step. Lines of a crashed attempt may be followed by the same steps."""
        if not self._run.world.is_leader:
            return
        progress = self._run.telemetry.progress()
        position = {"time": progress.time, "attempt": progress.attempt, "step": progress.step, "epoch": progress.epoch}
        known = {name: value for name, value in values.items() if value is not None}
        line = {name: value for name, value in {**position, **known}.items() if value is not None}
        self._metrics.write(json.dumps(line, allow_nan=False) + "\n")
        scalars = {scalar_name(name): value for name, value in known.items()}
        for tracker in self._trackers:
            tracker.log(progress.step, scalars)
