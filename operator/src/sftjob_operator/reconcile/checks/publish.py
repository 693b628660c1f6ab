"""Checks of the Publish stage: one Pod at a time, without GPUs, after all Train Pods have ended."""

from sftjob_contract.names import Stage
from sftjob_operator.api import ConditionReason, ConditionStatus, Phase, replace
from sftjob_operator.reconcile.checks.results import (
    ending_sentence,
    missing_config,
    new_attempt,
    next_number,
    pod_state,
    prepared,
    stage_backs_off,
    stage_failed,
    stopping,
)
from sftjob_operator.reconcile.messages.sentences import TRAINED
from sftjob_operator.reconcile.observe.observed import Create
from sftjob_operator.reconcile.snapshot import CheckResult, ConditionState, Snapshot
from sftjob_operator.render import config_map, pod


def publish_live(snapshot: Snapshot) -> CheckResult | None:
    """A publish Pod exists and has not ended."""
    if (group := snapshot.live(Stage.PUBLISH)) is None:
        return None
    (view,) = group.live
    if view.deleting:
        return stopping(snapshot, ending_sentence(snapshot, view.stage, view.attempt))
    running, reason, message = pod_state(snapshot, view, ConditionReason.PUBLISHING)
    return CheckResult(
        phase=Phase.PUBLISHING if running else _before_running(view.attempt),
        prepared=prepared(snapshot),
        running=ConditionState(status=ConditionStatus.FALSE, reason=reason, message=f"{TRAINED} {message}"),
        actions=missing_config(snapshot, group.live),
    )


def publish_failed(snapshot: Snapshot) -> CheckResult | None:
    """The last publish attempt cannot or may not be retried."""
    return stage_failed(snapshot, Stage.PUBLISH)


def publish_waits(snapshot: Snapshot) -> CheckResult | None:
    """The last publish attempt ended, and its backoff is not over."""
    return stage_backs_off(snapshot, Stage.PUBLISH)


def publish_starts(snapshot: Snapshot) -> CheckResult | None:
    """Training is complete, its output is not published, and no Pod is live: create the next publish Pod.

    It may mount a claim that only one node can attach at a time, so all Train Pods have to end first.
    """
    if not snapshot.unpublished:
        return None
    number = next_number(snapshot.last(Stage.PUBLISH))
    attempt = new_attempt(snapshot, Stage.PUBLISH, number)
    settings, job = (
        snapshot.settings.render,
        replace(snapshot.job, status=replace(snapshot.job.status, plan=snapshot.plan)),
    )
    message = f"{TRAINED} Pod {attempt.pod} was created; its container has not started."
    return CheckResult(
        phase=_before_running(number),
        prepared=prepared(snapshot),
        running=ConditionState(status=ConditionStatus.FALSE, reason=ConditionReason.PUBLISHING, message=message),
        actions=(
            Create(body=config_map(job, settings), expected=True),
            Create(body=pod(job, Stage.PUBLISH, number, settings)),
        ),
        started=attempt,
    )


def _before_running(number: int) -> Phase:
    return Phase.PUBLISHING if number == 1 else Phase.RESTARTING
