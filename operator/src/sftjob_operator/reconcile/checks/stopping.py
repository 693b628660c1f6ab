"""Checks on whether the job may run at this time."""

import json
from typing import Final

from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_operator.api import ConditionReason, ConditionStatus, Phase, SFTJob
from sftjob_operator.reconcile.checks.findings import (
    ends,
    failed,
    given_up,
    not_yet_prepared,
    prepared,
    stopping,
)
from sftjob_operator.reconcile.endings import ENDED_BY_US
from sftjob_operator.reconcile.lifetime import is_overdue
from sftjob_operator.reconcile.policy import POLICIES
from sftjob_operator.reconcile.sentences import standing
from sftjob_operator.reconcile.situation import Finding, Said, Situation

DEADLINE: Final = "The job has not ended within {:,} s of its creation (spec.deadlineSeconds)."
SUSPENSION: Final = "The job is being suspended (spec.suspend)."


def overdue(at: Situation) -> Finding | None:
    """spec.deadlineSeconds are over: nothing may run, and once nothing does the job has failed."""
    if not is_overdue(at.job, at.now):
        return None
    why = DEADLINE.format(at.job.spec.deadline_seconds)
    if at.live_pods:
        return stopping(at, why)
    return _given_up(at) or failed(at, *exceeded(at, why))


def suspended(at: Situation) -> Finding | None:
    """spec.suspend is true: nothing may run, and nothing is created."""
    if not at.job.spec.suspend:
        return None
    if at.live_pods:
        return stopping(at, SUSPENSION)
    return _given_up(at) or rests(at)


def given_an_end(at: Situation) -> Finding | None:
    """The operator ends an attempt itself, since it would neither run nor end."""
    for entry in at.attempts:
        group = at.live(entry.stage)
        if group is not None and group.attempt == entry.number and entry.reason in ENDED_BY_US:
            return stopping(at, ends(at, entry.stage, entry.number))
    return None


def _given_up(at: Situation) -> Finding | None:
    """The newest stage that has begun can not go on."""
    stages = sorted(Stage, key=lambda stage: stage.place, reverse=True)
    return next((found for stage in stages if (found := given_up(at, stage)) is not None), None)


def exceeded(at: Situation, why: str) -> tuple[str, str]:
    """Reason and message of a job that has failed at its deadline."""
    hint = "" if at.job.spec.recipe is None else f" {POLICIES[Reason.DEADLINE_EXCEEDED].hint}"
    return Reason.DEADLINE_EXCEEDED, f"{why} Time in which a job is suspended or queued counts. {standing(at)}{hint}"


def rests(at: Situation, note: str = "") -> Finding:
    """The job is suspended, and none of its Pods is live; `note` is said as well."""
    message = f"The job is suspended. {standing(at)} {_how_to_resume(at.job)} {note}".rstrip()
    said = Said(status=ConditionStatus.FALSE, reason=ConditionReason.SUSPENDED, message=message)
    return Finding(
        phase=Phase.SUSPENDED,
        prepared=prepared(at) if at.prepared else not_yet_prepared(said),
        running=said,
        succeeded=Said(status=ConditionStatus.UNKNOWN, reason=ConditionReason.SUSPENDED, message=message),
    )


def _how_to_resume(job: SFTJob) -> str:
    patch = json.dumps({"spec": {"suspend": False}}, separators=(",", ":"))
    metadata = job.metadata
    return f"To go on: kubectl patch sft -n {metadata.namespace} {metadata.name} --type=merge -p '{patch}'"
