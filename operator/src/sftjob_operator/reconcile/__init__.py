"""What to do about a job, decided from what is observed now. Pure: no I/O, no clock."""

from dataclasses import replace
from datetime import datetime

from sftjob_operator.reconcile.admission import rendered_invalid
from sftjob_operator.reconcile.checks import CHECKS
from sftjob_operator.reconcile.cleanup import clean_up
from sftjob_operator.reconcile.events import TROUBLES, events_between
from sftjob_operator.reconcile.goodput import TimeUse, goodput
from sftjob_operator.reconcile.groups import pod_names
from sftjob_operator.reconcile.holding import held_status, partly_readable, unreadable
from sftjob_operator.reconcile.lifetime import awaits_cleanup, has_ended, is_finished, seconds_to_deadline, stop_reason
from sftjob_operator.reconcile.lingering import dismissals, dismissals_after
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
    Trouble,
)
from sftjob_operator.reconcile.obstacles import (
    is_unexplained,
    seconds_until_unexplained,
    told_by_claim,
    told_by_events,
)
from sftjob_operator.reconcile.partly import decide_stop
from sftjob_operator.reconcile.patches import merge_patch
from sftjob_operator.reconcile.pods import belongs_to, mounts, owner_uid, pod_job, pod_view
from sftjob_operator.reconcile.publishing import published
from sftjob_operator.reconcile.reports import usable_progress
from sftjob_operator.reconcile.situation import situation
from sftjob_operator.reconcile.status import status_of
from sftjob_operator.reconcile.times import parse_time, rfc3339

__all__ = [
    "TROUBLES",
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
    "Trouble",
    "awaits_cleanup",
    "belongs_to",
    "decide",
    "decide_stop",
    "dismissals_after",
    "goodput",
    "held_status",
    "is_finished",
    "is_unexplained",
    "merge_patch",
    "mounts",
    "owner_uid",
    "parse_time",
    "partly_readable",
    "pod_job",
    "pod_names",
    "pod_view",
    "rendered_invalid",
    "rfc3339",
    "seconds_to_deadline",
    "seconds_until_unexplained",
    "stop_reason",
    "told_by_claim",
    "told_by_events",
    "unreadable",
    "usable_progress",
]


def decide(observed: Observed, settings: Settings, now: datetime) -> Decision:
    """What to do now about one job. One that is being deleted is left as it is; a finished one is only cleaned up."""
    job = observed.job
    if job.metadata.deletion_timestamp is not None:
        return Decision(status=job.status)
    if has_ended(job):
        return _finished(observed, now)
    at = situation(observed, settings, now)
    finding = next(found for check in CHECKS if (found := check(at)) is not None)
    status, recheck_seconds = status_of(at, finding)
    dismissed, next_seconds = dismissals(at.pods, job.status.attempts, now)
    return Decision(
        status=status,
        actions=(*finding.actions, *dismissed, *published(at, observed.published_ca)),
        events=events_between(job.status, status),
        recheck_seconds=_sooner(recheck_seconds, next_seconds),
    )


def _finished(observed: Observed, now: datetime) -> Decision:
    job = observed.job
    own = (pod for pod in observed.pods if pod.owner_uid == job.metadata.uid)
    dismissed, next_seconds = dismissals_after(own, job.status.completion_time, now)
    decision = clean_up(observed, now)
    return replace(
        decision,
        actions=decision.actions or dismissed,
        recheck_seconds=_sooner(decision.recheck_seconds, next_seconds),
    )


def _sooner(*seconds: float | None) -> float | None:
    return min((each for each in seconds if each is not None), default=None)
