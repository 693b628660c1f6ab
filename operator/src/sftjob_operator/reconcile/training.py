"""What the newest train attempt has reported, as the parts of a status."""

from sftjob_contract.names import Stage
from sftjob_contract.progress import Progress
from sftjob_operator.api import AttemptStatus, SFTJobStatus, replace
from sftjob_operator.reconcile.attempts import progress_of, succeeded
from sftjob_operator.reconcile.progress import stopped, with_progress
from sftjob_operator.reconcile.situation import Situation


def with_training(at: Situation) -> SFTJobStatus:
    """The job's status with progress, curve and checkpoints of the newest train attempt that reported some."""
    status = at.job.status
    for attempt in _untold(at):
        if (progress := progress_of(attempt, at.pod_of(attempt), at.report)) is not None:
            live = at.report is not None and progress is at.report.progress
            status = with_progress(status, at.job, progress, at.report.received if live and at.report else None)
        if status.progress is not None and attempt.end_time is not None:
            status = replace(status, progress=stopped(status.progress, at.job, finished=succeeded(attempt)))
    return replace(status, stop_seconds=stop_seconds(at))


def stop_seconds(at: Situation) -> float | None:
    """How long a stop takes with its checkpoint: the longest that any train attempt has measured."""
    known = at.job.status.stop_seconds
    for attempt in _untold(at):
        if (progress := progress_of(attempt, at.pod_of(attempt), at.report)) is not None:
            known = _longest(known, _stop_seconds(progress))
    return known


def _untold(at: Situation) -> list[AttemptStatus]:
    """Train attempts whose last word the status may lack: the newest, and any that ended since the last write."""
    recorded = {(entry.stage, entry.number) for entry in at.job.status.attempts if entry.end_time is not None}
    last = at.last(Stage.TRAIN)
    return [
        entry
        for entry in at.attempts
        if entry.stage == Stage.TRAIN and (entry is last or (entry.stage, entry.number) not in recorded)
    ]


def _stop_seconds(progress: Progress) -> float | None:
    """A stop waits for the end of a step, then for a checkpoint."""
    if progress.longest_save_seconds is None:
        return None
    return progress.longest_save_seconds + (progress.step_seconds or 0)


def _longest(known: float | None, reported: float | None) -> float | None:
    return max((seconds for seconds in (known, reported) if seconds is not None), default=None)
