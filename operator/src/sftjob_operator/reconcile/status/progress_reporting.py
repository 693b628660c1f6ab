"""The condition ProgressReporting: whether a running trainer's reports arrive."""

from typing import Final

from sftjob_contract.names import CA_KEY, Stage
from sftjob_operator.api import ConditionReason, ConditionStatus, Phase, SFTJobStatus
from sftjob_operator.reconcile.messages.sentences import log_hint, silent_node
from sftjob_operator.reconcile.observe.observed import PodPhase, PodView
from sftjob_operator.reconcile.observe.times import parse_time, rfc3339, seconds_since
from sftjob_operator.reconcile.snapshot import ConditionState, Snapshot
from sftjob_operator.render import config_map_name

CERTIFICATE_RELOAD_SECONDS: Final = 180
"""How long a trainer may take to load a new CA: the kubelet updates a mounted ConfigMap within about a minute."""


def reporting(snapshot: Snapshot, phase: Phase) -> tuple[ConditionState, float | None]:
    """Return the condition, and the seconds until it may change by silence alone."""
    if phase in (Phase.SUCCEEDED, Phase.FAILED):
        reason = ConditionReason.COMPLETED if phase == Phase.SUCCEEDED else ConditionReason.FAILED
        return ConditionState(status=ConditionStatus.FALSE, reason=reason, message="The job has ended."), None
    group = snapshot.live(Stage.TRAIN)
    view = group.head if group is not None else None
    if view is None or view.phase not in (PodPhase.RUNNING, PodPhase.UNKNOWN):
        state = ConditionState(
            status=ConditionStatus.UNKNOWN, reason=ConditionReason.WAITING, message="No Train Pod is running."
        )
        return state, None
    reported = last_report_time(snapshot, view)
    if reported is None and snapshot.job.spec.command is not None:
        message = "The command is running and has not reported. Reports are optional; transformers' Trainer sends them."
        return ConditionState(status=ConditionStatus.UNKNOWN, reason=ConditionReason.WAITING, message=message), None
    if (changed := _certificate_changed(snapshot, reported)) is not None:
        return changed
    state, left = _by_silence(snapshot, view, reported)
    return state, None if left is None else min(left, _seconds_until_noticed(snapshot, reported) or left)


def _by_silence(snapshot: Snapshot, view: PodView, reported: str | None) -> tuple[ConditionState, float | None]:
    since = _silent_since(snapshot, reported) or view.started or rfc3339(snapshot.now)
    left = snapshot.settings.silence_seconds - seconds_since(since, snapshot.now)
    if left <= 0:
        return ConditionState(
            status=ConditionStatus.FALSE,
            reason=ConditionReason.REPORTS_MISSING,
            message=_missing(snapshot, view, since),
        ), None
    if reported is None:
        message = "The trainer is running and has not reported yet."
        return ConditionState(status=ConditionStatus.UNKNOWN, reason=ConditionReason.WAITING, message=message), left
    message = "The trainer reports its progress."
    return ConditionState(status=ConditionStatus.TRUE, reason=ConditionReason.REPORTING, message=message), left


def _silent_since(snapshot: Snapshot, reported: str | None) -> str | None:
    """Return when a silence began; for a report to an earlier process, when this one could receive the next."""
    received = snapshot.report is not None and rfc3339(snapshot.report.received) == reported
    undisturbed = snapshot.reachability.available_since
    if reported is None or received or undisturbed is None:
        return reported
    return max(reported, rfc3339(min(undisturbed, snapshot.now)))


def _certificate_changed(snapshot: Snapshot, reported: str | None) -> tuple[ConditionState, float | None] | None:
    """Return the condition until a reporting trainer has loaded the new CA; None afterwards, or once overdue."""
    changed = snapshot.reachability.certificate_since
    if changed is None or reported is None or parse_time(reported) >= changed.replace(microsecond=0):
        return None
    left = CERTIFICATE_RELOAD_SECONDS - (snapshot.now - changed).total_seconds()
    if left <= 0 or _seconds_until_noticed(snapshot, reported) is not None:
        return None
    message = (
        f"The certificate of the progress endpoint changed at {rfc3339(changed)}. Reports continue after the trainer "
        f"reads the new {CA_KEY} of ConfigMap {config_map_name(snapshot.job)}; the kubelet needs a minute or two to "
        "update it. Training does not depend on reports."
    )
    return ConditionState(status=ConditionStatus.UNKNOWN, reason=ConditionReason.REPORTS_MISSING, message=message), left


def _seconds_until_noticed(snapshot: Snapshot, reported: str | None) -> float | None:
    """Return the seconds until silence after a certificate change is reported; most trainers end it earlier."""
    if reported is None or snapshot.reachability.certificate_since is None:
        return None
    left = snapshot.settings.silence_seconds / 3 - seconds_since(reported, snapshot.now)
    return left if left > 0 else None


def last_report_time(snapshot: Snapshot, view: PodView) -> str | None:
    """Return when the newest report of this Pod arrived; from the status if the operator has restarted since."""
    if snapshot.report is not None and snapshot.report.progress.attempt == view.attempt:
        return rfc3339(snapshot.report.received)
    status: SFTJobStatus = snapshot.job.status
    reported = status.progress.last_report_time if status.progress is not None else None
    before_this_pod = reported is None or (
        view.started is not None and seconds_since(reported, snapshot.now) > seconds_since(view.started, snapshot.now)
    )
    return None if before_this_pod else reported


def _missing(snapshot: Snapshot, view: PodView, since: str) -> str:
    if (node := silent_node(view)) is not None:
        return (
            f"No report since {since}. {node} Training may continue there: reports resume when the node is ready, and "
            "a new attempt starts if the Pod is deleted with its node."
        )
    url = snapshot.settings.render.progress_url or "(no URL)"
    changed = snapshot.reachability.certificate_since
    if changed is not None and parse_time(since) < changed:
        return (
            f"No report since {since}, and the certificate of the progress endpoint changed at {rfc3339(changed)}: the "
            f"trainer does not read the new {CA_KEY} of ConfigMap {config_map_name(snapshot.job)}. Training does not "
            f"depend on reports; the next attempt uses the new one. {log_hint(snapshot.job, view.name)}"
        )
    return (
        f"No report since {since}. Training does not depend on reports. Check that Pod {view.name} can reach {url} "
        f"(NetworkPolicy, DNS). {log_hint(snapshot.job, view.name)}"
    )
