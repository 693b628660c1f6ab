"""The few Events worth posting: status changes that matter to a person who watches the job."""

import re
from collections.abc import Iterator
from typing import Final

from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_operator.api import (
    AttemptStatus,
    Condition,
    ConditionReason,
    ConditionStatus,
    ConditionType,
    Phase,
    SFTJobStatus,
)
from sftjob_operator.reconcile.attempts.failure_reasons import STOPPED
from sftjob_operator.reconcile.attempts.ledger import succeeded
from sftjob_operator.reconcile.observe.observed import EventNote

_NORMAL = "Normal"
_WARNING = "Warning"
BLOCKING_REASONS: Final = frozenset(
    {
        ConditionReason.NAME_CONFLICT,
        ConditionReason.CREATION_REFUSED,
        ConditionReason.QUOTA_EXCEEDED,
        ConditionReason.DELETION_REFUSED,
        ConditionReason.STATUS_REFUSED,
        ConditionReason.SERVER_UNAVAILABLE,
        ConditionReason.OPERATOR_FAULT,
    }
)
"""Reasons that explain what prevents the operator from acting."""
_ACTIVITIES: Final = frozenset(set(ConditionReason) - BLOCKING_REASONS)
"""Reasons that describe the activity of a job rather than an obstacle."""
_NUMBER: Final = re.compile(r"\d+")
_PREEMPTION: Final = re.compile(r"\s*preemption: .*", re.IGNORECASE | re.DOTALL)
_BACK_OFF: Final = "ImagePullBackOff"


def events_between(before: SFTJobStatus, after: SFTJobStatus) -> tuple[EventNote, ...]:
    """Return the Events for what changed: ends and starts, blocking conditions, warnings, adjustments, moved files."""
    return (
        *_ended(before, after),
        *_blocked(before, after),
        *_prepared(before, after),
        *_warned(before, after),
        *_moved(before, after),
        *_attempts(before, after),
        *_adjusted(before, after),
    )


def cause_of(reason: str, message: str) -> str:
    """Return the cause without its variable parts: numbers, such as of nodes, and order."""
    parts = re.split(r"[,;]\s+", _NUMBER.sub("N", _PREEMPTION.sub("", message)))
    return f"{reason}: {', '.join(sorted(set(parts)))}"


def _ended(before: SFTJobStatus, after: SFTJobStatus) -> Iterator[EventNote]:
    for condition in after.conditions:
        if condition.type != ConditionType.SUCCEEDED or before.phase == after.phase:
            continue
        if condition.status == ConditionStatus.TRUE:
            yield EventNote(type=_NORMAL, reason=condition.reason, message=condition.message)
        elif condition.status == ConditionStatus.FALSE:
            yield EventNote(type=_WARNING, reason=condition.reason, message=condition.message)


def _blocked(before: SFTJobStatus, after: SFTJobStatus) -> Iterator[EventNote]:
    """Post each cause once, however often it recurs."""
    known = {condition.type: condition for condition in before.conditions}
    for condition in after.conditions:
        watched = condition.type in (ConditionType.PREPARED, ConditionType.RUNNING)
        if not watched or condition.reason in _ACTIVITIES or after.phase == Phase.FAILED:
            continue
        cause, old = cause_of(condition.reason, condition.message), known.get(condition.type)
        if old is None or not _is_same(old, condition, cause):
            yield EventNote(type=_WARNING, reason=condition.reason, message=condition.message, cause=cause)


def _is_same(old: Condition, new: Condition, cause: str) -> bool:
    """Treat the backoff between failed pulls as the same cause."""
    backs_off = new.reason == old.reason == Reason.IMAGE_PULL_FAILED and _BACK_OFF in new.message
    return backs_off or cause_of(old.reason, old.message) == cause


def _prepared(before: SFTJobStatus, after: SFTJobStatus) -> Iterator[EventNote]:
    was = any(c.type == ConditionType.PREPARED and c.status == ConditionStatus.TRUE for c in before.conditions)
    by_us = any(entry.stage == Stage.PREPARE and succeeded(entry) for entry in after.attempts)
    for condition in after.conditions:
        now = condition.type == ConditionType.PREPARED and condition.status == ConditionStatus.TRUE
        if now and by_us and not was:
            yield EventNote(type=_NORMAL, reason=condition.reason, message=condition.message)


def _warned(before: SFTJobStatus, after: SFTJobStatus) -> Iterator[EventNote]:
    known = before.plan.warnings if before.plan else None
    for message in (after.plan.warnings if after.plan else None) or ():
        if message not in (known or ()):
            yield EventNote(type=_WARNING, reason="DataWarning", message=message)


def _moved(before: SFTJobStatus, after: SFTJobStatus) -> Iterator[EventNote]:
    if after.moved_aside is not None and after.moved_aside != before.moved_aside:
        yield EventNote(type=_NORMAL, reason="MovedAside", message=after.moved_aside)


def _attempts(before: SFTJobStatus, after: SFTJobStatus) -> Iterator[EventNote]:
    known = {(entry.stage, entry.number): entry for entry in before.attempts}
    for entry in after.attempts:
        old = known.get((entry.stage, entry.number))
        new_end = entry.end_time is not None and (old is None or old.end_time is None)
        if new_end and entry.exit_code != ExitCode.DONE and after.phase != Phase.FAILED:
            yield _attempt_ended(entry)
        elif _has_skipped_checkpoint(entry) and (
            old is None or not old.message
        ):  # once, whatever else the note contains
            yield EventNote(type=_WARNING, reason="CheckpointSkipped", message=entry.message or "")
        if entry.end_time is None and entry.start_time is not None and (old is None or old.start_time is None):
            place = "" if entry.node is None else f" on node {entry.node}"
            message = f"Attempt {entry.number} of stage {entry.stage} runs in Pod {entry.pod}{place}."
            yield EventNote(type=_NORMAL, reason="AttemptStarted", message=message)


def _has_skipped_checkpoint(entry: AttemptStatus) -> bool:
    return entry.end_time is None and entry.reason is None and bool(entry.message)


def _adjusted(before: SFTJobStatus, after: SFTJobStatus) -> Iterator[EventNote]:
    known = {adjustment.attempt for adjustment in before.adjustments}
    for adjustment in after.adjustments:
        if adjustment.attempt not in known:
            yield EventNote(type=_NORMAL, reason="Adjusted", message=adjustment.message)


def _attempt_ended(entry: AttemptStatus) -> EventNote:
    """An attempt that was asked to end and saved a checkpoint is normal."""
    message = f"Attempt {entry.number} of stage {entry.stage} ended: {entry.message or 'no message.'}"
    type_ = _NORMAL if entry.reason in STOPPED or entry.exit_code == ExitCode.RETRY else _WARNING
    return EventNote(type=type_, reason=entry.reason or "AttemptFailed", message=message)
