"""A job whose spec cannot be read as a whole: spec.suspend and spec.deadlineSeconds hold all the same."""

from dataclasses import replace as changed
from datetime import datetime

from sftjob_operator.api import replace
from sftjob_operator.reconcile.checks.findings import failed, stopping
from sftjob_operator.reconcile.checks.stopping import DEADLINE, SUSPENSION, exceeded, rests
from sftjob_operator.reconcile.events import events_between
from sftjob_operator.reconcile.lifetime import is_overdue
from sftjob_operator.reconcile.observed import Decision, Observed, PodView, Settings
from sftjob_operator.reconcile.situation import Finding, Situation, situation
from sftjob_operator.reconcile.status import status_of


def decide_stop(observed: Observed, settings: Settings, now: datetime, note: str) -> Decision | None:
    """What to do about a job that may not run now; None if its last stage has ended well.

    `observed.job` has the part of the spec that can be read, `note` says why that is not all of it. Nothing is created,
    and what follows from the rest of the spec stays as the status has it.
    """
    at = situation(changed(observed, pods=tuple(map(_without_stats, observed.pods))), settings, now)
    before = at.job.status
    if at.completed is not None:
        return None
    finding = _stop(at, note)
    status, recheck_seconds = status_of(at, finding)
    status = replace(status, method=before.method, gpus=before.gpus, plan=before.plan, moved_aside=before.moved_aside)
    events = events_between(before, status)
    return Decision(status=status, actions=finding.actions, events=events, recheck_seconds=recheck_seconds)


def _without_stats(pod: PodView) -> PodView:
    """No plan is made of a spec that is known in part."""
    return pod if pod.outcome is None else changed(pod, outcome=changed(pod.outcome, prepared=None))


def _stop(at: Situation, note: str) -> Finding:
    if is_overdue(at.job, at.now):
        why = DEADLINE.format(at.job.spec.deadline_seconds)
        if at.live_pods:
            return stopping(at, f"{why} {note}")
        reason, message = exceeded(at, why)
        return failed(at, reason, f"{message} {note}")
    return stopping(at, f"{SUSPENSION} {note}") if at.live_pods else rests(at, note)
