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
    SFTJobStatus,
)
from sftjob_operator.reconcile.checks import CHECKS
from sftjob_operator.reconcile.cleanup import clean_up
from sftjob_operator.reconcile.events import events_between
from sftjob_operator.reconcile.goodput import TimeUse, goodput
from sftjob_operator.reconcile.groups import pod_names
from sftjob_operator.reconcile.lifetime import awaits_cleanup, has_ended, is_finished
from sftjob_operator.reconcile.observed import (
    Action,
    Create,
    Decision,
    Delete,
    EventNote,
    Observed,
    PodPhase,
    PodView,
    Refusal,
    Report,
    Settings,
)
from sftjob_operator.reconcile.patches import merge_patch
from sftjob_operator.reconcile.pods import belongs_to, owner_uid, pod_job, pod_view
from sftjob_operator.reconcile.reports import usable_progress
from sftjob_operator.reconcile.situation import Said, situation
from sftjob_operator.reconcile.status import condition, status_of
from sftjob_operator.reconcile.times import parse_time, rfc3339

__all__ = [
    "Action",
    "Create",
    "Decision",
    "Delete",
    "EventNote",
    "Observed",
    "PodPhase",
    "PodView",
    "Refusal",
    "Report",
    "Settings",
    "TimeUse",
    "awaits_cleanup",
    "belongs_to",
    "decide",
    "goodput",
    "is_finished",
    "merge_patch",
    "owner_uid",
    "parse_time",
    "pod_job",
    "pod_names",
    "pod_view",
    "refuse",
    "rfc3339",
    "usable_progress",
]


def decide(observed: Observed, settings: Settings, now: datetime) -> Decision:
    """What to do now about one job. One that is being deleted is left as it is; a finished one is only cleaned up."""
    job = observed.job
    if job.metadata.deletion_timestamp is not None:
        return Decision(status=job.status)
    if has_ended(job):
        return clean_up(observed, now)
    at = situation(observed, settings, now)
    finding = next(found for check in CHECKS if (found := check(at)) is not None)
    status, recheck_seconds = status_of(at, finding)
    return Decision(
        status=status,
        actions=finding.actions,
        events=events_between(job.status, status),
        recheck_seconds=recheck_seconds,
    )


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
