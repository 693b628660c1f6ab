"""Findings that several checks share, and their parts."""

import re
from collections.abc import Iterable
from datetime import timedelta

from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_operator.api import AttemptStatus, ConditionReason, ConditionStatus, Phase
from sftjob_operator.reconcile.attempts.failure_reasons import STOPPED
from sftjob_operator.reconcile.attempts.ledger import failures, is_interruption, succeeded
from sftjob_operator.reconcile.checks.retries import backoff_seconds, exhausted, may_retry
from sftjob_operator.reconcile.messages.advice import advice
from sftjob_operator.reconcile.messages.sentences import (
    closed,
    log_hint,
    pod_runs,
    pod_waits,
    pods_stop,
    prepared_sentence,
)
from sftjob_operator.reconcile.observe.attempt_pods import pod_names
from sftjob_operator.reconcile.observe.observed import Create, Delete, PodPhase, PodView
from sftjob_operator.reconcile.observe.times import parse_time, rfc3339
from sftjob_operator.reconcile.snapshot import CheckResult, ConditionState, Snapshot
from sftjob_operator.render import config_map, config_map_name


def stage_failed(snapshot: Snapshot, stage: Stage) -> CheckResult | None:
    """The last attempt of a stage cannot or may not be retried."""
    last = snapshot.last(stage)
    if last is None or last.end_time is None or succeeded(last) or may_retry(snapshot, last):
        return None
    text = f"{closed(last.message)} {advice(snapshot, last)}"
    budget = exhausted(snapshot, last)
    if budget == ConditionReason.INTERRUPTIONS_EXHAUSTED:
        field = "failurePolicy.maxInterruptions"
        times = f"The run was interrupted {snapshot.interruptions} times"
        text = f"{times} ({field}), the last time with {last.reason}: {text}"
    elif budget is not None:
        count = failures(snapshot.attempts, stage)
        text = f"All {count} attempts of stage {stage} failed, the last one with {last.reason}: {text}"
    return failed(
        snapshot, budget or last.reason or Reason.INTERNAL_ERROR, f"{text} {log_hint(snapshot.job, last.pod)}"
    )


def failed(snapshot: Snapshot, reason: str, message: str) -> CheckResult:
    """The job has failed; its live Pods are deleted."""
    ended = ConditionState(
        status=ConditionStatus.FALSE, reason=ConditionReason.FAILED, message="The job failed; see condition Succeeded."
    )
    state = ConditionState(status=ConditionStatus.FALSE, reason=reason, message=message)
    return CheckResult(
        phase=Phase.FAILED,
        prepared=prepared(snapshot) if snapshot.prepared else state,
        running=ended,
        succeeded=state,
        actions=deletions(snapshot.live_pods),
    )


def stopping(snapshot: Snapshot, why: str) -> CheckResult:
    """Live Pods have to end: delete them, and report nothing else until they have ended."""
    running = any(pod.phase == PodPhase.RUNNING for pod in snapshot.live_pods)
    state = ConditionState(
        status=ConditionStatus.TRUE if running else ConditionStatus.FALSE,
        reason=ConditionReason.STOPPING,
        message=f"{why} {pods_stop(snapshot.live_pods)}",
    )
    return CheckResult(
        phase=snapshot.job.status.phase or Phase.PENDING,
        prepared=prepared(snapshot) if snapshot.prepared else not_yet_prepared(state),
        running=state if snapshot.prepared else not_yet_training(),
        actions=deletions(snapshot.live_pods),
    )


def ending_sentence(snapshot: Snapshot, stage: Stage, number: int) -> str:
    """Return a sentence that an attempt is ending, with the reason if it is known."""
    entry = next(
        (a for a in snapshot.attempts if (a.stage, a.number) == (stage, number) and a.reason is not None), None
    )
    if entry is None or entry.reason in STOPPED:
        return f"Attempt {number} is ending."
    return f"Attempt {number} is ending with {entry.reason}: {closed(entry.message)}"


def deletions(pods: Iterable[PodView]) -> tuple[Delete, ...]:
    """Delete those of `pods` that are not being deleted yet."""
    return tuple(Delete(kind="Pod", name=pod.name, uid=pod.uid) for pod in pods if not pod.deleting)


