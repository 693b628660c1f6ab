"""Checks of whether the job may run now."""

import json
from typing import Final

from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_operator.api import ConditionReason, ConditionStatus, Phase, SFTJob
from sftjob_operator.reconcile.attempts.deadline import is_overdue
from sftjob_operator.reconcile.attempts.failure_reasons import POLICIES
from sftjob_operator.reconcile.attempts.timeouts import OPERATOR_END_REASONS
from sftjob_operator.reconcile.checks.results import (
    ending_sentence,
    failed,
    not_yet_prepared,
    prepared,
    stage_failed,
    stopping,
)
from sftjob_operator.reconcile.messages.sentences import progress_sentence
from sftjob_operator.reconcile.snapshot import CheckResult, ConditionState, Snapshot

DEADLINE: Final = "The job did not end within {:,} s of its creation (spec.deadlineSeconds)."
SUSPENSION: Final = "The job is being suspended (spec.suspend)."


def overdue(snapshot: Snapshot) -> CheckResult | None:
    """spec.deadlineSeconds have passed: no Pod may run, and once none does the job has failed."""
    if not is_overdue(snapshot.job, snapshot.now):
        return None
    why = DEADLINE.format(snapshot.job.spec.deadline_seconds)
    if snapshot.live_pods:
        return stopping(snapshot, why)
    return _failed_stage(snapshot) or failed(snapshot, *deadline_exceeded(snapshot, why))


def suspended(snapshot: Snapshot) -> CheckResult | None:
    """spec.suspend is true: no Pod may run, and nothing is created."""
    if not snapshot.job.spec.suspend:
        return None
    if snapshot.live_pods:
        return stopping(snapshot, SUSPENSION)
    return _failed_stage(snapshot) or suspended_result(snapshot)


def operator_ends_attempt(snapshot: Snapshot) -> CheckResult | None:
    """The operator ends an attempt that would neither run nor end."""
    for entry in snapshot.attempts:
        group = snapshot.live(entry.stage)
        if group is not None and group.attempt == entry.number and entry.reason in OPERATOR_END_REASONS:
            return stopping(snapshot, ending_sentence(snapshot, entry.stage, entry.number))
    return None


def _failed_stage(snapshot: Snapshot) -> CheckResult | None:
    """The newest stage that has begun cannot continue."""
    stages = sorted(Stage, key=lambda stage: stage.place, reverse=True)
    return next((found for stage in stages if (found := stage_failed(snapshot, stage)) is not None), None)


def deadline_exceeded(snapshot: Snapshot, why: str) -> tuple[str, str]:
    """Return reason and message of a job that failed at its deadline."""
    hint = "" if snapshot.job.spec.recipe is None else f" {POLICIES[Reason.DEADLINE_EXCEEDED].hint}"
    return (
        Reason.DEADLINE_EXCEEDED,
        f"{why} Suspended and queued time counts. {progress_sentence(snapshot)}{hint}",
    )


def suspended_result(snapshot: Snapshot, note: str = "") -> CheckResult:
    """The job is suspended, and none of its Pods is live; the message includes `note`."""
    message = f"The job is suspended. {progress_sentence(snapshot)} {_how_to_resume(snapshot.job)} {note}".rstrip()
    state = ConditionState(status=ConditionStatus.FALSE, reason=ConditionReason.SUSPENDED, message=message)
    return CheckResult(
        phase=Phase.SUSPENDED,
        prepared=prepared(snapshot) if snapshot.prepared else not_yet_prepared(state),
        running=state,
        succeeded=ConditionState(status=ConditionStatus.UNKNOWN, reason=ConditionReason.SUSPENDED, message=message),
    )


def _how_to_resume(job: SFTJob) -> str:
    patch = json.dumps({"spec": {"suspend": False}}, separators=(",", ":"))
    metadata = job.metadata
    return f"To resume: kubectl patch sft -n {metadata.namespace} {metadata.name} --type=merge -p '{patch}'"
