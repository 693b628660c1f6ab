"""A job whose stored object cannot be read, since another version of the operator or of the CRD wrote it.

It keeps its state: its Pods keep running, and nothing is created, deleted or ended. Everything here works on the object
as it is stored, since that is all there is.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from sftjob_operator.api import ConditionReason, ConditionStatus, ConditionType, Phase, to_dict
from sftjob_operator.reconcile.observed import EventNote
from sftjob_operator.reconcile.situation import NOT_ENDED, Said
from sftjob_operator.reconcile.status import condition
from sftjob_operator.reconcile.times import rfc3339

Body = Mapping[str, Any]
_LONGEST_REASON: Final = 600
"""Characters; the whole message has to fit into a condition."""


def held_status(body: Body, why: str, now: datetime) -> dict[str, Any]:
    """The stored status with the reason in its conditions, and nothing else changed.

    `why` is a sentence without its full stop.
    """
    status = dict(body.get("status") or {})
    generation, time = body["metadata"].get("generation", 1), rfc3339(now)
    conditions = status.get("conditions") or []
    if not isinstance(conditions, list) or not all(isinstance(item, Mapping) for item in conditions):
        return status
    said = Said(status=ConditionStatus.UNKNOWN, reason=ConditionReason.INVALID_SPEC, message=_message(why))
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
    return {"phase": Phase.PENDING, "startTime": time, **status, "conditions": conditions}


def held_events(why: str) -> tuple[EventNote, ...]:
    """What `kubectl describe` shows of it."""
    return (EventNote(type="Warning", reason=ConditionReason.INVALID_SPEC, message=_message(why)),)


def _message(why: str) -> str:
    return (
        f"{why[:_LONGEST_REASON]}. This version of the operator cannot read the stored object: upgrade the operator to "
        "the version of the installed CRD. Until then the job keeps its state: its Pods keep running, and no Pod is "
        "created or deleted, also not for spec.suspend or spec.deadlineSeconds."
    )
