"""Checks of the Train stage: the Pods of one attempt at a time, until one attempt succeeds."""

from collections.abc import Mapping
from typing import Any

from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_operator.api import ConditionReason, ConditionStatus, Phase, replace
from sftjob_operator.reconcile.checks.results import (
    deletions,
    ending_sentence,
    failed,
    missing_config,
    new_attempt,
    next_number,
    prepared,
    stage_backs_off,
    stage_failed,
    stopping,
)
from sftjob_operator.reconcile.messages.sentences import completed, pod_is_gated, pod_runs, pod_waits
from sftjob_operator.reconcile.observe.attempt_pods import PodGroup
from sftjob_operator.reconcile.observe.observed import Create, PodPhase, PodView
from sftjob_operator.reconcile.snapshot import CheckResult, ConditionState, Snapshot
from sftjob_operator.reconcile.spec.plan_status import misfit
from sftjob_operator.render import config_map, pods, service, volume_claim


def trained(snapshot: Snapshot) -> CheckResult | None:
    """The last stage succeeded, and so has the job."""
    if (last := snapshot.completed) is None:
        return None
    return CheckResult(
        phase=Phase.SUCCEEDED,
        prepared=prepared(snapshot),
        running=ConditionState(
            status=ConditionStatus.FALSE, reason=ConditionReason.COMPLETED, message="Training is complete."
        ),
        succeeded=ConditionState(
            status=ConditionStatus.TRUE, reason=ConditionReason.COMPLETED, message=completed(snapshot, last)
        ),
    )


def train_pod_lost(snapshot: Snapshot) -> CheckResult | None:
    """One of several Pods failed, or is missing after all had started: the others cannot continue without it."""
    group = snapshot.live(Stage.TRAIN)
    if group is None or (loss := _loss(snapshot, group)) is None:
        return None
    message = f"{loss} The other Pods of attempt {group.attempt} are being deleted, since they cannot train without it."
    return CheckResult(
        phase=Phase.RESTARTING,
        prepared=prepared(snapshot),
        running=ConditionState(status=ConditionStatus.FALSE, reason=ConditionReason.STOPPING, message=message),
        actions=deletions(group.live),
    )


def train_pods_missing(snapshot: Snapshot) -> CheckResult | None:
    """Some Pods of an attempt were not created yet: create them, unless the attempt is ending."""
    group = snapshot.live(Stage.TRAIN)
    if group is None or not group.missing or any(pod.deleting for pod in group.members):
        return None
    return _create_pods(snapshot, group.attempt, group.missing)


def train_live(snapshot: Snapshot) -> CheckResult | None:
    """Train Pods exist and have not ended."""
    group = snapshot.live(Stage.TRAIN)
    if group is None:
        return None
    if all(pod.deleting for pod in group.live):
        return stopping(snapshot, ending_sentence(snapshot, group.stage, group.attempt))
    waiting = [pod for pod in group.live if pod.phase == PodPhase.PENDING]
    if waiting:
        return _pending_result(
            snapshot, group, min(waiting, key=lambda pod: (not pod.gated, not pod.unschedulable, pod.rank))
        )
    lost = [pod for pod in group.live if pod.phase == PodPhase.UNKNOWN]
    message = pod_runs(snapshot, (*lost, *group.live)[0])
    running = ConditionState(status=ConditionStatus.TRUE, reason=ConditionReason.TRAINING, message=message)
    return CheckResult(phase=Phase.RUNNING, prepared=prepared(snapshot), running=running)


def train_failed(snapshot: Snapshot) -> CheckResult | None:
    """The last train attempt cannot or may not be retried."""
    return stage_failed(snapshot, Stage.TRAIN)


def train_waits(snapshot: Snapshot) -> CheckResult | None:
    """The last train attempt ended, and its backoff is not over."""
    return stage_backs_off(snapshot, Stage.TRAIN)


