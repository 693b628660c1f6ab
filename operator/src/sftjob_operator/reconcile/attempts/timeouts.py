"""When the operator itself ends an attempt: only if it would neither run nor end."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.progress import Activity
from sftjob_operator.api import AttemptStatus, SFTJob
from sftjob_operator.reconcile.attempts.end_reason import EndReason
from sftjob_operator.reconcile.observe.attempt_pods import PodGroup
from sftjob_operator.reconcile.observe.observed import PodPhase, PodView, Reachability, Report
from sftjob_operator.reconcile.observe.starting import PULL_FAILURES, is_blocked
from sftjob_operator.reconcile.observe.times import duration, known_time, parse_time

START_TIMEOUT_SECONDS: Final = 900
"""How long a node may fail to pull an image or to create a container: a registry recovers, a Secret is added late."""
HUNG_SILENCES: Final = 40
LEAST_HUNG_SECONDS: Final = 3600
"""A trainer counts as hung after this multiple of the usual silence, and at least this long. The trainer's own watchdog
knows how long its steps take; this limit covers a watchdog that hangs too."""
_PERMANENT_FAILURES: Final = frozenset({"InvalidImageName"})
OPERATOR_END_REASONS: Final = frozenset({Reason.IMAGE_PULL_FAILED, Reason.CONFIG_INVALID, Reason.HUNG})
"""Reasons for which the operator ends an attempt."""


def heartbeat(job: SFTJob, report: Report | None, known: Reachability) -> Report | None:
    """Return the report that others must follow; None if silence after it proves nothing.

    A custom image may send its last report hours before its end. A trainer that has not reported since the certificate
    changed may be unable to, and continues training to its end. Silence counts from the time since which reports could
    arrive.
    """
    changed = known.certificate_since
    if report is None or job.spec.command is not None or known.silent_together:
        return None
    if changed is not None and report.received < changed:
        return None
    return replace(report, received=max(report.received, known.available_since or report.received))


@dataclass(frozen=True, kw_only=True, slots=True)
class TimeoutInputs:
    """Inputs, other than Pods, of the decision to end an attempt.

    `blocked_since`: since when, without a gap, one of its containers cannot start; None: unknown, so from now.
    """

    blocked_since: str | None
    report: Report | None
    silence_seconds: float


def timeout_inputs(
    group: PodGroup, attempts: Iterable[AttemptStatus], report: Report | None, silence_seconds: float
) -> TimeoutInputs:
    """Collect the inputs for the attempt of `group` from the ledger and the newest report."""
    since = (entry.blocked_since for entry in attempts if (entry.stage, entry.number) == (group.stage, group.attempt))
    return TimeoutInputs(blocked_since=known_time(next(since, None)), report=report, silence_seconds=silence_seconds)


def due_end_reason(group: PodGroup, seen: TimeoutInputs, now: datetime) -> EndReason | None:
    """Return why a live attempt has to be ended now; None if it may continue."""
    return next((why for due, why in _timeouts(group, seen, now) if due <= now), None)


def seconds_to_timeout(group: PodGroup, seen: TimeoutInputs, now: datetime) -> float | None:
    """Return seconds until the result of `due_end_reason` may change by the clock alone."""
    dues = (due for due, _ in _timeouts(group, seen, now))
    return min(((due - now).total_seconds() for due in dues if due > now), default=None)


def _timeouts(group: PodGroup, seen: TimeoutInputs, now: datetime) -> Iterator[tuple[datetime, EndReason]]:
    """Return the reasons for which an attempt will be ended if nothing changes, and when."""
    blocked_since = min(parse_time(seen.blocked_since), now) if seen.blocked_since is not None else now
    for pod in group.live:
        if is_blocked(pod):
            yield from _start_timeout(pod, blocked_since)
    head = group.head
    if group.stage == Stage.TRAIN and head is not None and head.phase == PodPhase.RUNNING and not head.deleting:
        yield from _hang_timeout(head, seen.report, seen.silence_seconds)


def _start_timeout(pod: PodView, since: datetime) -> Iterator[tuple[datetime, EndReason]]:
    """The limit counts from the first failure observed: the time before it may have been a slow pull or attach."""
    reason = Reason.IMAGE_PULL_FAILED if pod.reason in PULL_FAILURES else Reason.CONFIG_INVALID
    text = f"{pod.reason}: {pod.message or 'no message given'}"
    if pod.reason in _PERMANENT_FAILURES:
        yield (
            datetime.min.replace(tzinfo=UTC),
            EndReason(reason=reason, message=f"Pod {pod.name} cannot start ({text})."),
        )
    else:
        message = f"Pod {pod.name} did not start within {duration(START_TIMEOUT_SECONDS)} ({text})."
        yield since + timedelta(seconds=START_TIMEOUT_SECONDS), EndReason(reason=reason, message=message)


def _hang_timeout(head: PodView, report: Report | None, silence_seconds: float) -> Iterator[tuple[datetime, EndReason]]:
    """Only reports that this process received can stop arriving; an operator that was down or unreachable cannot judge.

    The duration of a start is unknown, and so are the activities of a newer trainer: both are left to the trainer.
    """
    if (
        report is None
        or report.progress.attempt != head.attempt
        or report.progress.activity in (Activity.LOADING, None)
    ):
        return
    patience = max(LEAST_HUNG_SECONDS, round(HUNG_SILENCES * silence_seconds))
    message = (
        f"No report from the trainer for {duration(patience)}; the last activity reported was "
        f"{report.progress.activity} at step {report.progress.step:,}."
    )
    yield report.received + timedelta(seconds=patience), EndReason(reason=Reason.HUNG, message=message)
