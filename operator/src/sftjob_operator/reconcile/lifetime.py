"""What the clock and spec.suspend say about a job, whatever its Pods do."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from sftjob_contract.reasons import Reason
from sftjob_operator.api import ConditionReason, ConditionStatus, ConditionType, SFTJob
from sftjob_operator.reconcile.times import parse_time

_ENDS: Final = (ConditionStatus.TRUE, ConditionStatus.FALSE)


def seconds_to_deadline(job: SFTJob, now: datetime) -> float | None:
    """Seconds until spec.deadlineSeconds after its creation are over, 0 or less if they are; None without a deadline.

    Time that a job is suspended or waits for a node counts.
    """
    created = job.metadata.creation_timestamp
    if job.spec.deadline_seconds is None or created is None:
        return None
    return (parse_time(created) + timedelta(seconds=job.spec.deadline_seconds) - now).total_seconds()


def is_overdue(job: SFTJob, now: datetime) -> bool:
    """Whether the job's deadline is over."""
    left = seconds_to_deadline(job, now)
    return left is not None and left <= 0


def stop_reason(job: SFTJob, now: datetime) -> str | None:
    """Why none of the job's Pods may run now, in one word; None if they may."""
    if is_overdue(job, now):
        return Reason.DEADLINE_EXCEEDED
    return ConditionReason.SUSPENDED if job.spec.suspend else None


def is_finished(body: Mapping[str, Any]) -> bool:
    """Whether a job as stored has succeeded or failed, even if the rest of it can not be read."""
    conditions = (body.get("status") or {}).get("conditions") or ()
    return any(
        c.get("type") == ConditionType.SUCCEEDED and c.get("status") in _ENDS
        for c in conditions
        if isinstance(c, Mapping)
    )


def awaits_cleanup(body: Mapping[str, Any]) -> bool:
    """Whether something is still to be done about a finished job as stored.

    Its time to live is not over yet, or its spec was changed after the end and the status does not tell that it was
    seen, without which tools that compare generations would wait for ever.
    """
    status = body.get("status") or {}
    ttl = (body.get("spec") or {}).get("ttlSecondsAfterFinished")
    waits = ttl is not None and status.get("cleanupTime") is None
    unseen = status.get("observedGeneration") not in (None, body["metadata"].get("generation"))
    return is_finished(body) and (waits or unseen)


def has_ended(job: SFTJob) -> bool:
    """Whether a job has succeeded or failed."""
    return any(c.type == ConditionType.SUCCEEDED and c.status in _ENDS for c in job.status.conditions)