def exceeds_gpu_memory(snapshot: Snapshot) -> CheckResult | None:
    """The plan shows that the GPUs or the volume are too small: fail before GPUs are allocated."""
    if not snapshot.prepared or snapshot.last(Stage.TRAIN) is not None or (why := misfit(snapshot.plan)) is None:
        return None
    return failed(snapshot, Reason.CONFIG_INVALID, why)


def train_starts(snapshot: Snapshot) -> CheckResult | None:
    """The job is prepared and no train Pod is live: create the Pods of the next attempt."""
    return _create_pods(snapshot, next_number(snapshot.last(Stage.TRAIN))) if snapshot.prepared else None


def _loss(snapshot: Snapshot, group: PodGroup) -> str | None:
    """Return a sentence that names the lost Pod of a live attempt; None if none is lost."""
    if group.failed is not None:
        return f"Pod {group.failed.name} failed."
    ran = any(
        a.start_time is not None for a in snapshot.attempts if (a.stage, a.number) == (group.stage, group.attempt)
    )
    if group.missing and (ran or any(not pod.live for pod in group.members)):
        return f"Pod {group.missing[0]} no longer exists."
    return None


def _pending_result(snapshot: Snapshot, group: PodGroup, pod: PodView) -> CheckResult:
    queued = (str(ConditionReason.QUEUED), pod_is_gated(snapshot.job, pod))
    reason, message = queued if pod.gated else pod_waits(snapshot, pod, ConditionReason.POD_PENDING)
    placed = not pod.gated and (pod.unschedulable is None or snapshot.settling_seconds(pod) > 0)
    return CheckResult(
        phase=Phase.QUEUED if not placed else _before_running(snapshot, group.attempt),
        prepared=prepared(snapshot),
        running=ConditionState(status=ConditionStatus.FALSE, reason=reason, message=message),
        actions=missing_config(snapshot, group.live),
    )


def _create_pods(snapshot: Snapshot, number: int, names: tuple[str, ...] = ()) -> CheckResult:
    """Create the Pods of an attempt, or only those of `names`, and their rendezvous Service.

    Their grace period and micro-batch depend on what is known of the run so far.
    """
    known = replace(snapshot.training, plan=snapshot.plan, adjustments=snapshot.adjustments, attempts=snapshot.attempts)
    bodies = pods(replace(snapshot.job, status=known), Stage.TRAIN, number, snapshot.settings.render)
    wanted = [body for body in bodies if not names or body["metadata"]["name"] in names]
    children = [
        *_mounted_objects(snapshot, number, grows=bool(names)),
        *_create_actions(service(snapshot.job)),
        *_create_actions(*wanted),
    ]
    attempt = new_attempt(snapshot, Stage.TRAIN, number)
    message = f"Pod {attempt.pod} was created; its container has not started."
    return CheckResult(
        phase=_before_running(snapshot, number),
        prepared=prepared(snapshot),
        running=ConditionState(status=ConditionStatus.FALSE, reason=ConditionReason.POD_PENDING, message=message),
        actions=tuple(children),
        started=None if names else attempt,
    )


def _mounted_objects(snapshot: Snapshot, number: int, *, grows: bool) -> tuple[Create, ...]:
    """Return what the Pods of an attempt mount: the ConfigMap, so that image and run config come from one operator.

    Existing Pods have read the ConfigMap, so an attempt that gets its remaining Pods keeps it. Prepare creates the
    claim; for a custom image, which has no Prepare, it is created here.
    """
    config = config_map(snapshot.job, snapshot.settings.render)
    if snapshot.job.spec.command is not None:
        return *_create_actions(volume_claim(snapshot.job)), Create(body=config, expected=number > 1)
    return () if grows else (Create(body=config, expected=True),)


def _create_actions(*bodies: Mapping[str, Any] | None) -> tuple[Create, ...]:
    return tuple(Create(body=body) for body in bodies if body is not None)


def _before_running(snapshot: Snapshot, attempt: int) -> Phase:
    if attempt > 1:
        return Phase.RESTARTING
    return Phase.PREPARING if snapshot.job.spec.command is None else Phase.PENDING
