"""What several checks find, and what they find it from."""

import re
from collections.abc import Iterable
from datetime import timedelta

from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_operator.api import AttemptStatus, ConditionReason, ConditionStatus, Phase
from sftjob_operator.reconcile.advice import advice
from sftjob_operator.reconcile.attempts import failures, is_interruption, succeeded
from sftjob_operator.reconcile.groups import pod_names
from sftjob_operator.reconcile.observed import Create, Delete, PodPhase, PodView
from sftjob_operator.reconcile.policy import STOPPED
from sftjob_operator.reconcile.retries import backoff_seconds, exhausted, may_retry
from sftjob_operator.reconcile.sentences import closed, log_hint, pod_runs, pod_waits, pods_stop, prepared_sentence
from sftjob_operator.reconcile.situation import Finding, Said, Situation
from sftjob_operator.reconcile.times import parse_time, rfc3339
from sftjob_operator.render import config_map, config_map_name


def given_up(at: Situation, stage: Stage) -> Finding | None:
    """The last attempt of a stage can not or may not be followed by another."""
    last = at.last(stage)
    if last is None or last.end_time is None or succeeded(last) or may_retry(at, last):
        return None
    told = f"{closed(last.message)} {advice(at, last)}"
    spent = exhausted(at, last)
    if spent == ConditionReason.INTERRUPTIONS_EXHAUSTED:
        most = "failurePolicy.maxInterruptions"
        told = f"The run was interrupted {at.interruptions} times ({most}), the last time with {last.reason}: {told}"
    elif spent is not None:
        tried = failures(at.attempts, stage)
        told = f"All {tried} attempts of stage {stage} failed, the last one with {last.reason}: {told}"
    return failed(at, spent or last.reason or Reason.INTERNAL_ERROR, f"{told} {log_hint(at.job, last.pod)}")


def failed(at: Situation, reason: str, message: str) -> Finding:
    """The job has failed; nothing of it stays running."""
    ended = Said(
        status=ConditionStatus.FALSE, reason=ConditionReason.FAILED, message="The job has failed; see Succeeded."
    )
    said = Said(status=ConditionStatus.FALSE, reason=reason, message=message)
    return Finding(
        phase=Phase.FAILED,
        prepared=prepared(at) if at.prepared else said,
        running=ended,
        succeeded=said,
        actions=deletions(at.live_pods),
    )


def stopping(at: Situation, why: str) -> Finding:
    """Pods are live that may not be: ask them to end, and say nothing else before they have."""
    running = any(pod.phase == PodPhase.RUNNING for pod in at.live_pods)
    said = Said(
        status=ConditionStatus.TRUE if running else ConditionStatus.FALSE,
        reason=ConditionReason.STOPPING,
        message=f"{why} {pods_stop(at.live_pods)}",
    )
    return Finding(
        phase=at.job.status.phase or Phase.PENDING,
        prepared=prepared(at) if at.prepared else not_yet_prepared(said),
        running=said if at.prepared else not_yet_training(),
        actions=deletions(at.live_pods),
    )


def ends(at: Situation, stage: Stage, number: int) -> str:
    """That an attempt is ending, and why as far as that is known."""
    entry = next((a for a in at.attempts if (a.stage, a.number) == (stage, number) and a.reason is not None), None)
    if entry is None or entry.reason in STOPPED:
        return f"Attempt {number} ends."
    return f"Attempt {number} ends with {entry.reason}: {closed(entry.message)}"


def deletions(pods: Iterable[PodView]) -> tuple[Delete, ...]:
    """Ask those of `pods` to end that have not been."""
    return tuple(Delete(kind="Pod", name=pod.name, uid=pod.uid) for pod in pods if not pod.deleting)


def missing_config(at: Situation, pods: Iterable[PodView]) -> tuple[Create, ...]:
    """Create the run config again if Pods cannot start since it was deleted."""
    name = config_map_name(at.job)
    wanted = re.compile(f'configmaps? "{re.escape(name)}" not found', re.IGNORECASE)
    pending = [pod for pod in pods if pod.phase == PodPhase.PENDING and not pod.deleting]
    told = [at.obstacles[pod.uid].message for pod in pending if pod.uid in at.obstacles]
    told += [pod.message for pod in pending if pod.message is not None]
    return (Create(body=config_map(at.job, at.settings.render)),) if any(map(wanted.search, told)) else ()


def wait_seconds(at: Situation, last: AttemptStatus) -> float:
    """Seconds until the attempt after `last` may start; 0 if it may, or if `last` went well."""
    if last.end_time is None or succeeded(last):
        return 0
    due = min(parse_time(last.end_time), at.now) + timedelta(seconds=backoff_seconds(at, last))
    return max(0.0, (due - at.now).total_seconds())


def backing_off(at: Situation, last: AttemptStatus, wait: float) -> Said:
    """The next attempt waits."""
    due = rfc3339(at.now + timedelta(seconds=wait))
    free = " This does not count as a failure." if is_interruption(last, at.attempts) else ""
    ours = last.stage == Stage.TRAIN and at.job.spec.command is None
    resumes = " and resumes from the newest complete checkpoint" if ours else ""
    message = (
        f"Attempt {last.number} ended with {last.reason}: {closed(last.message)}{free} "
        f"Attempt {last.number + 1} starts at {due}{resumes}. {log_hint(at.job, last.pod)}"
    )
    return Said(status=ConditionStatus.FALSE, reason=ConditionReason.BACKING_OFF, message=message)


def prepared(at: Situation) -> Said:
    """Condition Prepared of a job whose model and data are on the volume, or are none of the operator's business."""
    return Said(status=ConditionStatus.TRUE, reason=ConditionReason.PREPARED, message=prepared_sentence(at))


def not_yet_prepared(said: Said) -> Said:
    """Condition Prepared before that: nothing is wrong, whatever the reason."""
    return Said(status=ConditionStatus.UNKNOWN, reason=said.reason, message=said.message)


def not_yet_training() -> Said:
    """Condition Running of a job that is not prepared."""
    message = "Training starts once model and data are prepared."
    return Said(status=ConditionStatus.UNKNOWN, reason=ConditionReason.WAITING, message=message)


def next_number(last: AttemptStatus | None) -> int:
    """Number of the attempt after `last`."""
    return 1 if last is None else last.number + 1


def new_attempt(at: Situation, stage: Stage, number: int) -> AttemptStatus:
    """The ledger's entry of an attempt whose Pods are being created."""
    return AttemptStatus(stage=stage, number=number, pod=pod_names(at.job, stage, number)[0])


def waits_again(at: Situation, stage: Stage) -> Finding | None:
    """The last attempt of `stage` ended, and the wait before the next one is not over."""
    last = at.last(stage)
    if last is None or (wait := wait_seconds(at, last)) <= 0:
        return None
    said = backing_off(at, last, wait)
    of_both = (said, not_yet_training()) if stage is Stage.PREPARE else (prepared(at), said)
    return Finding(phase=Phase.RESTARTING, prepared=of_both[0], running=of_both[1], recheck_seconds=wait)


def pod_stands(at: Situation, view: PodView, doing: ConditionReason) -> tuple[bool, str, str]:
    """Whether the only Pod of a stage runs; reason, which is `doing` if it does, and message of a condition."""
    if view.phase in (PodPhase.RUNNING, PodPhase.UNKNOWN):
        return True, doing, pod_runs(at, view)
    return False, *pod_waits(at, view, doing)
