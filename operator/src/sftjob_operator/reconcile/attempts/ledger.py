"""The ledger of attempts: the Pods of a job, and how each ended."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from itertools import pairwise
from typing import Final

from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.progress import Progress
from sftjob_contract.secrets import without_secrets
from sftjob_operator.api import ATTEMPTS_LIMIT, AttemptStatus, replace
from sftjob_operator.reconcile.attempts.end_reason import EndReason, disruption, end_reason, lost
from sftjob_operator.reconcile.attempts.failure_reasons import STOPPED, Retry, retry_of
from sftjob_operator.reconcile.observe.attempt_pods import Key, PodGroup
from sftjob_operator.reconcile.observe.observed import PodView, Report
from sftjob_operator.reconcile.observe.starting import is_blocked
from sftjob_operator.reconcile.observe.times import known_time, parse_time, rfc3339

_NOT_EXECUTED: Final = 126
"""The lowest exit code of a program that could not be executed (POSIX, 2.8.2), or that a signal ended."""


def update_attempts(
    recorded: Iterable[AttemptStatus],
    groups: Mapping[Key, PodGroup],
    report: Report | None,
    endings: Mapping[Key, EndReason],
    stop: str | None,
    now: datetime,
) -> tuple[AttemptStatus, ...]:
    """Update `recorded`: add entries for new Pods, close entries of ended ones, and close missing ones as lost.

    `groups` are the job's own. `stop` is the reason that no Pod may run now, one of STOPPED, and `endings` the reasons
    that the operator ends single attempts: an attempt that ends in the meantime has that reason. A closed entry does
    not change unless its Pod turns out to be live after all. The result may have more entries than a status holds.
    """
    entries = {(entry.stage, entry.number): entry for entry in recorded}
    for key in _unknown(entries.keys(), groups):
        entries[key] = AttemptStatus(stage=key[0], number=key[1], pod=groups[key].names[0])
    current = (
        _updated(_with_end_reason(entry, stop, endings.get(key)), groups.get(key), report, now)
        for key, entry in entries.items()
    )
    return _with_lost_steps(tuple(current))


def last_attempt(attempts: Iterable[AttemptStatus], stage: Stage) -> AttemptStatus | None:
    """Return the newest attempt of a stage."""
    return max((entry for entry in attempts if entry.stage == stage), key=lambda entry: entry.number, default=None)


def succeeded(attempt: AttemptStatus | None) -> bool:
    """Whether it ended with exit code 0."""
    return attempt is not None and attempt.end_time is not None and attempt.exit_code == ExitCode.DONE


def failures(attempts: Iterable[AttemptStatus], stage: Stage) -> int:
    """Count the attempts of a stage against failurePolicy.maxRetries."""
    known = tuple(attempts)
    return sum(entry.stage == stage and _failed(entry) and not _is_free(entry, known) for entry in known)


def interruptions(attempts: Iterable[AttemptStatus]) -> int:
    """Count the attempts against failurePolicy.maxInterruptions."""
    known = tuple(attempts)
    return sum(is_interruption(entry, known) for entry in known)


def is_interruption(entry: AttemptStatus, attempts: Iterable[AttemptStatus]) -> bool:
    """Whether neither the run nor the job's user caused the end; `attempts` are all of the job."""
    return _failed(entry) and entry.reason not in STOPPED and retry_after(entry, attempts) is Retry.FREE


def retry_after(entry: AttemptStatus, attempts: Iterable[AttemptStatus]) -> Retry:
    """Whether another attempt follows `entry`, which ended without success; `attempts` are all of the job.

    A container that cannot start is a final failure until something of the job has run. After that, image and spec are
    known to be good, so the registry or the node is the cause.
    """
    retry = retry_of(entry)
    ran = retry is Retry.NEVER and _never_started(entry) and any(_ran_before(entry, other) for other in attempts)
    return Retry.FREE if ran else retry


def has_run(attempts: Iterable[AttemptStatus]) -> bool:
    """Whether the trainer's container was started in any of `attempts`."""
    return any(map(_ran, attempts))


