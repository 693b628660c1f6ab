"""Reconciliation: decide what to do about a job from its observed state. Pure: no I/O, no clock."""

from dataclasses import replace
from datetime import datetime

from sftjob_operator.reconcile.admission import rendered_invalid
from sftjob_operator.reconcile.attempts.deadline import (
    awaits_cleanup,
    has_ended,
    is_finished,
    seconds_to_deadline,
    stop_reason,
)
from sftjob_operator.reconcile.ca_update import ca_updates
from sftjob_operator.reconcile.checks import CHECKS
from sftjob_operator.reconcile.cleanup import clean_up
from sftjob_operator.reconcile.messages.sentences import name_conflict
from sftjob_operator.reconcile.observe.attempt_pods import pod_names
from sftjob_operator.reconcile.observe.observed import (
    Action,
    Create,
    CreateError,
    Decision,
    Delete,
    EventNote,
    Observed,
    PodPhase,
    PodProblem,
    PodView,
    Publish,
    Reachability,
    Report,
    Settings,
)
from sftjob_operator.reconcile.observe.sidecar_pods import sidecar_pod_deletions, sidecar_pod_deletions_after_end
from sftjob_operator.reconcile.observe.times import parse_time, rfc3339
from sftjob_operator.reconcile.partial_spec import decide_stop
from sftjob_operator.reconcile.reports.limits import usable_progress
from sftjob_operator.reconcile.reports.pods import belongs_to, mounts, owner_uid, pod_job, pod_view
from sftjob_operator.reconcile.snapshot import take_snapshot
from sftjob_operator.reconcile.start_problems import (
    is_unexplained,
    problem_from_claim,
    problem_from_events,
    seconds_until_unexplained,
)
from sftjob_operator.reconcile.status.blocked import blocked_status, partly_readable, unreadable
from sftjob_operator.reconcile.status.build import status_of
from sftjob_operator.reconcile.status.events import events_between
from sftjob_operator.reconcile.status.urgency import is_urgent, urgent_part

__all__ = [
    "Action",
    "Create",
    "CreateError",
    "Decision",
    "Delete",
    "EventNote",
    "Observed",
    "PodPhase",
    "PodProblem",
    "PodView",
    "Publish",
    "Reachability",
    "Report",
    "Settings",
    "awaits_cleanup",
    "belongs_to",
    "blocked_status",
    "decide",
    "decide_stop",
    "is_finished",
    "is_unexplained",
    "is_urgent",
    "mounts",
    "name_conflict",
    "owner_uid",
    "parse_time",
    "partly_readable",
    "pod_job",
    "pod_names",
    "pod_view",
    "problem_from_claim",
    "problem_from_events",
    "rendered_invalid",
    "rfc3339",
    "seconds_to_deadline",
    "seconds_until_unexplained",
    "sidecar_pod_deletions_after_end",
    "stop_reason",
    "unreadable",
    "urgent_part",
    "usable_progress",
]


def decide(observed: Observed, settings: Settings, now: datetime) -> Decision:
    """Decide what to do about one job now. A job in deletion is left alone; a finished one is only cleaned up."""
    job = observed.job
    if job.metadata.deletion_timestamp is not None:
        return Decision(status=job.status)
    if has_ended(job):
        return _finished(observed, now)
    snapshot = take_snapshot(observed, settings, now)
    result = next(found for check in CHECKS if (found := check(snapshot)) is not None)
    status, recheck_seconds = status_of(snapshot, result)
    dismissed, next_seconds = sidecar_pod_deletions(snapshot.pods, job.status.attempts, now)
    return Decision(
        status=status,
        actions=(*result.actions, *dismissed, *ca_updates(snapshot, observed.published_ca)),
        events=events_between(job.status, status),
        recheck_seconds=_sooner(recheck_seconds, next_seconds),
    )


def _finished(observed: Observed, now: datetime) -> Decision:
    job = observed.job
    own = (pod for pod in observed.pods if pod.owner_uid == job.metadata.uid)
    dismissed, next_seconds = sidecar_pod_deletions_after_end(own, job.status.completion_time, now)
    decision = clean_up(observed, now)
    return replace(
        decision,
        actions=decision.actions or dismissed,
        recheck_seconds=_sooner(decision.recheck_seconds, next_seconds),
    )


def _sooner(*seconds: float | None) -> float | None:
    return min((each for each in seconds if each is not None), default=None)
