"""The checks, in order: the first that applies says what the job's state is and what to do about it."""

from collections.abc import Callable
from datetime import timedelta
from typing import Final

from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_operator.api import AttemptStatus, ConditionReason, ConditionStatus, ConditionType, Phase
from sftjob_operator.reconcile.attempts import backoff_seconds, failures, is_permanent, may_retry, succeeded
from sftjob_operator.reconcile.observed import Create, PodPhase
from sftjob_operator.reconcile.sentences import closed, completed, log_hint, pod_runs, pod_waits, prepared_sentence
from sftjob_operator.reconcile.situation import Finding, Said, Situation
from sftjob_operator.reconcile.times import parse_time, rfc3339, seconds_since
from sftjob_operator.render import config_map, pod, pod_name, volume_claim

SHORTEST_RECHECK_SECONDS: Final = 5
LONGEST_RECHECK_SECONDS: Final = 300
"""Bounds of the wait before a refused child is asked for again; it grows with the time since the first refusal."""


def refused_for_good(at: Situation) -> Finding | None:
    """The API server calls a child itself wrong: since the spec can not change, the job has failed."""
    refusal = at.refusal
    if refusal is None or not refusal.final:
        return None
    message = f"The API server refuses the {refusal.kind} {refusal.name}: {refusal.message}"
    return _failed(at, Reason.CONFIG_INVALID, message)


def refused(at: Situation) -> Finding | None:
    """A child could not be created: say why, and ask again later."""
    refusal = at.refusal
    if refusal is None:
        return None
    reason = ConditionReason.NAME_CONFLICT if refusal.conflict else ConditionReason.CREATION_REFUSED
    said = Said(status=ConditionStatus.FALSE, reason=reason, message=refusal.message)
    type_ = ConditionType.RUNNING if at.prepared else ConditionType.PREPARED
    since = next(
        (c.last_transition_time for c in at.job.status.conditions if c.type == type_ and c.reason == reason), ""
    )
    waited = seconds_since(since, at.now) if since else 0
    return Finding(
        phase=at.job.status.phase or Phase.PENDING,
        prepared=_prepared(at) if at.prepared else said,
        running=said if at.prepared else _not_yet_training(),
        recheck_seconds=min(LONGEST_RECHECK_SECONDS, max(SHORTEST_RECHECK_SECONDS, waited)),
    )


def trained(at: Situation) -> Finding | None:
    """A train attempt ended well: so has the job."""
    last = at.last(Stage.TRAIN)
    if last is None or not succeeded(last):
        return None
    return Finding(
        phase=Phase.SUCCEEDED,
        prepared=_prepared(at),
        running=Said(status=ConditionStatus.FALSE, reason=ConditionReason.COMPLETED, message="Training has ended."),
        succeeded=Said(status=ConditionStatus.TRUE, reason=ConditionReason.COMPLETED, message=completed(at, last)),
    )


def train_failed(at: Situation) -> Finding | None:
    """The last train attempt can not or may not be followed by another."""
    return _given_up(at, at.last(Stage.TRAIN))


def train_live(at: Situation) -> Finding | None:
    """A train Pod exists and has not ended."""
    if (view := at.live(Stage.TRAIN)) is None:
        return None
    prepared = _prepared(at)
    if view.phase in (PodPhase.RUNNING, PodPhase.UNKNOWN):
        running = Said(status=ConditionStatus.TRUE, reason=ConditionReason.TRAINING, message=pod_runs(at, view))
        return Finding(phase=Phase.RUNNING, prepared=prepared, running=running)
    reason = ConditionReason.UNSCHEDULABLE if view.unschedulable else ConditionReason.POD_PENDING
    waiting = Said(status=ConditionStatus.FALSE, reason=reason, message=pod_waits(view))
    phase = Phase.QUEUED if view.unschedulable else _before_running(view.attempt)
    return Finding(phase=phase, prepared=prepared, running=waiting)


def train_waits(at: Situation) -> Finding | None:
    """The last train attempt ended, and the wait before the next one is not over."""
    last = at.last(Stage.TRAIN)
    if last is None or (wait := _wait_seconds(at, last)) <= 0:
        return None
    return Finding(
        phase=Phase.RESTARTING, prepared=_prepared(at), running=_backing_off(at, last, wait), recheck_seconds=wait
    )


def train_starts(at: Situation) -> Finding | None:
    """Everything is prepared and no train Pod is live: create the next one."""
    if not at.prepared:
        return None
    number = _next_number(at.last(Stage.TRAIN))
    attempt = _new_attempt(at, Stage.TRAIN, number)
    message = f"Pod {attempt.pod} was created; its container has not started."
    return Finding(
        phase=_before_running(number),
        prepared=_prepared(at),
        running=Said(status=ConditionStatus.FALSE, reason=ConditionReason.POD_PENDING, message=message),
        actions=(_create_pod(at, Stage.TRAIN, number),),
        started=attempt,
    )


def prepare_failed(at: Situation) -> Finding | None:
    """The last prepare attempt can not or may not be followed by another."""
    return _given_up(at, at.last(Stage.PREPARE))


