"""Why a Pod does not start, where its own status does not show it: what Events and volume claims say."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from sftjob_contract.secrets import shown
from sftjob_operator.reconcile.observed import PodPhase, PodView, Trouble
from sftjob_operator.reconcile.situation import SETTLE_SECONDS
from sftjob_operator.reconcile.starting import STARTING
from sftjob_operator.reconcile.times import known_time, seconds_since
from sftjob_operator.reconcile.unschedulable import names_volume

Body = Mapping[str, Any]
_LONGEST_WORDS: Final = 500
_GOES_ON: Final = frozenset({"Pulling", "Pulled", "Created", "Started", "SuccessfulAttachVolume", "Scheduled"})
"""Reasons of a Pod's Events by which what was wrong before is over."""
_NO_NEWS: Final = frozenset({"WaitForFirstConsumer", "WaitForPodScheduled", "Provisioning", "ProvisioningSucceeded"})
"""Reasons of a claim's Events that say no more than that it is pending."""
_WARNING: Final = "Warning"
_FAILED_BINDING: Final = "FailedBinding"
"""A Normal Event, although no volume will ever be bound."""
NO_TROUBLE: Final = ""
"""The reason of a wait that is usual, such as for a volume that is being made."""


def is_unexplained(pod: PodView, now: datetime) -> bool:
    """Whether a Pod is pending for longer than is usual, and its own status does not show why."""
    waits = pod.live and pod.phase == PodPhase.PENDING and not (pod.deleting or pod.gated)
    if not waits or seconds_until_unexplained(pod, now) > 0:
        return False
    if pod.unschedulable is not None:
        return names_volume(pod.unschedulable)
    return pod.trouble is None and pod.reason in (None, *STARTING)


def seconds_until_unexplained(pod: PodView, now: datetime) -> float:
    """In how many seconds a new Pod is pending for longer than is usual; 0 if it is."""
    age = SETTLE_SECONDS if pod.created is None else seconds_since(pod.created, now)
    return SETTLE_SECONDS - age if 0 <= age < SETTLE_SECONDS else 0.0


def told_by_events(events: Iterable[Body]) -> Trouble | None:
    """The newest Warning about a Pod, unless something went on since."""
    events = tuple(events)
    newest = max(events, key=lambda event: (_time(event), event.get("type") == _WARNING), default=None)
    warnings = [event for event in events if event.get("type") == _WARNING and event.get("message")]
    if newest is None or not warnings or newest.get("reason") in _GOES_ON:
        return None
    trouble = _trouble(max(warnings, key=_time))
    return Trouble(reason=trouble.reason, message=f"{trouble.reason}: {trouble.message}")


def told_by_claim(name: str, claim: Body | None, events: Iterable[Body]) -> Trouble | None:
    """What a claim that a Pod mounts waits for; None if it is bound, or its Events say nothing."""
    said = f"PersistentVolumeClaim {name}"
    if claim is None:
        return Trouble(reason="ClaimNotFound", message=f"{said} does not exist")
    if claim["metadata"].get("deletionTimestamp") is not None:
        return Trouble(reason="ClaimDeleted", message=f"{said} is being deleted")
    phase = (claim.get("status") or {}).get("phase") or "Pending"
    if phase == "Bound":
        return None
    told = [event for event in events if event.get("message") and event.get("reason") not in _NO_NEWS]
    if not told:
        return Trouble(reason=f"Claim{phase}", message=f"{said} is {phase}") if phase != "Pending" else None
    newest = max(told, key=lambda event: (_time(event), event.get("type") == _WARNING))
    trouble = _trouble(newest)
    wrong = newest.get("type") == _WARNING or trouble.reason == _FAILED_BINDING
    message = f"{said} is {phase} with {trouble.reason}: {trouble.message}"
    return Trouble(reason=trouble.reason if wrong else NO_TROUBLE, message=message)


def _trouble(event: Body) -> Trouble:
    words = " ".join(shown(str(event["message"])).split())
    return Trouble(reason=str(event.get("reason") or "Warning"), message=words[:_LONGEST_WORDS])


def _time(event: Body) -> str:
    """When an Event was last seen; those of one source are in order, whatever its clock."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), *(event.get(f) for f in ("lastTimestamp", "eventTime", "firstTimestamp")))
    return next((known for time in times if (known := known_time(time)) is not None), "")
