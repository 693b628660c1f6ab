"""One job at one moment, as input of the checks, and the result of a check."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sftjob_contract.names import Stage
from sftjob_contract.reports.stats import PreparedStats
from sftjob_operator.api import (
    AdjustmentStatus,
    AttemptStatus,
    ConditionReason,
    ConditionStatus,
    ConditionType,
    Phase,
    PlanStatus,
    SFTJob,
    SFTJobStatus,
)
from sftjob_operator.reconcile.attempts.adjustments import update_adjustments
from sftjob_operator.reconcile.attempts.deadline import stop_reason
from sftjob_operator.reconcile.attempts.ledger import interruptions, last_attempt, succeeded, update_attempts
from sftjob_operator.reconcile.attempts.timeouts import due_end_reason, heartbeat, timeout_inputs
from sftjob_operator.reconcile.observe.attempt_pods import PodGroup, group_pods, head_of
from sftjob_operator.reconcile.observe.clocks import corrected
from sftjob_operator.reconcile.observe.observed import (
    Action,
    CreateError,
    Observed,
    PodProblem,
    PodView,
    Reachability,
    Report,
    Settings,
)
from sftjob_operator.reconcile.observe.times import seconds_since
from sftjob_operator.reconcile.reports.train_reports import with_training
from sftjob_operator.reconcile.spec.plan_status import plan_of, prepared_stats

SETTLE_SECONDS: Final = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Snapshot:
    """The job, its own Pods, and the updated ledger of attempts, which may be longer than a status holds.

    `heartbeat` is the report after which silence counts. `stats` are Prepare's statistics, as long as its Pod exists;
    `plan` is computed from them. `training` is the job's status with what its train attempts have reported since.
    """

    job: SFTJob
    settings: Settings
    now: datetime
    groups: tuple[PodGroup, ...]
    stats: PreparedStats | None
    plan: PlanStatus | None
    training: SFTJobStatus
    attempts: tuple[AttemptStatus, ...]
    adjustments: tuple[AdjustmentStatus, ...]
    interruptions: int
    report: Report | None
    create_error: CreateError | None
    start_problems: Mapping[str, PodProblem]
    reachability: Reachability
    heartbeat: Report | None

    @property
    def pods(self) -> tuple[PodView, ...]:
        """All Pods, those of Prepare first, then by attempt."""
        return tuple(pod for group in self.groups for pod in group.members)

    @property
    def live_pods(self) -> tuple[PodView, ...]:
        """Pods that run or are still to run."""
        return tuple(pod for pod in self.pods if pod.live)

    def live(self, stage: Stage) -> PodGroup | None:
        """The Pods of a stage's attempt that runs or is still to run; of the oldest if there are several."""
        return next((group for group in self.groups if group.stage == stage and group.live), None)

    def last(self, stage: Stage) -> AttemptStatus | None:
        """The newest attempt of a stage."""
        return last_attempt(self.attempts, stage)

    def pod_of(self, attempt: AttemptStatus) -> PodView | None:
        """The Pod of an attempt (with several nodes, the one with rank 0), if it still exists."""
        return head_of(self.groups, attempt)

    def settling_seconds(self, pod: PodView) -> float:
        """How long the scheduler's message about a new Pod may still be transient; 0 if it counts.

        For a Pod whose claim was just created, the scheduler first reports that the claim is not bound.
        """
        if pod.unschedulable is None or pod.created is None:
            return 0.0
        age = seconds_since(pod.created, self.now)
        return SETTLE_SECONDS - age if 0 <= age < SETTLE_SECONDS else 0.0

    @property
    def unpublished(self) -> bool:
        """Whether training is complete, and stage publish has to create its output.

        An attempt that an earlier operator started has published by itself: its termination message leaves nothing to
        publish. If a termination message is lost, publishing again changes nothing, since existing output is not sent
        again. A Publish Pod exists only for a train attempt that succeeded.
        """
        if self.last(Stage.PUBLISH) is not None:
            return True
        last = self.last(Stage.TRAIN)
        has_stage = self.plan is not None and bool(self.plan.publish_stage)
        return has_stage and last is not None and succeeded(last) and last.unpublished is not False

    @property
    def completed(self) -> AttemptStatus | None:
        """The attempt that completed the job: one of its last stage that succeeded."""
        last = self.last(Stage.PUBLISH if self.unpublished else Stage.TRAIN)
        return last if succeeded(last) else None

    @property
    def prepared(self) -> bool:
        """Whether model and data are on the volume, by the Pod, by the status, or by a train attempt, which needs them.

        A custom image provides them itself.
        """
        if self.job.spec.command is not None:
            return True
        by_status = any(
            condition.type == ConditionType.PREPARED and condition.status == ConditionStatus.TRUE
            for condition in self.job.status.conditions
        )
        later = self.last(Stage.TRAIN) or self.last(Stage.PUBLISH)
        return by_status or succeeded(self.last(Stage.PREPARE)) or later is not None


def take_snapshot(observed: Observed, settings: Settings, now: datetime) -> Snapshot:
    """Select the objects of this job: Pods of an earlier job of the same name are left out."""
    job = observed.job
    created = job.metadata.creation_timestamp
    own = (corrected(pod, created, now) for pod in observed.pods if pod.owner_uid == job.metadata.uid)
    found = group_pods(job, own)
    recorded = job.status.attempts
    has_ca = observed.published_ca == settings.render.progress_ca
    heartbeat_report = heartbeat(job, observed.report, observed.reachability) if has_ca else None
    endings = {
        key: why
        for key, group in found.items()
        if (
            why := due_end_reason(
                group, timeout_inputs(group, recorded, heartbeat_report, settings.silence_seconds), now
            )
        )
        is not None
    }
    attempts = update_attempts(recorded, found, observed.report, endings, stop_reason(job, now), now)
    stats = prepared_stats(pod for group in found.values() for pod in group.members)
    plan = plan_of(job, stats)
    groups = tuple(found.values())
    return Snapshot(
        job=job,
        settings=settings,
        now=now,
        groups=groups,
        stats=stats,
        plan=plan,
        training=with_training(job, attempts, groups, observed.report),
        attempts=attempts,
        adjustments=update_adjustments(job, plan, attempts),
        interruptions=(job.status.interruptions or 0) + interruptions(attempts) - interruptions(recorded),
        report=observed.report,
        create_error=observed.create_error,
        start_problems=observed.start_problems,
        reachability=observed.reachability,
        heartbeat=heartbeat_report,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class ConditionState:
    """A condition without type, generation and time."""

    status: ConditionStatus
    reason: str
    message: str


NOT_ENDED = ConditionState(
    status=ConditionStatus.UNKNOWN,
    reason=ConditionReason.WAITING,
    message="The job has not ended.",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class CheckResult:
    """The result of a check, and what follows: at most one result holds for a job.

    `started` is the attempt that `actions` begin. Conditions that are None do not change.
    """

    phase: Phase
    prepared: ConditionState | None = None
    running: ConditionState | None = None
    succeeded: ConditionState = NOT_ENDED
    actions: tuple[Action, ...] = ()
    started: AttemptStatus | None = None
    recheck_seconds: float | None = None
