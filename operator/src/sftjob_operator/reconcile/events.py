"""The few Events worth posting: what a status change means to somebody who watches."""

from collections.abc import Iterator

from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import Reason
from sftjob_operator.api import AttemptStatus, ConditionReason, ConditionStatus, ConditionType, Phase, SFTJobStatus
from sftjob_operator.reconcile.observed import EventNote
from sftjob_operator.reconcile.policy import STOPPED

_NORMAL = "Normal"
_WARNING = "Warning"
_WAITS = (
    Reason.UNSCHEDULABLE,
    Reason.IMAGE_PULL_FAILED,
    ConditionReason.CREATION_REFUSED,
    ConditionReason.NAME_CONFLICT,
)


def events_between(before: SFTJobStatus, after: SFTJobStatus) -> tuple[EventNote, ...]:
    """The end of the job, attempts that failed on the way or can not start, adjustments, and skipped checkpoints."""
    return (*_ended(before, after), *_waits(before, after), *_attempts(before, after), *_adjusted(before, after))


def _ended(before: SFTJobStatus, after: SFTJobStatus) -> Iterator[EventNote]:
    for condition in after.conditions:
        if condition.type != ConditionType.SUCCEEDED or before.phase == after.phase:
            continue
        if condition.status == ConditionStatus.TRUE:
            yield EventNote(type=_NORMAL, reason=condition.reason, message=condition.message)
        elif condition.status == ConditionStatus.FALSE:
            yield EventNote(type=_WARNING, reason=condition.reason, message=condition.message)


def _waits(before: SFTJobStatus, after: SFTJobStatus) -> Iterator[EventNote]:
    """Told once for each time that a Pod begins to wait for something, whatever its condition says after that."""
    known = {(condition.type, condition.reason) for condition in before.conditions}
    for condition in after.conditions:
        new = condition.reason in _WAITS and (condition.type, condition.reason) not in known
        if new and after.phase != Phase.FAILED:
            yield EventNote(type=_WARNING, reason=condition.reason, message=condition.message)


def _attempts(before: SFTJobStatus, after: SFTJobStatus) -> Iterator[EventNote]:
    known = {(entry.stage, entry.number): entry for entry in before.attempts}
    for entry in after.attempts:
        old = known.get((entry.stage, entry.number))
        new_end = entry.end_time is not None and (old is None or old.end_time is None)
        if new_end and entry.exit_code != ExitCode.DONE and after.phase != Phase.FAILED:
            yield _attempt_ended(entry)
        elif _runs_with_a_note(entry) and (old is None or not old.message):  # told once, whatever else it says
            yield EventNote(type=_WARNING, reason="CheckpointSkipped", message=entry.message or "")


def _runs_with_a_note(entry: AttemptStatus) -> bool:
    return entry.end_time is None and entry.reason is None and bool(entry.message)


def _adjusted(before: SFTJobStatus, after: SFTJobStatus) -> Iterator[EventNote]:
    known = {adjustment.attempt for adjustment in before.adjustments}
    for adjustment in after.adjustments:
        if adjustment.attempt not in known:
            yield EventNote(type=_NORMAL, reason="Adjusted", message=adjustment.message)


def _attempt_ended(entry: AttemptStatus) -> EventNote:
    message = f"Attempt {entry.number} of stage {entry.stage} ended: {entry.message or 'it left no message.'}"
    type_ = _NORMAL if entry.reason in STOPPED else _WARNING
    return EventNote(type=type_, reason=entry.reason or "AttemptFailed", message=message)
