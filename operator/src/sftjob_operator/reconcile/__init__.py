"""What to do about a job, decided from what is observed now. Pure: no I/O, no clock."""

from datetime import datetime

from sftjob_operator.reconcile.admission import rendered_invalid
from sftjob_operator.reconcile.checks import CHECKS
from sftjob_operator.reconcile.cleanup import clean_up
from sftjob_operator.reconcile.events import events_between
from sftjob_operator.reconcile.goodput import TimeUse, goodput
from sftjob_operator.reconcile.groups import pod_names
from sftjob_operator.reconcile.holding import held_status, unreadable
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
    Publish,
    Reachability,
    Refusal,
    Report,
    Settings,
)
from sftjob_operator.reconcile.patches import merge_patch
from sftjob_operator.reconcile.pods import belongs_to, owner_uid, pod_job, pod_view
from sftjob_operator.reconcile.publishing import published
from sftjob_operator.reconcile.reports import usable_progress
from sftjob_operator.reconcile.situation import situation
from sftjob_operator.reconcile.status import status_of
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
    "Publish",
    "Reachability",
    "Refusal",
    "Report",
    "Settings",
    "TimeUse",
    "awaits_cleanup",
    "belongs_to",
    "decide",
    "goodput",
    "held_status",
    "is_finished",
    "merge_patch",
    "owner_uid",
    "parse_time",
    "pod_job",
    "pod_names",
    "pod_view",
    "rendered_invalid",
    "rfc3339",
    "unreadable",
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
        actions=(*finding.actions, *published(at, observed.published_ca)),
        events=events_between(job.status, status),
        recheck_seconds=recheck_seconds,
    )