def bounded(attempts: tuple[AttemptStatus, ...]) -> tuple[AttemptStatus, ...]:
    """Keep at most ATTEMPTS_LIMIT entries: interruptions and stops are dropped first, so the retry budget stays exact.

    The first attempt that ran is kept as well, since it shows that image and spec are good.
    """
    surplus = len(attempts) - ATTEMPTS_LIMIT
    needed = [next((entry for entry in attempts if _ran(entry)), None), *(last_attempt(attempts, s) for s in Stage)]
    free = [
        entry
        for entry in attempts
        if _failed(entry) and _is_free(entry, attempts) and not any(entry is one for one in needed)
    ]
    dropped = {id(entry) for entry in free[: max(0, surplus)]}
    return tuple(entry for entry in attempts if id(entry) not in dropped)


def progress_of(attempt: AttemptStatus, pod: PodView | None, report: Report | None) -> Progress | None:
    """Return the last known state of a train attempt: its Pod's termination message, else its newest report."""
    if pod is not None and pod.outcome is not None and pod.outcome.progress is not None:
        return pod.outcome.progress
    if report is not None and attempt.stage == Stage.TRAIN and report.progress.attempt == attempt.number:
        return report.progress
    return None


def _unknown(recorded: Collection[Key], groups: Mapping[Key, PodGroup]) -> list[Key]:
    """Return attempts that the ledger lacks, except ended ones older than a recorded one, which it has dropped."""
    newest = {
        stage: max((number for recorded_stage, number in recorded if recorded_stage == stage), default=0)
        for stage in Stage
    }
    unknown = (key for key, group in groups.items() if key not in recorded and (group.live or key[1] > newest[key[0]]))
    return sorted(unknown, key=lambda key: (key[0].place, key[1]))


def _with_end_reason(entry: AttemptStatus, stop: str | None, ending: EndReason | None) -> AttemptStatus:
    """Keep the reason for ending an open entry, even if the job may continue before its Pod is gone."""
    if entry.end_time is not None:
        return entry
    if stop is not None:
        return replace(entry, reason=stop)
    if ending is not None and entry.reason is None:
        return replace(entry, reason=ending.reason, message=ending.message)
    return entry


def _updated(entry: AttemptStatus, group: PodGroup | None, report: Report | None, now: datetime) -> AttemptStatus:
    closed = entry.end_time is not None
    if group is None:
        return entry if closed else _lost(entry, entry.pod, now)
    if closed and not group.live:
        return entry
    head = group.head
    entry = replace(
        entry,
        node=head.node if head is not None else entry.node,
        start_time=group.started or known_time(entry.start_time),
        blocked_since=_blocked_since(entry, group, now),
    )
    entry = advanced(entry, progress_of(entry, head, report))
    if not group.live:
        return _ended(entry, group, now)
    return replace(_disrupted(entry, group), end_time=None, exit_code=None)


def _blocked_since(entry: AttemptStatus, group: PodGroup, now: datetime) -> str | None:
    """Return since when a container of the attempt cannot start, as far as the operator observed it."""
    if not any(map(is_blocked, group.live)):
        return None
    since = known_time(entry.blocked_since)
    return since if since is not None and parse_time(since) <= now else rfc3339(now)


def advanced(entry: AttemptStatus, progress: Progress | None) -> AttemptStatus:
    """Update `entry` with a report of its attempt."""
    if progress is None:
        return entry
    skipped = [without_secrets(f"{skip.path} was skipped: {skip.why}") for skip in progress.skipped_checkpoints]
    return replace(
        entry,
        from_step=progress.resumed_from_step,
        reached_step=progress.step,
        loading_seconds=progress.loading_seconds,
        evaluating_seconds=progress.evaluating_seconds,
        saving_seconds=progress.saving_seconds,
        message="; ".join(skipped) or entry.message,
    )


def _disrupted(entry: AttemptStatus, group: PodGroup) -> AttemptStatus:
    """Record why a live attempt is ending: for the operator, by Kubernetes, or no reason."""
    if entry.end_time is None and entry.reason is not None:
        return entry
    found = next((seen for pod in group.live if pod.deleting and (seen := disruption(pod)) is not None), None)
    return replace(entry, reason=None) if found is None else replace(entry, reason=found.reason, message=found.message)


