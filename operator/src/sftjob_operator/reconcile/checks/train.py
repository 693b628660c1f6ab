"""Checks on the Train stage: the Pods of one attempt at a time, until one attempt ends well."""

from collections.abc import Mapping
from typing import Any

from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_operator.api import ConditionReason, ConditionStatus, Phase, replace
from sftjob_operator.reconcile.checks.findings import (
    deletions,
    ends,
    failed,
    given_up,
    missing_config,
    new_attempt,
    next_number,
    prepared,
    stopping,
    waits_again,
)
from sftjob_operator.reconcile.groups import Group
from sftjob_operator.reconcile.observed import Create, PodPhase, PodView
from sftjob_operator.reconcile.planning import misfit
from sftjob_operator.reconcile.sentences import completed, pod_is_gated, pod_runs, pod_waits
from sftjob_operator.reconcile.situation import Finding, Said, Situation
from sftjob_operator.reconcile.training import with_training
from sftjob_operator.render import config_map, pods, service, volume_claim


def trained(at: Situation) -> Finding | None:
    """The last stage ended well: so has the job."""
    if (last := at.completed) is None:
        return None
    return Finding(
        phase=Phase.SUCCEEDED,
        prepared=prepared(at),
        running=Said(status=ConditionStatus.FALSE, reason=ConditionReason.COMPLETED, message="Training has ended."),
        succeeded=Said(status=ConditionStatus.TRUE, reason=ConditionReason.COMPLETED, message=completed(at, last)),
    )


def train_breaks(at: Situation) -> Finding | None:
    """One Pod of several failed, or is gone after all had started: the others can not go on without it."""
    group = at.live(Stage.TRAIN)
    if group is None or (loss := _loss(at, group)) is None:
        return None
    message = f"{loss} The other Pods of attempt {group.attempt} are asked to end, since none can train alone."
    return Finding(
        phase=Phase.RESTARTING,
        prepared=prepared(at),
        running=Said(status=ConditionStatus.FALSE, reason=ConditionReason.STOPPING, message=message),
        actions=deletions(group.live),
    )


def train_grows(at: Situation) -> Finding | None:
    """Not all Pods of an attempt were created yet: create the others, unless it ends."""
    group = at.live(Stage.TRAIN)
    if group is None or not group.missing or any(pod.deleting for pod in group.members):
        return None
    return _creates(at, group.attempt, group.missing)


def train_live(at: Situation) -> Finding | None:
    """Train Pods exist and have not ended."""
    group = at.live(Stage.TRAIN)
    if group is None:
        return None
    if all(pod.deleting for pod in group.live):
        return stopping(at, ends(at, group.stage, group.attempt))
    waiting = [pod for pod in group.live if pod.phase == PodPhase.PENDING]
    if waiting:
        return _train_pends(at, group, min(waiting, key=lambda pod: (not pod.gated, not pod.unschedulable, pod.rank)))
    lost = [pod for pod in group.live if pod.phase == PodPhase.UNKNOWN]
    message = pod_runs(at, (*lost, *group.live)[0])
    running = Said(status=ConditionStatus.TRUE, reason=ConditionReason.TRAINING, message=message)
    return Finding(phase=Phase.RUNNING, prepared=prepared(at), running=running)


def train_failed(at: Situation) -> Finding | None:
    """The last train attempt cannot be followed by another, or must not be."""
    return given_up(at, Stage.TRAIN)


def train_waits(at: Situation) -> Finding | None:
    """The last train attempt ended, and the wait before the next one is not over."""
    return waits_again(at, Stage.TRAIN)


def does_not_fit(at: Situation) -> Finding | None:
    """What Prepare counted says that the GPUs or the volume are too small: none is held to find out."""
    if not at.prepared or at.last(Stage.TRAIN) is not None or (why := misfit(at.plan)) is None:
        return None
    return failed(at, Reason.CONFIG_INVALID, why)


def train_starts(at: Situation) -> Finding | None:
    """Everything is prepared and no train Pod is live: create those of the next attempt."""
    return _creates(at, next_number(at.last(Stage.TRAIN))) if at.prepared else None


def _loss(at: Situation, group: Group) -> str | None:
    """Which Pod of a live attempt will never run again, in a sentence; None if none is lost."""
    if group.failed is not None:
        return f"Pod {group.failed.name} ended without success."
    ran = any(a.start_time is not None for a in at.attempts if (a.stage, a.number) == (group.stage, group.attempt))
    if group.missing and (ran or any(not pod.live for pod in group.members)):
        return f"Pod {group.missing[0]} is gone."
    return None


def _train_pends(at: Situation, group: Group, pod: PodView) -> Finding:
    queued = (str(ConditionReason.QUEUED), pod_is_gated(at.job, pod))
    reason, message = queued if pod.gated else pod_waits(at, pod, ConditionReason.POD_PENDING)
    placed = not pod.gated and (pod.unschedulable is None or at.settling_seconds(pod) > 0)
    return Finding(
        phase=Phase.QUEUED if not placed else _before_running(at, group.attempt),
        prepared=prepared(at),
        running=Said(status=ConditionStatus.FALSE, reason=reason, message=message),
        actions=missing_config(at, group.live),
    )


def _creates(at: Situation, number: int, names: tuple[str, ...] = ()) -> Finding:
    """Create the Pods of an attempt, or only those of `names`, and what they find each other by.

    How long they may take to stop, and their micro-batch, follow from what is known of the run by now.
    """
    known = replace(with_training(at), plan=at.plan, adjustments=at.adjustments, attempts=at.attempts)
    bodies = pods(replace(at.job, status=known), Stage.TRAIN, number, at.settings.render)
    wanted = [body for body in bodies if not names or body["metadata"]["name"] in names]
    children = [*_mounted(at, number, grows=bool(names)), *_creations(service(at.job)), *_creations(*wanted)]
    attempt = new_attempt(at, Stage.TRAIN, number)
    message = f"Pod {attempt.pod} was created; its container has not started."
    return Finding(
        phase=_before_running(at, number),
        prepared=prepared(at),
        running=Said(status=ConditionStatus.FALSE, reason=ConditionReason.POD_PENDING, message=message),
        actions=tuple(children),
        started=None if names else attempt,
    )


def _mounted(at: Situation, number: int, *, grows: bool) -> tuple[Create, ...]:
    """What the Pods of an attempt mount: the ConfigMap, so that image and run config always come from one operator.

    Pods that exist already have read theirs, so that an attempt that grows keeps it. The claim is Prepare's; for an
    image of the user's own, which has no Prepare, it is created here.
    """
    config = config_map(at.job, at.settings.render)
    if at.job.spec.command is not None:
        return *_creations(volume_claim(at.job)), Create(body=config, expected=number > 1)
    return () if grows else (Create(body=config, expected=True),)


def _creations(*bodies: Mapping[str, Any] | None) -> tuple[Create, ...]:
    return tuple(Create(body=body) for body in bodies if body is not None)


def _before_running(at: Situation, attempt: int) -> Phase:
    if attempt > 1:
        return Phase.RESTARTING
    return Phase.PREPARING if at.job.spec.command is None else Phase.PENDING
