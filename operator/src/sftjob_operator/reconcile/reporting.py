"""The condition ProgressReporting: whether a running trainer's reports arrive."""

from typing import Final

from sftjob_contract.names import CA_KEY, Stage
from sftjob_operator.api import ConditionReason, ConditionStatus, Phase, SFTJobStatus
from sftjob_operator.reconcile.observed import PodPhase, PodView
from sftjob_operator.reconcile.sentences import silent_node
from sftjob_operator.reconcile.situation import Said, Situation
from sftjob_operator.reconcile.times import parse_time, rfc3339, seconds_since
from sftjob_operator.render import config_map_name

CERTIFICATE_PATIENCE_SECONDS: Final = 180
"""How long a trainer may take to pick up a new CA: the kubelet brings a changed ConfigMap within about a minute."""


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
    reported = last_report_time(at, view)
    if reported is None and at.job.spec.command is not None:
        message = "The command runs and has not reported; nothing asks it to, but a transformers Trainer does so."
        return Said(status=ConditionStatus.UNKNOWN, reason=ConditionReason.WAITING, message=message), None
    if (changed := _certificate_changed(at, reported)) is not None:
        return changed
    said, left = _by_silence(at, view, reported)
    return said, None if left is None else min(left, _until_noticed(at, reported) or left)


def _by_silence(at: Situation, view: PodView, reported: str | None) -> tuple[Said, float | None]:
    since = _silent_since(at, reported) or view.started or rfc3339(at.now)
    left = at.settings.silence_seconds - seconds_since(since, at.now)
    if left <= 0:
        return Said(
            status=ConditionStatus.FALSE, reason=ConditionReason.REPORTS_MISSING, message=_missing(at, view, since)
        ), None
    if reported is None:
        message = "The trainer runs and has not reported yet."
        return Said(status=ConditionStatus.UNKNOWN, reason=ConditionReason.WAITING, message=message), left
    message = "The trainer's reports arrive."
    return Said(status=ConditionStatus.TRUE, reason=ConditionReason.REPORTING, message=message), left


def _silent_since(at: Situation, reported: str | None) -> str | None:
    """When a silence began; of a report that an earlier process received, when this one could receive the next."""
    received = at.report is not None and rfc3339(at.report.received) == reported
    undisturbed = at.reachability.undisturbed_since
    if reported is None or received or undisturbed is None:
        return reported
    return max(reported, rfc3339(min(undisturbed, at.now)))


def _certificate_changed(at: Situation, reported: str | None) -> tuple[Said, float | None] | None:
    """What holds until a trainer that reported has picked up the new CA; None once it has, or after the usual time."""
    changed = at.reachability.certificate_since
    if changed is None or reported is None or parse_time(reported) >= changed.replace(microsecond=0):
        return None
    left = CERTIFICATE_PATIENCE_SECONDS - (at.now - changed).total_seconds()
    if left <= 0 or _until_noticed(at, reported) is not None:
        return None
    message = (
        f"The certificate of the progress endpoint changed at {rfc3339(changed)}. Reports continue when the trainer "
        f"has read the new {CA_KEY} of ConfigMap {config_map_name(at.job)}, which takes the kubelet a minute or two. "
        "Training itself does not depend on reports."
    )
    return Said(status=ConditionStatus.UNKNOWN, reason=ConditionReason.REPORTS_MISSING, message=message), left


def _until_noticed(at: Situation, reported: str | None) -> float | None:
    """Seconds until a silence after a change of the certificate is worth a word; most trainers end it before."""
    if reported is None or at.reachability.certificate_since is None:
        return None
    left = at.settings.silence_seconds / 3 - seconds_since(reported, at.now)
    return left if left > 0 else None


def last_report_time(at: Situation, view: PodView) -> str | None:
    """When the newest report of this Pod arrived; from the status if the operator was restarted since."""
    if at.report is not None and at.report.progress.attempt == view.attempt:
        return rfc3339(at.report.received)
    status: SFTJobStatus = at.job.status
    reported = status.progress.last_report_time if status.progress is not None else None
    before_this_pod = reported is None or (
        view.started is not None and seconds_since(reported, at.now) > seconds_since(view.started, at.now)
    )
    return None if before_this_pod else reported


def _missing(at: Situation, view: PodView, since: str) -> str:
    if (node := silent_node(view)) is not None:
        return (
            f"No report since {since}. {node} Training may continue on it: reports arrive again when the node is "
            "ready, and a new attempt starts if the Pod is removed with its node."
        )
    url = at.settings.render.progress_url or "(no URL)"
    changed = at.reachability.certificate_since
    if changed is not None and parse_time(since) < changed:
        return (
            f"No report since {since}, and the certificate of the progress endpoint changed at {rfc3339(changed)}: the "
            f"trainer does not read the new {CA_KEY} of ConfigMap {config_map_name(at.job)}. Training itself does not "
            f"depend on reports; the next attempt has it. Log: kubectl logs -n {at.job.metadata.namespace} {view.name}"
        )
    return (
        f"No report since {since}. Training itself does not depend on reports. Check that Pod {view.name} can reach "
        f"{url} (NetworkPolicy, DNS), and its log: kubectl logs -n {at.job.metadata.namespace} {view.name}"
    )