def prepare_live(at: Situation) -> Finding | None:
    """A prepare Pod exists and has not ended."""
    if (view := at.live(Stage.PREPARE)) is None:
        return None
    running = view.phase in (PodPhase.RUNNING, PodPhase.UNKNOWN)
    message = pod_runs(at, view) if running else pod_waits(view)
    first = Phase.PENDING if view.attempt == 1 else Phase.RESTARTING
    return Finding(
        phase=Phase.PREPARING if running else first,
        prepared=Said(status=ConditionStatus.UNKNOWN, reason=ConditionReason.PREPARING, message=message),
        running=_not_yet_training(),
    )


def prepare_waits(at: Situation) -> Finding | None:
    """The last prepare attempt ended, and the wait before the next one is not over."""
    last = at.last(Stage.PREPARE)
    if last is None or (wait := _wait_seconds(at, last)) <= 0:
        return None
    return Finding(
        phase=Phase.RESTARTING,
        prepared=_backing_off(at, last, wait),
        running=_not_yet_training(),
        recheck_seconds=wait,
    )


def prepare_starts(at: Situation) -> Finding | None:
    """Nothing is prepared and no prepare Pod is live: create the next one, and what it mounts."""
    number = _next_number(at.last(Stage.PREPARE))
    attempt = _new_attempt(at, Stage.PREPARE, number)
    message = f"Pod {attempt.pod} was created; its container has not started."
    children = (
        Create(body=volume_claim(at.job)),
        Create(body=config_map(at.job, at.settings.render)),
        _create_pod(at, Stage.PREPARE, number),
    )
    return Finding(
        phase=Phase.PENDING if number == 1 else Phase.RESTARTING,
        prepared=Said(status=ConditionStatus.UNKNOWN, reason=ConditionReason.PREPARING, message=message),
        running=_not_yet_training(),
        actions=children,
        started=attempt,
    )


CHECKS: Final[tuple[Callable[[Situation], Finding | None], ...]] = (
    refused_for_good,
    refused,
    trained,
    train_live,
    train_failed,
    train_waits,
    train_starts,
    prepare_live,
    prepare_failed,
    prepare_waits,
    prepare_starts,
)
"""The last one always applies. A live Pod comes before what an earlier one ended with: there is never a second."""


def _given_up(at: Situation, last: AttemptStatus | None) -> Finding | None:
    if last is None or last.end_time is None or succeeded(last) or may_retry(at.attempts, last, at.job):
        return None
    tried = failures(at.attempts, last.stage)
    message = f"{closed(last.message)} {log_hint(at.job, last.pod)}"
    if is_permanent(last) or tried == 1:
        return _failed(at, last.reason or Reason.INTERNAL_ERROR, message)
    told = f"All {tried} attempts of stage {last.stage} failed, the last one with {last.reason}: {message}"
    return _failed(at, ConditionReason.RETRIES_EXHAUSTED, told)


def _failed(at: Situation, reason: str, message: str) -> Finding:
    ended = Said(
        status=ConditionStatus.FALSE, reason=ConditionReason.FAILED, message="The job has failed; see Succeeded."
    )
    said = Said(status=ConditionStatus.FALSE, reason=reason, message=message)
    prepared = _prepared(at) if at.prepared else said
    return Finding(phase=Phase.FAILED, prepared=prepared, running=ended, succeeded=said)


def _wait_seconds(at: Situation, last: AttemptStatus) -> float:
    """Seconds until the attempt after `last` may start; 0 if it may, or if `last` went well."""
    if last.end_time is None or succeeded(last):
        return 0
    due = parse_time(last.end_time) + timedelta(seconds=backoff_seconds(at.attempts, last, at.job))
    return max(0.0, (due - at.now).total_seconds())


def _backing_off(at: Situation, last: AttemptStatus, wait: float) -> Said:
    due = rfc3339(at.now + timedelta(seconds=wait))
    free = " This does not count as a failure." if last.exit_code == ExitCode.RETRY else ""
    resumes = " and resumes from the newest complete checkpoint" if last.stage == Stage.TRAIN else ""
    message = (
        f"Attempt {last.number} ended with {last.reason}: {closed(last.message)}{free} "
        f"Attempt {last.number + 1} starts at {due}{resumes}. {log_hint(at.job, last.pod)}"
    )
    return Said(status=ConditionStatus.FALSE, reason=ConditionReason.BACKING_OFF, message=message)


def _prepared(at: Situation) -> Said:
    return Said(status=ConditionStatus.TRUE, reason=ConditionReason.PREPARED, message=prepared_sentence(at))


def _not_yet_training() -> Said:
    message = "Training starts once model and data are prepared."
    return Said(status=ConditionStatus.UNKNOWN, reason=ConditionReason.WAITING, message=message)


def _before_running(attempt: int) -> Phase:
    return Phase.PREPARING if attempt == 1 else Phase.RESTARTING


def _next_number(last: AttemptStatus | None) -> int:
    return 1 if last is None else last.number + 1


def _new_attempt(at: Situation, stage: Stage, number: int) -> AttemptStatus:
    return AttemptStatus(stage=stage, number=number, pod=pod_name(at.job, stage, number))


def _create_pod(at: Situation, stage: Stage, number: int) -> Create:
    return Create(body=pod(at.job, stage, number, at.settings.render))
