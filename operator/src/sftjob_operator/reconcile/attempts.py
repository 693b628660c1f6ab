"""The ledger of attempts: which Pods a job has had, how each ended, and what an end means for the next one."""

from collections.abc import Iterable
from datetime import datetime
from typing import Final

from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import Stage
from sftjob_contract.progress import Progress
from sftjob_contract.reasons import REASON_BY_EXIT_CODE, Reason
from sftjob_operator.api import ATTEMPTS_LIMIT, AttemptStatus, SFTJob, replace
from sftjob_operator.reconcile.observed import PodView, Report
from sftjob_operator.reconcile.times import rfc3339

LONGEST_BACKOFF_SECONDS: Final = 600
_PERMANENT: Final = frozenset(
    {ExitCode.INVALID, ExitCode.NOT_FOUND, ExitCode.GPU_OUT_OF_MEMORY, ExitCode.DIVERGED},
)
_SIGNAL_BASE: Final = 128
"""A shell's and the kubelet's exit code of a process that signal N ended is 128 + N."""
_OOM_KILLED: Final = "OOMKilled"


def update_attempts(
    recorded: Iterable[AttemptStatus], pods: Iterable[PodView], report: Report | None, now: datetime
) -> tuple[AttemptStatus, ...]:
    """`recorded` brought up to date: new Pods entered, ended ones closed, vanished ones closed as lost.

    `pods` are the job's own. A closed entry stays as it is unless its Pod turns out to be live after all.
    """
    entries = {(entry.stage, entry.number): entry for entry in recorded}
    views = {(pod.stage, pod.attempt): pod for pod in pods}
    for key in sorted(views.keys() - entries.keys()):
        entries[key] = AttemptStatus(stage=key[0], number=key[1], pod=views[key].name)
    current = {key: _brought_up_to_date(entry, views.get(key), report, now) for key, entry in entries.items()}
    return _bounded(tuple(current.values()))


def last_attempt(attempts: Iterable[AttemptStatus], stage: Stage) -> AttemptStatus | None:
    """The newest attempt of a stage."""
    return max((entry for entry in attempts if entry.stage == stage), key=lambda entry: entry.number, default=None)


def succeeded(attempt: AttemptStatus | None) -> bool:
    """It ended with exit code 0."""
    return attempt is not None and attempt.end_time is not None and attempt.exit_code == ExitCode.DONE


def failures(attempts: Iterable[AttemptStatus], stage: Stage) -> int:
    """How many attempts of a stage used up the retry budget; an interruption that saved a checkpoint is free."""
    return sum(entry.stage == stage and _failed(entry) and entry.exit_code != ExitCode.RETRY for entry in attempts)


def may_retry(attempts: Iterable[AttemptStatus], last: AttemptStatus, job: SFTJob) -> bool:
    """Whether another attempt may follow `last`, which ended without success."""
    return not is_permanent(last) and failures(attempts, last.stage) <= job.spec.failure_policy.max_retries


def is_permanent(last: AttemptStatus) -> bool:
    """Whether its exit code says that trying again can not help."""
    return last.exit_code in _PERMANENT


def backoff_seconds(attempts: Iterable[AttemptStatus], last: AttemptStatus, job: SFTJob) -> float:
    """Wait between the end of `last` and the next attempt: it doubles with every failure, up to ten minutes."""
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


def _brought_up_to_date(
    entry: AttemptStatus, pod: PodView | None, report: Report | None, now: datetime
) -> AttemptStatus:
    closed = entry.end_time is not None
    if pod is None:
        return entry if closed else _lost(entry, now)
    if closed and not pod.live:
        return entry
    entry = _advanced(replace(entry, node=pod.node, start_time=pod.started), progress_of(entry, pod, report))
    if pod.live:
        return replace(entry, end_time=None, exit_code=None, reason=None)
    return _ended(entry, pod, now)


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


def _lost(entry: AttemptStatus, now: datetime) -> AttemptStatus:
    message = f"Pod {entry.pod} is gone without having ended: it was deleted, evicted, or its node is gone."
    return replace(entry, end_time=rfc3339(now), reason=Reason.POD_LOST, message=message)


def _ended(entry: AttemptStatus, pod: PodView, now: datetime) -> AttemptStatus:
    end = {"end_time": pod.finished or rfc3339(now), "exit_code": _byte(pod.exit_code)}
    if pod.exit_code == ExitCode.DONE:
        return replace(entry, **end, reason="Completed")
    reason, message = _verdict(pod)
    return replace(entry, **end, reason=reason, message=message)


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


def _byte(code: int | None) -> int | None:
    return code if code is not None and 0 <= code <= 255 else None


def _bounded(attempts: tuple[AttemptStatus, ...]) -> tuple[AttemptStatus, ...]:
    """At most ATTEMPTS_LIMIT entries: interruptions go first, so that the retry budget stays exact."""
    surplus = len(attempts) - ATTEMPTS_LIMIT
    last = {stage: last_attempt(attempts, stage) for stage in Stage}
    free = [entry for entry in attempts if entry.exit_code == ExitCode.RETRY and entry is not last[entry.stage]]
    dropped = {id(entry) for entry in free[: max(0, surplus)]}
    return tuple(entry for entry in attempts if id(entry) not in dropped)
