"""The few Events worth posting: what a status change means to somebody who watches."""

from collections.abc import Iterator

from sftjob_contract.exit_codes import ExitCode
from sftjob_operator.api import AttemptStatus, ConditionStatus, ConditionType, Phase, SFTJobStatus
from sftjob_operator.reconcile.attempts import STOPPED
from sftjob_operator.reconcile.observed import EventNote

_NORMAL = "Normal"
_WARNING = "Warning"


def events_between(before: SFTJobStatus, after: SFTJobStatus) -> tuple[EventNote, ...]:
    """The end of the job, attempts that failed on the way, and checkpoints that had to be skipped."""
    return (*_ended(before, after), *_attempts(before, after))


def _ended(before: SFTJobStatus, after: SFTJobStatus) -> Iterator[EventNote]:
    for condition in after.conditions:
        if condition.type != ConditionType.SUCCEEDED or before.phase == after.phase:
            continue
        if condition.status == ConditionStatus.TRUE:
            yield EventNote(type=_NORMAL, reason=condition.reason, message=condition.message)
        elif condition.status == ConditionStatus.FALSE:
            yield EventNote(type=_WARNING, reason=condition.reason, message=condition.message)


def _attempts(before: SFTJobStatus, after: SFTJobStatus) -> Iterator[EventNote]:
    known = {(entry.stage, entry.number): entry for entry in before.attempts}
    for entry in after.attempts:
        old = known.get((entry.stage, entry.number))
        new_end = entry.end_time is not None and (old is None or old.end_time is None)
        if new_end and entry.exit_code != ExitCode.DONE and after.phase != Phase.FAILED:
            yield _attempt_ended(entry)
        elif entry.end_time is None and entry.message and (old is None or old.message != entry.message):
            yield EventNote(type=_WARNING, reason="CheckpointSkipped", message=entry.message)


def _attempt_ended(entry: AttemptStatus) -> EventNote:
    message = f"Attempt {entry.number} of stage {entry.stage} ended: {entry.message or 'it left no message.'}"
    type_ = _NORMAL if entry.reason in STOPPED else _WARNING
    return EventNote(type=type_, reason=entry.reason or "AttemptFailed", message=message)
