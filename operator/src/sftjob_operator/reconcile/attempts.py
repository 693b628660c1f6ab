"""The ledger of attempts: which Pods a job has had, how each ended, and what an end means for the next one."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Final

from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import Stage
from sftjob_contract.progress import Progress
from sftjob_contract.reasons import REASON_BY_EXIT_CODE, Reason
from sftjob_operator.api import ATTEMPTS_LIMIT, AttemptStatus, ConditionReason, SFTJob, replace
from sftjob_operator.reconcile.groups import Group, Key
from sftjob_operator.reconcile.observed import PodView, Report
from sftjob_operator.reconcile.times import rfc3339

LONGEST_BACKOFF_SECONDS: Final = 600
_PERMANENT: Final = frozenset(
    {ExitCode.INVALID, ExitCode.NOT_FOUND, ExitCode.GPU_OUT_OF_MEMORY, ExitCode.DIVERGED},
)
STOPPED: Final = frozenset({ConditionReason.SUSPENDED, Reason.DEADLINE_EXCEEDED})
"""Reasons of attempts that the operator itself ended. They are no failures, and nothing waits after them."""
_STOPPED_BY_SIGNAL: Final = frozenset({None, ExitCode.RETRY, 128 + 9, 128 + 15})
"""Exit codes of a trainer that was asked to end: it was not there yet, saved a checkpoint, or was killed."""
_SIGNAL_BASE: Final = 128
"""A shell's and the kubelet's exit code of a process that signal N ended is 128 + N."""
_OOM_KILLED: Final = "OOMKilled"


def update_attempts(
    recorded: Iterable[AttemptStatus],
    groups: Mapping[Key, Group],
    report: Report | None,
    stop: str | None,
    now: datetime,
) -> tuple[AttemptStatus, ...]:
    """`recorded` brought up to date: new Pods entered, ended ones closed, vanished ones closed as lost.

    `groups` are the job's own. `stop` is why no Pod may run now, one of STOPPED: what ends meanwhile ended for it. A
    closed entry stays as it is unless its Pod turns out to be live after all.
    """
    entries = {(entry.stage, entry.number): entry for entry in recorded}
    for key in sorted(groups.keys() - entries.keys()):
        entries[key] = AttemptStatus(stage=key[0], number=key[1], pod=groups[key].names[0])
    current = (
        _brought_up_to_date(_marked(entry, stop), groups.get(key), report, now) for key, entry in entries.items()
    )
    return _bounded(tuple(current))


def last_attempt(attempts: Iterable[AttemptStatus], stage: Stage) -> AttemptStatus | None:
    """The newest attempt of a stage."""
    return max((entry for entry in attempts if entry.stage == stage), key=lambda entry: entry.number, default=None)


def succeeded(attempt: AttemptStatus | None) -> bool:
    """It ended with exit code 0."""
    return attempt is not None and attempt.end_time is not None and attempt.exit_code == ExitCode.DONE


def failures(attempts: Iterable[AttemptStatus], stage: Stage) -> int:
    """How many attempts of a stage used up the retry budget; an interruption that saved a checkpoint is free."""
    return sum(entry.stage == stage and _failed(entry) and not _is_free(entry) for entry in attempts)


def may_retry(attempts: Iterable[AttemptStatus], last: AttemptStatus, job: SFTJob) -> bool:
    """Whether another attempt may follow `last`, which ended without success."""
    return not is_permanent(last) and failures(attempts, last.stage) <= job.spec.failure_policy.max_retries


def is_permanent(last: AttemptStatus) -> bool:
    """Whether its exit code says that trying again can not help."""
    return last.exit_code in _PERMANENT


def backoff_seconds(attempts: Iterable[AttemptStatus], last: AttemptStatus, job: SFTJob) -> float:
    """Wait between the end of `last` and the next attempt: it doubles with every failure, up to ten minutes."""
    if last.reason in STOPPED:
        return 0.0
    base = job.spec.failure_policy.backoff_seconds
    if last.exit_code == ExitCode.RETRY:
        return base
    doublings = min(failures(attempts, last.stage) - 1, 32)
    longest = max(base, LONGEST_BACKOFF_SECONDS)
    return float(min(base * 2**doublings, longest))


def progress_of(attempt: AttemptStatus, pod: PodView | None, report: Report | None) -> Progress | None:
    """The newest known state of a train attempt: what its Pod said last, else its newest report."""
    if pod is not None and pod.outcome is not None and pod.outcome.progress is not None:
        return pod.outcome.progress
    if report is not None and attempt.stage == Stage.TRAIN and report.progress.attempt == attempt.number:
        return report.progress
    return None


def _marked(entry: AttemptStatus, stop: str | None) -> AttemptStatus:
    """An open entry remembers why it is being ended, even if the job may go on before its Pod is gone."""
    return entry if stop is None or entry.end_time is not None else replace(entry, reason=stop)


def _brought_up_to_date(
    entry: AttemptStatus, group: Group | None, report: Report | None, now: datetime
) -> AttemptStatus:
    closed = entry.end_time is not None
    if group is None:
        return entry if closed else _lost(entry, entry.pod, now)
    if closed and not group.live:
        return entry
    head = group.head
    entry = replace(
        entry, node=head.node if head is not None else entry.node, start_time=group.started or entry.start_time
    )
    entry = _advanced(entry, progress_of(entry, head, report))
    if group.live:
        return replace(entry, end_time=None, exit_code=None, reason=entry.reason if entry.reason in STOPPED else None)
    return _ended(entry, group, now)


def _advanced(entry: AttemptStatus, progress: Progress | None) -> AttemptStatus:
    if progress is None:
        return entry
    skipped = [f"{skip.path} was skipped: {skip.why}" for skip in progress.skipped_checkpoints]
    return replace(
        entry,
        from_step=progress.resumed_from_step,
        reached_step=progress.step,
        message="; ".join(skipped) or entry.message,
    )


def _lost(entry: AttemptStatus, pod: str, now: datetime) -> AttemptStatus:
    if entry.reason in STOPPED:
        message = f"Pod {pod} was deleted and left no last word."
        return replace(entry, end_time=rfc3339(now), message=message)
    message = f"Pod {pod} is gone without having ended: it was deleted, evicted, or its node is gone."
    return replace(entry, end_time=rfc3339(now), reason=Reason.POD_LOST, message=message)


def _ended(entry: AttemptStatus, group: Group, now: datetime) -> AttemptStatus:
    failed, missing = group.failed, group.missing
    if missing and (failed is None or failed.deleting):  # nobody is to blame but those that vanished
        return _lost(entry, missing[0], now)
    end_time = group.finished or rfc3339(now)
    if failed is None:
        return replace(entry, end_time=end_time, exit_code=ExitCode.DONE, reason="Completed")
    reason, message = _verdict(failed)
    if entry.reason in STOPPED and failed.exit_code in _STOPPED_BY_SIGNAL and failed.reason != _OOM_KILLED:
        reason = entry.reason
    return replace(entry, end_time=end_time, exit_code=_byte(failed.exit_code), reason=reason, message=message)


def _verdict(pod: PodView) -> tuple[str, str]:
    """Reason and sentence for a Pod that ended without success: the trainer's own words where it left some."""
    reason, message = _outside_view(pod)
    said = pod.outcome
    if said is None:
        return reason, message
    return said.reason or reason, said.message or message


