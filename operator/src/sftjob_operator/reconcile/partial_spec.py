"""A job whose spec is only partly readable: spec.suspend and spec.deadlineSeconds still take effect."""

from dataclasses import replace as changed
from datetime import datetime

from sftjob_operator.api import replace
from sftjob_operator.reconcile.attempts.deadline import is_overdue
from sftjob_operator.reconcile.checks.results import failed, stopping
from sftjob_operator.reconcile.checks.stopping import DEADLINE, SUSPENSION, deadline_exceeded, suspended_result
from sftjob_operator.reconcile.observe.observed import Decision, Observed, PodView, Settings
from sftjob_operator.reconcile.snapshot import CheckResult, Snapshot, take_snapshot
from sftjob_operator.reconcile.status.build import status_of
from sftjob_operator.reconcile.status.events import events_between


def decide_stop(observed: Observed, settings: Settings, now: datetime, note: str) -> Decision | None:
    """Decide about a job that may not run now; None if its last stage succeeded.

    `observed.job` has the readable part of the spec, `note` explains why it is incomplete. Nothing is created, and
    status fields that follow from the rest of the spec stay unchanged.
    """
    snapshot = take_snapshot(changed(observed, pods=tuple(map(_without_stats, observed.pods))), settings, now)
    before = snapshot.job.status
    if snapshot.completed is not None:
        return None
    result = _stop(snapshot, note)
    status, recheck_seconds = status_of(snapshot, result)
    status = replace(status, method=before.method, gpus=before.gpus, plan=before.plan, moved_aside=before.moved_aside)
    events = events_between(before, status)
    return Decision(status=status, actions=result.actions, events=events, recheck_seconds=recheck_seconds)


def _without_stats(pod: PodView) -> PodView:
    """Drop Prepare's statistics: no plan is made from a partly known spec."""
    return pod if pod.outcome is None else changed(pod, outcome=changed(pod.outcome, prepared=None))


def _stop(snapshot: Snapshot, note: str) -> CheckResult:
    if is_overdue(snapshot.job, snapshot.now):
        why = DEADLINE.format(snapshot.job.spec.deadline_seconds)
        if snapshot.live_pods:
            return stopping(snapshot, f"{why} {note}")
        reason, message = deadline_exceeded(snapshot, why)
        return failed(snapshot, reason, f"{message} {note}")
    return stopping(snapshot, f"{SUSPENSION} {note}") if snapshot.live_pods else suspended_result(snapshot, note)
