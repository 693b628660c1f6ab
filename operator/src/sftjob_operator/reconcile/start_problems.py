"""Why a Pod does not start, if its own status does not show it: from Events and volume claims."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Final

from sftjob_contract.secrets import shown
from sftjob_operator.reconcile.attempts.unschedulable import names_volume
from sftjob_operator.reconcile.observe.observed import PodPhase, PodProblem, PodView
from sftjob_operator.reconcile.observe.starting import STARTING
from sftjob_operator.reconcile.observe.times import known_time, seconds_since
from sftjob_operator.reconcile.snapshot import SETTLE_SECONDS

Body = Mapping[str, Any]
_LONGEST_MESSAGE: Final = 500
_PROGRESS_REASONS: Final = frozenset({"Pulling", "Pulled", "Created", "Started", "SuccessfulAttachVolume", "Scheduled"})
"""Reasons of a Pod's Events that resolve an earlier problem."""
_PENDING_REASONS: Final = frozenset(
    {"WaitForFirstConsumer", "WaitForPodScheduled", "Provisioning", "ProvisioningSucceeded"}
)
"""Reasons of a claim's Events that report only that it is pending."""
_WARNING: Final = "Warning"
_FAILED_BINDING: Final = "FailedBinding"
"""A Normal Event, although no volume will ever be bound."""
NO_PROBLEM: Final = ""
"""The reason of a normal wait, such as for a volume that is being provisioned."""


def is_unexplained(pod: PodView, now: datetime) -> bool:
    """Whether a Pod is pending for longer than usual, and its own status does not show why."""
    waits = pod.live and pod.phase == PodPhase.PENDING and not (pod.deleting or pod.gated)
    if not waits or seconds_until_unexplained(pod, now) > 0:
        return False
    if pod.unschedulable is not None:
        return names_volume(pod.unschedulable)
    return pod.problem is None and pod.reason in (None, *STARTING)


def seconds_until_unexplained(pod: PodView, now: datetime) -> float:
    """Return the seconds until a new Pod is pending for longer than usual; 0 if it is."""
    age = SETTLE_SECONDS if pod.created is None else seconds_since(pod.created, now)
    return SETTLE_SECONDS - age if 0 <= age < SETTLE_SECONDS else 0.0


def problem_from_events(events: Iterable[Body]) -> PodProblem | None:
    """Return the newest Warning about a Pod, unless it made progress since."""
    events = tuple(events)
    newest = max(events, key=lambda event: (_time(event), event.get("type") == _WARNING), default=None)
    warnings = [event for event in events if event.get("type") == _WARNING and event.get("message")]
    if newest is None or not warnings or newest.get("reason") in _PROGRESS_REASONS:
        return None
    problem = _problem(max(warnings, key=_time))
    return PodProblem(reason=problem.reason, message=f"{problem.reason}: {problem.message}")


def problem_from_claim(name: str, claim: Body | None, events: Iterable[Body]) -> PodProblem | None:
    """Return what a mounted claim waits for; None if it is bound, or its Events show no reason."""
    subject = f"PersistentVolumeClaim {name}"
    if claim is None:
        return PodProblem(reason="ClaimNotFound", message=f"{subject} does not exist")
    if claim["metadata"].get("deletionTimestamp") is not None:
        return PodProblem(reason="ClaimDeleted", message=f"{subject} is being deleted")
    phase = (claim.get("status") or {}).get("phase") or "Pending"
    if phase == "Bound":
        return None
    relevant = [event for event in events if event.get("message") and event.get("reason") not in _PENDING_REASONS]
    if not relevant:
        return PodProblem(reason=f"Claim{phase}", message=f"{subject} is {phase}") if phase != "Pending" else None
    newest = max(relevant, key=lambda event: (_time(event), event.get("type") == _WARNING))
    problem = _problem(newest)
    is_failure = newest.get("type") == _WARNING or problem.reason == _FAILED_BINDING
    message = f"{subject} is {phase} with {problem.reason}: {problem.message}"
    return PodProblem(reason=problem.reason if is_failure else NO_PROBLEM, message=message)


def _problem(event: Body) -> PodProblem:
    text = " ".join(shown(str(event["message"])).split())
    return PodProblem(reason=str(event.get("reason") or "Warning"), message=text[:_LONGEST_MESSAGE])


def _time(event: Body) -> str:
    """When an Event was last seen. Events of one source are in order, even if its clock is wrong."""
    series = event.get("series") or {}
    times = (series.get("lastObservedTime"), *(event.get(f) for f in ("lastTimestamp", "eventTime", "firstTimestamp")))
    return next((known for time in times if (known := known_time(time)) is not None), "")
