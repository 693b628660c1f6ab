"""One job at one moment, as the checks see it, and what a check answers."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Final

from sftjob_contract.names import Stage
from sftjob_contract.stats import PreparedStats
from sftjob_operator.api import (
    AdjustmentStatus,
    AttemptStatus,
    ConditionReason,
    ConditionStatus,
    ConditionType,
    Phase,
    PlanStatus,
    SFTJob,
)
from sftjob_operator.reconcile.adjustments import update_adjustments
from sftjob_operator.reconcile.attempts import interruptions, last_attempt, succeeded, update_attempts
from sftjob_operator.reconcile.clocks import corrected
from sftjob_operator.reconcile.endings import ending, heartbeat, signs
from sftjob_operator.reconcile.groups import Group, groups
from sftjob_operator.reconcile.lifetime import stop_reason
from sftjob_operator.reconcile.observed import (
    Action,
    Observed,
    PodView,
    Reachability,
    Refusal,
    Report,
    Settings,
    Trouble,
)
from sftjob_operator.reconcile.planning import plan_of, prepared_stats
from sftjob_operator.reconcile.times import seconds_since

SETTLE_SECONDS: Final = 8


@dataclass(frozen=True, kw_only=True, slots=True)
class Situation:
    """The job, its own Pods, and the ledger of attempts brought up to date, which may be longer than a status holds.

    `heartbeat` is the report whose silence counts. `stats` are what Prepare counted, as long as its Pod is there;
    `plan` is what followed from them.
    """

    job: SFTJob
    settings: Settings
    now: datetime
    groups: tuple[Group, ...]
    stats: PreparedStats | None
    plan: PlanStatus | None
    attempts: tuple[AttemptStatus, ...]
    adjustments: tuple[AdjustmentStatus, ...]
    interruptions: int
    report: Report | None
    refusal: Refusal | None
    obstacles: Mapping[str, Trouble]
    reachability: Reachability
    heartbeat: Report | None

    @property
    def pods(self) -> tuple[PodView, ...]:
        """All Pods, those of Prepare first, then by attempt."""
        return tuple(pod for group in self.groups for pod in group.members)

    @property
    def live_pods(self) -> tuple[PodView, ...]:
        """Pods that run or may run yet."""
        return tuple(pod for pod in self.pods if pod.live)

    def live(self, stage: Stage) -> Group | None:
        """The Pods of a stage's attempt that runs or may run yet; of the oldest if there are several."""
        return next((group for group in self.groups if group.stage == stage and group.live), None)

    def last(self, stage: Stage) -> AttemptStatus | None:
        """The newest attempt of a stage."""
        return last_attempt(self.attempts, stage)

    def pod_of(self, attempt: AttemptStatus) -> PodView | None:
        """The Pod of an attempt (with several nodes, the one with rank 0), if it still exists."""
        found = (group.head for group in self.groups if (group.stage, group.attempt) == (attempt.stage, attempt.number))
        return next(found, None)

    def settling_seconds(self, pod: PodView) -> float:
        """For how long what the scheduler says about a new Pod may still be transient; 0 if it counts.

        The first answer about a Pod whose claim was just created is that the claim is not bound.
        """
        if pod.unschedulable is None or pod.created is None:
            return 0.0
        age = seconds_since(pod.created, self.now)
        return SETTLE_SECONDS - age if 0 <= age < SETTLE_SECONDS else 0.0

    @property
    def unpublished(self) -> bool:
        """Training is complete, and its output is to be made by stage publish.

        An attempt that an earlier operator started has published by itself: its last word leaves nothing to do. Where a
        last word is lost, publishing again changes nothing, since what is there already is not sent again. A Publish
        Pod was created for a train attempt that ended well.
        """
        if self.last(Stage.PUBLISH) is not None:
            return True
        last = self.last(Stage.TRAIN)
        has_stage = self.plan is not None and bool(self.plan.publish_stage)
        return has_stage and last is not None and succeeded(last) and last.unpublished is not False

    @property
    def completed(self) -> AttemptStatus | None:
        """The attempt by which the job is done: one of its last stage that ended well."""
        last = self.last(Stage.PUBLISH if self.unpublished else Stage.TRAIN)
        return last if succeeded(last) else None

    @property
    def prepared(self) -> bool:
        """Model and data are on the volume; told by the Pod, by the status, or by a train attempt, which needs them.

        An image of the user's own sees to them itself.
        """
        if self.job.spec.command is not None:
            return True
        told = any(
            condition.type == ConditionType.PREPARED and condition.status == ConditionStatus.TRUE
            for condition in self.job.status.conditions
        )
        later = self.last(Stage.TRAIN) or self.last(Stage.PUBLISH)
        return told or succeeded(self.last(Stage.PREPARE)) or later is not None


def situation(observed: Observed, settings: Settings, now: datetime) -> Situation:
    """Sort out what is this job's: Pods of an earlier job of the same name are left out."""
    job = observed.job
    created = job.metadata.creation_timestamp
    own = (corrected(pod, created, now) for pod in observed.pods if pod.owner_uid == job.metadata.uid)
    found = groups(job, own)
    recorded = job.status.attempts
    has_ca = observed.published_ca == settings.render.progress_ca
    beats = heartbeat(job, observed.report, observed.reachability) if has_ca else None
    endings = {
        key: why
        for key, group in found.items()
        if (why := ending(group, signs(group, recorded, beats, settings.silence_seconds), now)) is not None
    }
    attempts = update_attempts(recorded, found, observed.report, endings, stop_reason(job, now), now)
    stats = prepared_stats(pod for group in found.values() for pod in group.members)
    plan = plan_of(job, stats)
    return Situation(
        job=job,
        settings=settings,
        now=now,
        groups=tuple(found.values()),
        stats=stats,
        plan=plan,
        attempts=attempts,
        adjustments=update_adjustments(job, plan, attempts),
        interruptions=(job.status.interruptions or 0) + interruptions(attempts) - interruptions(recorded),
        report=observed.report,
        refusal=observed.refusal,
        obstacles=observed.obstacles,
        reachability=observed.reachability,
        heartbeat=beats,
    )


@dataclass(frozen=True, kw_only=True, slots=True)
class Said:
    """A condition but for its type, generation and time."""

    status: ConditionStatus
    reason: str
    message: str


NOT_ENDED = Said(
    status=ConditionStatus.UNKNOWN,
    reason=ConditionReason.WAITING,
    message="The job has not ended.",
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Finding:
    """What a check found, and what follows: at most one of them holds for a job.

    `started` is the attempt that `actions` begin. Conditions that are None stay as they are.
    """

    phase: Phase
    prepared: Said | None = None
    running: Said | None = None
    succeeded: Said = NOT_ENDED
    actions: tuple[Action, ...] = ()
    started: AttemptStatus | None = None
    recheck_seconds: float | None = None