def missing_config(snapshot: Snapshot, pods: Iterable[PodView]) -> tuple[Create, ...]:
    """Create the run config again if Pods cannot start because it was deleted."""
    name = config_map_name(snapshot.job)
    wanted = re.compile(f'configmaps? "{re.escape(name)}" not found', re.IGNORECASE)
    pending = [pod for pod in pods if pod.phase == PodPhase.PENDING and not pod.deleting]
    text = [snapshot.start_problems[pod.uid].message for pod in pending if pod.uid in snapshot.start_problems]
    text += [pod.message for pod in pending if pod.message is not None]
    return (Create(body=config_map(snapshot.job, snapshot.settings.render)),) if any(map(wanted.search, text)) else ()


def wait_seconds(snapshot: Snapshot, last: AttemptStatus) -> float:
    """Return seconds until the attempt after `last` may start; 0 if it may, or if `last` succeeded."""
    if last.end_time is None or succeeded(last):
        return 0
    due = min(parse_time(last.end_time), snapshot.now) + timedelta(seconds=backoff_seconds(snapshot, last))
    return max(0.0, (due - snapshot.now).total_seconds())


def backoff_condition(snapshot: Snapshot, last: AttemptStatus, wait: float) -> ConditionState:
    """Return the condition of a job whose next attempt waits for its backoff."""
    due = rfc3339(snapshot.now + timedelta(seconds=wait))
    free = " This does not count as a failure." if is_interruption(last, snapshot.attempts) else ""
    resumable = last.stage == Stage.TRAIN and snapshot.job.spec.command is None
    resumes = " and resumes from the newest complete checkpoint" if resumable else ""
    message = (
        f"Attempt {last.number} ended with {last.reason}: {closed(last.message)}{free} "
        f"Attempt {last.number + 1} starts at {due}{resumes}. {log_hint(snapshot.job, last.pod)}"
    )
    return ConditionState(status=ConditionStatus.FALSE, reason=ConditionReason.BACKING_OFF, message=message)


def prepared(snapshot: Snapshot) -> ConditionState:
    """Condition Prepared of a job whose model and data are on the volume, or that the operator does not prepare."""
    return ConditionState(
        status=ConditionStatus.TRUE, reason=ConditionReason.PREPARED, message=prepared_sentence(snapshot)
    )


def not_yet_prepared(state: ConditionState) -> ConditionState:
    """Condition Prepared of a job that is not prepared: Unknown, since no reason for that is an error."""
    return ConditionState(status=ConditionStatus.UNKNOWN, reason=state.reason, message=state.message)


def not_yet_training() -> ConditionState:
    """Condition Running of a job that is not prepared."""
    message = "Training starts once model and data are prepared."
    return ConditionState(status=ConditionStatus.UNKNOWN, reason=ConditionReason.WAITING, message=message)


def next_number(last: AttemptStatus | None) -> int:
    """Return the number of the attempt after `last`."""
    return 1 if last is None else last.number + 1


def new_attempt(snapshot: Snapshot, stage: Stage, number: int) -> AttemptStatus:
    """Return the ledger entry of an attempt whose Pods are being created."""
    return AttemptStatus(stage=stage, number=number, pod=pod_names(snapshot.job, stage, number)[0])


def stage_backs_off(snapshot: Snapshot, stage: Stage) -> CheckResult | None:
    """The last attempt of `stage` ended, and its backoff is not over."""
    last = snapshot.last(stage)
    if last is None or (wait := wait_seconds(snapshot, last)) <= 0:
        return None
    state = backoff_condition(snapshot, last, wait)
    states = (state, not_yet_training()) if stage is Stage.PREPARE else (prepared(snapshot), state)
    return CheckResult(phase=Phase.RESTARTING, prepared=states[0], running=states[1], recheck_seconds=wait)


def pod_state(snapshot: Snapshot, view: PodView, doing: ConditionReason) -> tuple[bool, str, str]:
    """Return whether the only Pod of a stage runs, and reason (`doing` if it runs) and message of the condition."""
    if view.phase in (PodPhase.RUNNING, PodPhase.UNKNOWN):
        return True, doing, pod_runs(snapshot, view)
    return False, *pod_waits(snapshot, view, doing)