def _lost(entry: AttemptStatus, pod: str, now: datetime) -> AttemptStatus:
    end = lost(pod, _operator_reason(entry))
    return replace(entry, end_time=rfc3339(now), blocked_since=None, reason=end.reason, message=end.message)


def _ended(entry: AttemptStatus, group: PodGroup, now: datetime) -> AttemptStatus:
    failed, missing = group.failed, group.missing
    if missing and (failed is None or failed.deleting):  # only the missing Pods explain the end
        return _lost(entry, missing[0], now)
    end_time = group.finished or rfc3339(now)
    if failed is None:
        return replace(
            entry, end_time=end_time, exit_code=ExitCode.DONE, reason="Completed", unpublished=_unpublished(group)
        )
    end = end_reason(group, failed, _operator_reason(entry))
    return replace(
        entry,
        node=failed.node or entry.node,
        end_time=end_time,
        exit_code=_byte(failed.exit_code),
        reason=end.reason,
        message=end.message,
        fault=_fault(failed, end),
    )


def _fault(failed: PodView, end: EndReason) -> str | None:
    """Return the trainer's unexpected error, if that is the reason of the attempt's end."""
    outcome = failed.outcome
    return outcome.fault if outcome is not None and end.reason == Reason.INTERNAL_ERROR else None


def _unpublished(group: PodGroup) -> bool | None:
    """Whether a successful train attempt left its output to stage publish; None: its termination message is lost."""
    head = group.head
    if group.stage != Stage.TRAIN or head is None or head.outcome is None:
        return None
    return bool(head.outcome.unpublished)


def _operator_reason(entry: AttemptStatus) -> EndReason | None:
    """Return the reason for ending an open entry."""
    if entry.end_time is not None or entry.reason is None:
        return None
    return EndReason(reason=entry.reason, message=entry.message or "")


def _with_lost_steps(attempts: tuple[AttemptStatus, ...]) -> tuple[AttemptStatus, ...]:
    """Add to each train attempt the steps that the next attempt has to repeat, once that is known.

    A checkpoint of a later step than the last report's shows how far an attempt got that could not report it.
    """
    trained = sorted((entry for entry in attempts if entry.stage == Stage.TRAIN), key=lambda entry: entry.number)
    known = {
        old.number: (max(old.reached_step, new.from_step), max(0, old.reached_step - new.from_step))
        for old, new in pairwise(trained)
        if old.reached_step is not None and new.from_step is not None and new.number == old.number + 1
    }

    def with_steps(entry: AttemptStatus) -> AttemptStatus:
        if entry.stage != Stage.TRAIN or entry.number not in known:
            return entry
        reached, lost = known[entry.number]
        return replace(entry, reached_step=reached, lost_steps=lost)

    return tuple(map(with_steps, attempts))


def _failed(entry: AttemptStatus) -> bool:
    return entry.end_time is not None and entry.exit_code != ExitCode.DONE


def _is_free(entry: AttemptStatus, attempts: Iterable[AttemptStatus]) -> bool:
    return entry.reason in STOPPED or retry_after(entry, attempts) in (Retry.FREE, Retry.ADJUSTED)


def _ran(entry: AttemptStatus) -> bool:
    return known_time(entry.start_time) is not None or bool(entry.reached_step) or succeeded(entry)


def _ran_before(entry: AttemptStatus, other: AttemptStatus) -> bool:
    return (other.stage.place, other.number) < (entry.stage.place, entry.number) and _ran(other)


def _never_started(entry: AttemptStatus) -> bool:
    """Whether its program was never executed, so that the reason is the kubelet's and not the trainer's."""
    by_kubelet = entry.exit_code is None or entry.exit_code >= _NOT_EXECUTED
    return entry.reason in (Reason.IMAGE_PULL_FAILED, Reason.CONFIG_INVALID) and by_kubelet and not _ran(entry)


def _byte(code: int | None) -> int | None:
    return code if code is not None and 0 <= code <= 255 else None
