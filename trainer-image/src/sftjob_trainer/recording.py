"""The metrics of each logged step and each evaluation: a line of metrics.jsonl, and whatever tracks the run."""

import json
from collections.abc import Mapping
from contextlib import ExitStack
from types import TracebackType
from typing import Self

from sftjob_contract import layout
from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure
from sftjob_trainer.run import Run
from sftjob_trainer.tracking import Ending, Tracker, scalar_name, trackers


class Recorder:
    """Context manager around the training loop; on the way in everything is opened, on the way out closed."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._open = ExitStack()
        self._trackers: tuple[Tracker, ...] = ()

    def __enter__(self) -> Self:
        """Open metrics.jsonl, to which attempts append, and the trackers. Of several processes only one records."""
        if not self._run.world.leads:
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
        """Close everything; the trackers are told how it ended."""
        with self._open:
            for tracker in self._trackers:
                tracker.close(self._ending(error))

    def _ending(self, error: BaseException | None) -> Ending:
        interrupted = isinstance(error, Failure) and error.reason is Reason.INTERRUPTED
        if interrupted or (error is None and self._run.must_stop()):
            return Ending.INTERRUPTED
        return Ending.FINISHED if error is None else Ending.FAILED

    def write(self, values: Mapping[str, float | None]) -> None:
        """Keep `values` of the present step. Lines of an attempt that died may be followed by the same steps again."""
        if not self._run.world.leads:
            return
        progress = self._run.telemetry.progress()
        head = {"time": progress.time, "attempt": progress.attempt, "step": progress.step, "epoch": progress.epoch}
        known = {name: value for name, value in values.items() if value is not None}
        line = {name: value for name, value in {**head, **known}.items() if value is not None}
        self._metrics.write(json.dumps(line, allow_nan=False) + "\n")
        scalars = {scalar_name(name): value for name, value in known.items()}
        for tracker in self._trackers:
            tracker.log(progress.step, scalars)
