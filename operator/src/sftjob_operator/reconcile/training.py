"""What the newest train attempt has told, as the parts of a status."""

from sftjob_contract.names import Stage
from sftjob_operator.api import SFTJobStatus, replace
from sftjob_operator.reconcile.attempts import progress_of, succeeded
from sftjob_operator.reconcile.progress import stopped, with_progress
from sftjob_operator.reconcile.situation import Situation


def with_training(at: Situation) -> SFTJobStatus:
    """The job's status with progress, curve and checkpoints of the newest train attempt that told some."""
    status = at.job.status
    last = at.last(Stage.TRAIN)
    if last is None:
        return status
    pod = at.pod_of(last)
    if (progress := progress_of(last, pod, at.report)) is not None:
        told_live = at.report is not None and progress is at.report.progress
        status = with_progress(status, at.job, progress, at.report.received if told_live and at.report else None)
    if status.progress is not None and last.end_time is not None:
        status = replace(status, progress=stopped(status.progress, finished=succeeded(last)))
    return status
