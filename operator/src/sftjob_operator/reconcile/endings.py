"""When the operator itself has to end an attempt that would neither run nor end: and only then."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final

from sftjob_contract.names import Stage
from sftjob_contract.progress import Activity
from sftjob_contract.reasons import Reason
from sftjob_operator.api import AttemptStatus, SFTJob
from sftjob_operator.reconcile.groups import Group
from sftjob_operator.reconcile.observed import PodPhase, PodView, Reachability, Report
from sftjob_operator.reconcile.starting import PULL_FAILURES, is_blocked
from sftjob_operator.reconcile.times import duration, known_time, parse_time
from sftjob_operator.reconcile.verdicts import Verdict

START_PATIENCE_SECONDS: Final = 900
"""How long a node may fail to pull an image or to make a container: a registry comes back, a Secret is added late."""
HUNG_SILENCES: Final = 40
LEAST_HUNG_SECONDS: Final = 3600
"""A trainer is hung when it is silent for so many times what is odd, and this long at least. It has a watchdog of its
own, which knows how long its steps take; this is for the case that the watchdog hangs too."""
_HOPELESS: Final = frozenset({"InvalidImageName"})
ENDED_BY_US: Final = frozenset({Reason.IMAGE_PULL_FAILED, Reason.CONFIG_INVALID, Reason.HUNG})
"""Reasons for which an attempt is ended here."""


def heartbeat(job: SFTJob, report: Report | None, known: Reachability) -> Report | None:
    """The report that others must follow; None where silence after it proves nothing.

    One of an image of the user's own may rightly be the last for hours. A trainer that has not reported since the
    certificate changed may not be able to, and trains on to its end. Silence counts from the time since which reports
    could arrive.
    """
    changed = known.certificate_since
    if report is None or job.spec.command is not None or known.silent_together:
        return None
    if changed is not None and report.received < changed:
        return None
    return replace(report, received=max(report.received, known.undisturbed_since or report.received))


@dataclass(frozen=True, kw_only=True, slots=True)
class Signs:
    """What decides about the end of an attempt besides its Pods.

    `blocked_since`: since when, without a gap, one of its containers cannot be started; None: not known, so from now.
    """

    blocked_since: str | None
    report: Report | None
    silence_seconds: float


def signs(group: Group, attempts: Iterable[AttemptStatus], report: Report | None, silence_seconds: float) -> Signs:
    """What decides about the end of the attempt of `group`, from the ledger and the newest report."""
    since = (entry.blocked_since for entry in attempts if (entry.stage, entry.number) == (group.stage, group.attempt))
    return Signs(blocked_since=known_time(next(since, None)), report=report, silence_seconds=silence_seconds)


def ending(group: Group, seen: Signs, now: datetime) -> Verdict | None:
    """Why a live attempt has to be ended now; None if it may go on."""
    return next((why for due, why in _prospects(group, seen, now) if due <= now), None)


def seconds_to_ending(group: Group, seen: Signs, now: datetime) -> float | None:
    """In how many seconds that may change by the clock alone."""
    dues = (due for due, _ in _prospects(group, seen, now))
    return min(((due - now).total_seconds() for due in dues if due > now), default=None)


def _prospects(group: Group, seen: Signs, now: datetime) -> Iterator[tuple[datetime, Verdict]]:
    """What an attempt is ended for if nothing changes, and when."""
    blocked_since = min(parse_time(seen.blocked_since), now) if seen.blocked_since is not None else now
    for pod in group.live:
        if is_blocked(pod):
            yield from _never_starts(pod, blocked_since)
    head = group.head
    if group.stage == Stage.TRAIN and head is not None and head.phase == PodPhase.RUNNING and not head.deleting:
        yield from _hangs(head, seen.report, seen.silence_seconds)


def _never_starts(pod: PodView, since: datetime) -> Iterator[tuple[datetime, Verdict]]:
    """The limit counts from the first failure that was seen: what came before may have been a slow pull or attach."""
    reason = Reason.IMAGE_PULL_FAILED if pod.reason in PULL_FAILURES else Reason.CONFIG_INVALID
    words = f"{pod.reason}: {pod.message or 'no message given'}"
    if pod.reason in _HOPELESS:
        yield (
            datetime.min.replace(tzinfo=UTC),
            Verdict(reason=reason, message=f"Pod {pod.name} can not start ({words})."),
        )
    else:
        message = f"Pod {pod.name} could not start for {duration(START_PATIENCE_SECONDS)} ({words})."
        yield since + timedelta(seconds=START_PATIENCE_SECONDS), Verdict(reason=reason, message=message)


def _hangs(head: PodView, report: Report | None, silence_seconds: float) -> Iterator[tuple[datetime, Verdict]]:
    """Only reports that this process received can stop coming: one that was down, or is not reached, knows nothing.

    How long a start takes is not known, nor what a newer trainer does, so that they are left to the trainer.
    """
    if (
        report is None
        or report.progress.attempt != head.attempt
        or report.progress.activity in (Activity.LOADING, None)
    ):
        return
    patience = max(LEAST_HUNG_SECONDS, round(HUNG_SILENCES * silence_seconds))
    message = (
        f"Nothing was heard of the trainer for {duration(patience)}; its last word was {report.progress.activity} at "
        f"step {report.progress.step:,}."
    )
    yield report.received + timedelta(seconds=patience), Verdict(reason=Reason.HUNG, message=message)
