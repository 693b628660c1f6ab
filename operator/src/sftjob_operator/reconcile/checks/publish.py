"""Checks on the Publish stage: one Pod at a time, without GPUs, once no Train Pod is left."""

from sftjob_contract.names import Stage
from sftjob_operator.api import ConditionReason, ConditionStatus, Phase, replace
from sftjob_operator.reconcile.checks.findings import (
    ends,
    given_up,
    missing_config,
    new_attempt,
    next_number,
    pod_stands,
    prepared,
    stopping,
    waits_again,
)
from sftjob_operator.reconcile.observed import Create
from sftjob_operator.reconcile.sentences import TRAINED
from sftjob_operator.reconcile.situation import Finding, Said, Situation
from sftjob_operator.render import config_map, pod


def publish_live(at: Situation) -> Finding | None:
    """A publish Pod exists and has not ended."""
    if (group := at.live(Stage.PUBLISH)) is None:
        return None
    (view,) = group.live
    if view.deleting:
        return stopping(at, ends(at, view.stage, view.attempt))
    running, reason, message = pod_stands(at, view, ConditionReason.PUBLISHING)
    return Finding(
        phase=Phase.PUBLISHING if running else _before_running(view.attempt),
        prepared=prepared(at),
        running=Said(status=ConditionStatus.FALSE, reason=reason, message=f"{TRAINED} {message}"),
        actions=missing_config(at, group.live),
    )


def publish_failed(at: Situation) -> Finding | None:
    """The last publish attempt cannot be followed by another, or must not be."""
    return given_up(at, Stage.PUBLISH)


def publish_waits(at: Situation) -> Finding | None:
    """The last publish attempt ended, and the wait before the next one is not over."""
    return waits_again(at, Stage.PUBLISH)


def publish_starts(at: Situation) -> Finding | None:
    """Training is complete, its output is not published, and no Pod is live: create the next publish Pod.

    It may mount a claim that only one node can have at a time, so the Train Pods have ended before.
    """
    if not at.unpublished:
        return None
    number = next_number(at.last(Stage.PUBLISH))
    attempt = new_attempt(at, Stage.PUBLISH, number)
    settings, job = at.settings.render, replace(at.job, status=replace(at.job.status, plan=at.plan))
    message = f"{TRAINED} Pod {attempt.pod} was created; its container has not started."
    return Finding(
        phase=_before_running(number),
        prepared=prepared(at),
        running=Said(status=ConditionStatus.FALSE, reason=ConditionReason.PUBLISHING, message=message),
        actions=(
            Create(body=config_map(job, settings), expected=True),
            Create(body=pod(job, Stage.PUBLISH, number, settings)),
        ),
        started=attempt,
    )


def _before_running(number: int) -> Phase:
    return Phase.PUBLISHING if number == 1 else Phase.RESTARTING
