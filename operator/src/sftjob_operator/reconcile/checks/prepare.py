"""Checks of the Prepare stage: one Pod at a time, until one succeeds."""

from sftjob_contract.names import Stage
from sftjob_operator.api import ConditionReason, ConditionStatus, Phase
from sftjob_operator.reconcile.checks.results import (
    ending_sentence,
    missing_config,
    new_attempt,
    next_number,
    not_yet_training,
    pod_state,
    stage_backs_off,
    stage_failed,
    stopping,
)
from sftjob_operator.reconcile.observe.observed import Create
from sftjob_operator.reconcile.snapshot import CheckResult, ConditionState, Snapshot
from sftjob_operator.render import config_map, pod, volume_claim


def prepare_live(snapshot: Snapshot) -> CheckResult | None:
    """A prepare Pod exists and has not ended."""
    if (group := snapshot.live(Stage.PREPARE)) is None:
        return None
    (view,) = group.live
    if view.deleting:
        return stopping(snapshot, ending_sentence(snapshot, view.stage, view.attempt))
    running, reason, message = pod_state(snapshot, view, ConditionReason.PREPARING)
    first = Phase.PENDING if view.attempt == 1 else Phase.RESTARTING
    return CheckResult(
        phase=Phase.PREPARING if running else first,
        prepared=ConditionState(status=ConditionStatus.UNKNOWN, reason=reason, message=message),
        running=not_yet_training(),
        actions=missing_config(snapshot, group.live),
    )


def prepare_failed(snapshot: Snapshot) -> CheckResult | None:
    """The last prepare attempt cannot or may not be retried."""
    return stage_failed(snapshot, Stage.PREPARE)


def prepare_waits(snapshot: Snapshot) -> CheckResult | None:
    """The last prepare attempt ended, and its backoff is not over."""
    return stage_backs_off(snapshot, Stage.PREPARE)


def prepare_starts(snapshot: Snapshot) -> CheckResult | None:
    """Nothing is prepared and no prepare Pod is live: create the next one, and the objects that it mounts."""
    number = next_number(snapshot.last(Stage.PREPARE))
    attempt = new_attempt(snapshot, Stage.PREPARE, number)
    message = f"Pod {attempt.pod} was created; its container has not started."
    claim = volume_claim(snapshot.job)
    settings = snapshot.settings.render
    actions = (
        *(() if claim is None else (Create(body=claim),)),
        Create(body=config_map(snapshot.job, settings), expected=number > 1),
        Create(body=pod(snapshot.job, Stage.PREPARE, number, settings)),
    )
    return CheckResult(
        phase=Phase.PENDING if number == 1 else Phase.RESTARTING,
        prepared=ConditionState(status=ConditionStatus.UNKNOWN, reason=ConditionReason.PREPARING, message=message),
        running=not_yet_training(),
        actions=actions,
        started=attempt,
    )
