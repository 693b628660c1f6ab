"""What to do about a job, decided from what is observed now. Pure: no I/O, no clock."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from sftjob_contract.reasons import Reason
from sftjob_operator.api import (
    ConditionReason,
    ConditionStatus,
    ConditionType,
    Phase,
    SFTJob,
    SFTJobStatus,
)
from sftjob_operator.reconcile.checks import CHECKS
from sftjob_operator.reconcile.events import events_between
from sftjob_operator.reconcile.observed import (
    Create,
    Decision,
    EventNote,
    Observed,
    PodPhase,
    PodView,
    Refusal,
    Report,
    Settings,
)
from sftjob_operator.reconcile.patches import merge_patch
from sftjob_operator.reconcile.pods import owner_uid, pod_job, pod_view
from sftjob_operator.reconcile.reports import check_progress
from sftjob_operator.reconcile.situation import Said, situation
from sftjob_operator.reconcile.status import condition, status_of
from sftjob_operator.reconcile.times import rfc3339

__all__ = [
    "Create",
    "Decision",
    "EventNote",
    "Observed",
    "PodPhase",
    "PodView",
    "Refusal",
    "Report",
    "Settings",
    "check_progress",
    "decide",
    "is_finished",
    "merge_patch",
    "owner_uid",
    "pod_job",
    "pod_view",
    "refuse",
    "rfc3339",
]


def decide(observed: Observed, settings: Settings, now: datetime) -> Decision:
    """What to do now about one job. A job that is finished or being deleted is left as it is."""
    job = observed.job
    if job.metadata.deletion_timestamp is not None or _ended(job):
        return Decision(status=job.status)
    at = situation(observed, settings, now)
    finding = next(found for check in CHECKS if (found := check(at)) is not None)
    status, recheck_seconds = status_of(at, finding)
    return Decision(
        status=status,
        actions=finding.actions,
        events=events_between(job.status, status),
        recheck_seconds=recheck_seconds,
    )


def is_finished(body: Mapping[str, Any]) -> bool:
    """Whether a job as stored has succeeded or failed, even if the rest of it can not be read."""
    conditions = (body.get("status") or {}).get("conditions") or ()
    return any(c.get("type") == ConditionType.SUCCEEDED and c.get("status") in ("True", "False") for c in conditions)


def refuse(body: Mapping[str, Any], why: str, now: datetime) -> Decision:
    """End a job whose stored spec can not be read: said in its status, never tried again."""
    time = rfc3339(now)
    generation = body["metadata"].get("generation", 1)
    message = f"{why}. The stored object does not fit this operator's CRD: delete it and apply a corrected one."
    said = {
        ConditionType.PREPARED: Said(
            status=ConditionStatus.FALSE, reason=ConditionReason.INVALID_SPEC, message=message
        ),
        ConditionType.RUNNING: Said(
            status=ConditionStatus.FALSE, reason=ConditionReason.FAILED, message="The job has failed; see Succeeded."
        ),
        ConditionType.PROGRESS_REPORTING: Said(
            status=ConditionStatus.FALSE, reason=ConditionReason.FAILED, message="The job has ended."
        ),
        ConditionType.SUCCEEDED: Said(status=ConditionStatus.FALSE, reason=Reason.CONFIG_INVALID, message=message),
    }
    status = SFTJobStatus(
        phase=Phase.FAILED,
        observed_generation=generation,
        start_time=time,
        completion_time=time,
        conditions=tuple(condition(type_, what, generation, time) for type_, what in said.items()),
    )
    return Decision(status=status, events=events_between(SFTJobStatus(), status))


def _ended(job: SFTJob) -> bool:
    return any(
        condition.type == ConditionType.SUCCEEDED and condition.status != ConditionStatus.UNKNOWN
        for condition in job.status.conditions
    )