def _outside_view(pod: PodView) -> tuple[str, str]:
    code = pod.exit_code
    if code is None:
        why = f"{pod.reason or 'no reason given'}: {pod.message or 'no message given'}"
        return Reason.POD_LOST, f"Pod {pod.name} ended before its container did ({why})."
    if pod.reason == _OOM_KILLED:
        return (
            Reason.HOST_OUT_OF_MEMORY,
            "The kernel killed the trainer since it used more memory than its limit: raise spec.resources.memory.",
        )
    if code > _SIGNAL_BASE:
        return Reason.KILLED, f"Signal {code - _SIGNAL_BASE} ended the trainer."
    reason = REASON_BY_EXIT_CODE[ExitCode(code)] if code in REASON_BY_EXIT_CODE else Reason.INTERNAL_ERROR
    return reason, f"The trainer ended with exit code {code} and left no message."


def _failed(entry: AttemptStatus) -> bool:
    return entry.end_time is not None and entry.exit_code != ExitCode.DONE


def _is_free(entry: AttemptStatus) -> bool:
    return entry.exit_code == ExitCode.RETRY or entry.reason in STOPPED


def _byte(code: int | None) -> int | None:
    return code if code is not None and 0 <= code <= 255 else None


def _bounded(attempts: tuple[AttemptStatus, ...]) -> tuple[AttemptStatus, ...]:
    """At most ATTEMPTS_LIMIT entries: interruptions go first, so that the retry budget stays exact."""
    surplus = len(attempts) - ATTEMPTS_LIMIT
    last = {stage: last_attempt(attempts, stage) for stage in Stage}
    free = [entry for entry in attempts if _is_free(entry) and entry is not last[entry.stage]]
    dropped = {id(entry) for entry in free[: max(0, surplus)]}
    return tuple(entry for entry in attempts if id(entry) not in dropped)
