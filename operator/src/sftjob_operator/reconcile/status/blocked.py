"""A job that the operator cannot decide about or act on: it keeps its state, and its conditions show the reason.

All functions here use the object as stored, which may be of another version of the operator or of the CRD.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from sftjob_operator.api import MESSAGE_LIMIT, ConditionStatus, ConditionType, Phase, to_dict
from sftjob_operator.reconcile.observe.times import rfc3339
from sftjob_operator.reconcile.snapshot import NOT_ENDED, ConditionState
from sftjob_operator.reconcile.status.build import condition

Body = Mapping[str, Any]
UPGRADE: Final = "upgrade the operator to the version of the installed CRD."
_LONGEST_NOTE: Final = 300
_LONGEST_REASON: Final = 600
"""Maximum characters, so that the whole message fits into a condition."""


def blocked_status(body: Body, reason: str, message: str, now: datetime) -> dict[str, Any]:
    """Return the stored status with reason and message in the main conditions, otherwise unchanged."""
    status = dict(body.get("status") or {})
    generation, time = body["metadata"].get("generation", 1), rfc3339(now)
    conditions = status.get("conditions") or []
    if not isinstance(conditions, list) or not all(isinstance(item, Mapping) for item in conditions):
        return status
    state = ConditionState(status=ConditionStatus.UNKNOWN, reason=reason, message=message[:MESSAGE_LIMIT])
    prepared = any(
        (item.get("type"), item.get("status")) == (ConditionType.PREPARED, ConditionStatus.TRUE) for item in conditions
    )
    about = ConditionType.RUNNING if prepared else ConditionType.PREPARED
    for type_ in ConditionType:
        known = next((item for item in conditions if item.get("type") == type_), None)
        if known is None:
            new_state = state if type_ in (about, ConditionType.SUCCEEDED) else NOT_ENDED
            conditions = [*conditions, to_dict(condition(type_, new_state, generation, time))]
        elif type_ in (about, ConditionType.SUCCEEDED):
            update = {"reason": str(state.reason), "message": state.message, "observedGeneration": generation}
            conditions = [{**item, **update} if item is known else item for item in conditions]
    return {"phase": Phase.PENDING.value, "startTime": time, **status, "conditions": conditions}


def unreadable(why: str, *, stops: bool) -> str:
    """Return the message about an object that cannot be read; `why` is a sentence without its full stop.

    `stops`: spec.suspend and spec.deadlineSeconds still take effect.
    """
    rest = (
        "its Pods keep running, and no Pod is created. spec.suspend and spec.deadlineSeconds still apply."
        if stops
        else "its Pods keep running, and no Pod is created or deleted, not even for spec.suspend or "
        "spec.deadlineSeconds."
    )
    return (
        f"{why[:_LONGEST_REASON]}. This version of the operator cannot read the stored object: {UPGRADE} Until then "
        f"the job keeps its state: {rest}"
    )


def partly_readable(why: str) -> str:
    """Return the same message as an addition to another."""
    return f"{why[:_LONGEST_NOTE]}: {UPGRADE}"
