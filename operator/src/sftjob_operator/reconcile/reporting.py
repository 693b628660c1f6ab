"""The condition ProgressReporting: whether a running trainer's reports arrive."""

from sftjob_contract.names import Stage
from sftjob_operator.api import ConditionReason, ConditionStatus, Phase, SFTJobStatus
from sftjob_operator.reconcile.observed import PodPhase, PodView
from sftjob_operator.reconcile.sentences import silent_node
from sftjob_operator.reconcile.situation import Said, Situation
from sftjob_operator.reconcile.times import rfc3339, seconds_since


def reporting(at: Situation, phase: Phase) -> tuple[Said, float | None]:
    """The condition, and in how many seconds it may change by silence alone."""
    if phase in (Phase.SUCCEEDED, Phase.FAILED):
        reason = ConditionReason.COMPLETED if phase == Phase.SUCCEEDED else ConditionReason.FAILED
        return Said(status=ConditionStatus.FALSE, reason=reason, message="The job has ended."), None
    group = at.live(Stage.TRAIN)
    view = group.head if group is not None else None
    if view is None or view.phase not in (PodPhase.RUNNING, PodPhase.UNKNOWN):
        said = Said(status=ConditionStatus.UNKNOWN, reason=ConditionReason.WAITING, message="Nothing is training.")
        return said, None
    heard = last_heard(at, view)
    if heard is None and at.job.spec.command is not None:
        message = "The command runs and has not reported; nothing asks it to, but a transformers Trainer does so."
        return Said(status=ConditionStatus.UNKNOWN, reason=ConditionReason.WAITING, message=message), None
    since = heard or view.started or rfc3339(at.now)
    left = at.settings.silence_seconds - seconds_since(since, at.now)
    if left <= 0:
        return Said(
            status=ConditionStatus.FALSE, reason=ConditionReason.REPORTS_MISSING, message=_missing(at, view, since)
        ), None
    if heard is None:
        message = "The trainer runs and has not reported yet."
        return Said(status=ConditionStatus.UNKNOWN, reason=ConditionReason.WAITING, message=message), left
    message = "The trainer's reports arrive."
    return Said(status=ConditionStatus.TRUE, reason=ConditionReason.REPORTING, message=message), left


def last_heard(at: Situation, view: PodView) -> str | None:
    """When the newest report of this Pod arrived; told by the status if the operator was restarted since."""
    if at.report is not None and at.report.progress.attempt == view.attempt:
        return rfc3339(at.report.received)
    status: SFTJobStatus = at.job.status
    heard = status.progress.last_report_time if status.progress is not None else None
    before_this_pod = heard is None or (
        view.started is not None and seconds_since(heard, at.now) > seconds_since(view.started, at.now)
    )
    return None if before_this_pod else heard


def _missing(at: Situation, view: PodView, since: str) -> str:
    if (node := silent_node(view)) is not None:
        return (
            f"No report since {since}. {node} Training may continue on it: reports arrive again when the node is "
            "ready, and a new attempt starts if the Pod is removed with its node."
        )
    url = at.settings.render.progress_url or "(no URL)"
    return (
        f"No report since {since}. Training itself does not depend on reports. Check that Pod {view.name} can reach "
        f"{url} (NetworkPolicy, DNS), and its log: kubectl logs -n {at.job.metadata.namespace} {view.name}"
    )
