"""Status changes that must not wait: people wait for them, or a later write would hide them.

All functions here use statuses as stored, which may be of another version of the operator.
"""

from collections.abc import Mapping
from typing import Any, Final

from sftjob_operator.api import ConditionReason, ConditionStatus, ConditionType
from sftjob_operator.reconcile.status.events import BLOCKING_REASONS

Body = Mapping[str, Any]
_URGENT_REASONS: Final = BLOCKING_REASONS | {ConditionReason.STOPPING, ConditionReason.INVALID_SPEC}
"""Reasons for which Pods have to end, or that prevent the operator from acting."""


def is_urgent(old: Body, new: Body) -> bool:
    """Whether the change has to be written at once: another phase, first reports, or a blocking condition."""
    return (
        old.get("phase") != new.get("phase")
        or old.get("cleanupTime") != new.get("cleanupTime")
        or bool(_urgent_conditions(new) - _urgent_conditions(old))
    )


def urgent_part(status: Body) -> tuple[object, ...]:
    """Return the part of a status whose change is sent at once, even after a rejection."""
    return status.get("phase"), status.get("cleanupTime"), frozenset(_urgent_conditions(status))


def _urgent_conditions(status: Body) -> set[tuple[str, str]]:
    """Return conditions, by type and reason, whose first appearance is written without delay."""
    return {(str(c.get("type")), str(c.get("reason"))) for c in status.get("conditions") or () if _is_urgent(c)}


def _is_urgent(condition: Body) -> bool:
    reporting = (ConditionType.PROGRESS_REPORTING, ConditionStatus.TRUE)
    is_reporting = (condition.get("type"), condition.get("status")) == reporting
    return is_reporting or str(condition.get("reason")) in _URGENT_REASONS
