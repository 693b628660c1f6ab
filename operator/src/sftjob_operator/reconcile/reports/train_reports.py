"""Reports of the newest train attempts, as parts of the status."""

from collections.abc import Iterable

from sftjob_contract.names import Stage
from sftjob_contract.reports.progress import Progress
from sftjob_operator.api import AttemptStatus, SFTJob, SFTJobStatus, replace
from sftjob_operator.reconcile.attempts.ledger import last_attempt, progress_of, succeeded
from sftjob_operator.reconcile.observe.attempt_pods import PodGroup, head_of
from sftjob_operator.reconcile.observe.observed import Report
from sftjob_operator.reconcile.reports.status_parts import stopped, with_progress


def with_training(
    job: SFTJob, attempts: tuple[AttemptStatus, ...], groups: Iterable[PodGroup], report: Report | None
) -> SFTJobStatus:
    """Return the job's status with progress, curve and checkpoints of the newest train attempt that reported some.

    `stop_seconds` becomes the longest time for a stop that any train attempt has measured.
    """
    status = job.status
    for attempt in _unrecorded_attempts(job, attempts):
        if (progress := progress_of(attempt, head_of(groups, attempt), report)) is not None:
            received = report.received if report is not None and progress is report.progress else None
            status = with_progress(status, job, progress, received)
            status = replace(status, stop_seconds=_longest(status.stop_seconds, _stop_seconds(progress)))
        if status.progress is not None and attempt.end_time is not None:
            status = replace(status, progress=stopped(status.progress, job, finished=succeeded(attempt)))
    return status


def _unrecorded_attempts(job: SFTJob, attempts: tuple[AttemptStatus, ...]) -> list[AttemptStatus]:
    """Return train attempts whose final report the status may lack: the newest, and any ended since the last write."""
    recorded = {(entry.stage, entry.number) for entry in job.status.attempts if entry.end_time is not None}
    last = last_attempt(attempts, Stage.TRAIN)
    return [
        entry
        for entry in attempts
        if entry.stage == Stage.TRAIN and (entry is last or (entry.stage, entry.number) not in recorded)
    ]


def _stop_seconds(progress: Progress) -> float | None:
    """A stop waits for the end of a step, then for a checkpoint."""
    if progress.longest_save_seconds is None:
        return None
    return progress.longest_save_seconds + (progress.step_seconds or 0)


def _longest(known: float | None, reported: float | None) -> float | None:
    return max((seconds for seconds in (known, reported) if seconds is not None), default=None)
