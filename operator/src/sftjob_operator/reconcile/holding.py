"""A job that the operator cannot decide about now, or cannot act on: it keeps its state, and its conditions say why.

Everything here works on the object as it is stored, which may be of another version of the operator or of the CRD.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from sftjob_operator.api import MESSAGE_LIMIT, ConditionStatus, ConditionType, Phase, to_dict
from sftjob_operator.reconcile.situation import NOT_ENDED, Said
from sftjob_operator.reconcile.status import condition
from sftjob_operator.reconcile.times import rfc3339

Body = Mapping[str, Any]
UPGRADE: Final = "upgrade the operator to the version of the installed CRD."
_LONGEST_NOTE: Final = 300
_LONGEST_REASON: Final = 600
"""Characters; the whole message has to fit into a condition."""


def held_status(body: Body, reason: str, message: str, now: datetime) -> dict[str, Any]:
    """The stored status with reason and message in the conditions that people look at, and nothing else changed."""
    status = dict(body.get("status") or {})
    generation, time = body["metadata"].get("generation", 1), rfc3339(now)
    conditions = status.get("conditions") or []
    if not isinstance(conditions, list) or not all(isinstance(item, Mapping) for item in conditions):
        return status
    said = Said(status=ConditionStatus.UNKNOWN, reason=reason, message=message[:MESSAGE_LIMIT])
    prepared = any(
        (item.get("type"), item.get("status")) == (ConditionType.PREPARED, ConditionStatus.TRUE) for item in conditions
    )
    about = ConditionType.RUNNING if prepared else ConditionType.PREPARED
    for type_ in ConditionType:
        known = next((item for item in conditions if item.get("type") == type_), None)
        if known is None:
            told = said if type_ in (about, ConditionType.SUCCEEDED) else NOT_ENDED
            conditions = [*conditions, to_dict(condition(type_, told, generation, time))]
        elif type_ in (about, ConditionType.SUCCEEDED):
            told_now = {"reason": str(said.reason), "message": said.message, "observedGeneration": generation}
            conditions = [{**item, **told_now} if item is known else item for item in conditions]
    return {"phase": Phase.PENDING.value, "startTime": time, **status, "conditions": conditions}


def unreadable(why: str, *, stops: bool) -> str:
    """The message about an object that cannot be read; `why` is a sentence without its full stop.

    `stops`: spec.suspend and spec.deadlineSeconds are acted on all the same.
    """
    rest = (
        "its Pods keep running, and no Pod is created. spec.suspend and spec.deadlineSeconds are acted on."
        if stops
        else "its Pods keep running, and no Pod is created or deleted, also not for spec.suspend or "
        "spec.deadlineSeconds."
    )
    return (
        f"{why[:_LONGEST_REASON]}. This version of the operator cannot read the stored object: {UPGRADE} Until then "
        f"the job keeps its state: {rest}"
    )


def partly_readable(why: str) -> str:
    """The same, beside what else there is to say."""
    return f"{why[:_LONGEST_NOTE]}: {UPGRADE}"
