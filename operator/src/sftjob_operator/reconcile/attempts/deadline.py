"""Effects of the clock and of spec.suspend on a job, regardless of its Pods."""

from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from sftjob_contract.reasons import Reason
from sftjob_operator.api import ConditionReason, ConditionStatus, ConditionType, SFTJob
from sftjob_operator.reconcile.observe.times import parse_time

_ENDS: Final = (ConditionStatus.TRUE, ConditionStatus.FALSE)


def seconds_to_deadline(job: SFTJob, now: datetime) -> float | None:
    """Return the seconds until spec.deadlineSeconds after creation, 0 or less once passed; None without a deadline.

    Time while the job is suspended or waits for a node counts.
    """
    created = job.metadata.creation_timestamp
    if job.spec.deadline_seconds is None or created is None:
        return None
    return (parse_time(created) + timedelta(seconds=job.spec.deadline_seconds) - now).total_seconds()


def is_overdue(job: SFTJob, now: datetime) -> bool:
    """Whether the job's deadline has passed."""
    left = seconds_to_deadline(job, now)
    return left is not None and left <= 0


def stop_reason(job: SFTJob, now: datetime) -> str | None:
    """Return the reason that none of the job's Pods may run now, in one word; None if they may."""
    if is_overdue(job, now):
        return Reason.DEADLINE_EXCEEDED
    return ConditionReason.SUSPENDED if job.spec.suspend else None


def is_finished(body: Mapping[str, Any]) -> bool:
    """Whether a stored job has succeeded or failed, even if the rest of it cannot be read."""
    conditions = (body.get("status") or {}).get("conditions") or ()
    return any(
        c.get("type") == ConditionType.SUCCEEDED and c.get("status") in _ENDS
        for c in conditions
        if isinstance(c, Mapping)
    )


def awaits_cleanup(body: Mapping[str, Any]) -> bool:
    """Whether a stored finished job still needs work.

    Its time to live has not passed yet, or its spec changed after the end and observedGeneration is behind, for which
    tools that compare generations would wait forever.
    """
    status = body.get("status") or {}
    ttl = (body.get("spec") or {}).get("ttlSecondsAfterFinished")
    waits = ttl is not None and status.get("cleanupTime") is None
    unseen = status.get("observedGeneration") not in (None, body["metadata"].get("generation"))
    return is_finished(body) and (waits or unseen)


def has_ended(job: SFTJob) -> bool:
    """Whether a job has succeeded or failed."""
    return any(c.type == ConditionType.SUCCEEDED and c.status in _ENDS for c in job.status.conditions)
