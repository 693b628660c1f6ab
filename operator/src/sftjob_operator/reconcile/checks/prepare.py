"""Checks on the Prepare stage: one Pod at a time, until one ends well."""

from sftjob_contract.names import Stage
from sftjob_operator.api import ConditionReason, ConditionStatus, Phase
from sftjob_operator.reconcile.checks.findings import (
    ends,
    given_up,
    missing_config,
    new_attempt,
    next_number,
    not_yet_training,
    pod_stands,
    stopping,
    waits_again,
)
from sftjob_operator.reconcile.observed import Create
from sftjob_operator.reconcile.situation import Finding, Said, Situation
from sftjob_operator.render import config_map, pod, volume_claim


def prepare_live(at: Situation) -> Finding | None:
    """A prepare Pod exists and has not ended."""
    if (group := at.live(Stage.PREPARE)) is None:
        return None
    (view,) = group.live
    if view.deleting:
        return stopping(at, ends(at, view.stage, view.attempt))
    running, reason, message = pod_stands(at, view, ConditionReason.PREPARING)
    first = Phase.PENDING if view.attempt == 1 else Phase.RESTARTING
    return Finding(
        phase=Phase.PREPARING if running else first,
        prepared=Said(status=ConditionStatus.UNKNOWN, reason=reason, message=message),
        running=not_yet_training(),
        actions=missing_config(at, group.live),
    )


def prepare_failed(at: Situation) -> Finding | None:
    """The last prepare attempt cannot be followed by another, or must not be."""
    return given_up(at, Stage.PREPARE)


def prepare_waits(at: Situation) -> Finding | None:
    """The last prepare attempt ended, and the wait before the next one is not over."""
    return waits_again(at, Stage.PREPARE)


def prepare_starts(at: Situation) -> Finding | None:
    """Nothing is prepared and no prepare Pod is live: create the next one, and what it mounts."""
    number = next_number(at.last(Stage.PREPARE))
    attempt = new_attempt(at, Stage.PREPARE, number)
    message = f"Pod {attempt.pod} was created; its container has not started."
    claim = volume_claim(at.job)
    settings = at.settings.render
    actions = (
        *(() if claim is None else (Create(body=claim),)),
        Create(body=config_map(at.job, settings), expected=number > 1),
        Create(body=pod(at.job, Stage.PREPARE, number, settings)),
    )
    return Finding(
        phase=Phase.PENDING if number == 1 else Phase.RESTARTING,
        prepared=Said(status=ConditionStatus.UNKNOWN, reason=ConditionReason.PREPARING, message=message),
        running=not_yet_training(),
        actions=actions,
        started=attempt,
    )
