"""Checks of children that cannot be created, by the operator's own rules or by the API server's."""

from typing import Final

from sftjob_contract.reasons import Reason
from sftjob_operator.api import AttemptStatus, ConditionReason, ConditionStatus, ConditionType, Phase
from sftjob_operator.reconcile.attempts.ledger import succeeded
from sftjob_operator.reconcile.checks.results import failed, not_yet_training, prepared
from sftjob_operator.reconcile.observe.observed import CreateError
from sftjob_operator.reconcile.observe.times import seconds_since
from sftjob_operator.reconcile.snapshot import CheckResult, ConditionState, Snapshot
from sftjob_operator.reconcile.spec.validation import spec_problem

SHORTEST_RECHECK_SECONDS: Final = 5
LONGEST_RECHECK_SECONDS: Final = 300
"""Bounds of the wait before the next try to create a rejected child; it grows with the time since the first
rejection."""

_OVER_QUOTA: Final = "exceeded quota:"
"""Part of the message of the API server's ResourceQuota admission.

https://github.com/kubernetes/kubernetes/blob/v1.36.0/staging/src/k8s.io/apiserver/pkg/admission/plugin/resourcequota/controller.go
"""


def spec_is_invalid(snapshot: Snapshot) -> CheckResult | None:
    """The spec is invalid, and nothing was created yet. Jobs that already run are left alone."""
    if snapshot.attempts or (problem := spec_problem(snapshot.job)) is None:
        return None
    return failed(snapshot, Reason.CONFIG_INVALID, problem)


def create_invalid(snapshot: Snapshot) -> CheckResult | None:
    """The API server's validation rejects a rendered child of a first attempt, and the spec is immutable.

    A later attempt is rendered like the first, which the server accepted: something in the cluster has changed.
    """
    create_error = snapshot.create_error
    if create_error is None or not create_error.final or any(map(_was_accepted, snapshot.attempts)):
        return None
    message = f"The API server rejected the {create_error.kind} {create_error.name}: {create_error.message}"
    return failed(snapshot, Reason.CONFIG_INVALID, message)


def _was_accepted(entry: AttemptStatus) -> bool:
    """Whether an attempt shows that the server accepted the children of the first one."""
    return entry.number > 1 or (entry.end_time is not None and not succeeded(entry))


def _reason(create_error: CreateError) -> ConditionReason:
    if create_error.conflict:
        return ConditionReason.NAME_CONFLICT
    return ConditionReason.QUOTA_EXCEEDED if _OVER_QUOTA in create_error.message else ConditionReason.CREATION_REFUSED


def create_rejected(snapshot: Snapshot) -> CheckResult | None:
    """A child could not be created: report the reason, and retry later."""
    create_error = snapshot.create_error
    if create_error is None:
        return None
    reason = _reason(create_error)
    state = ConditionState(status=ConditionStatus.FALSE, reason=reason, message=create_error.message)
    type_ = ConditionType.RUNNING if snapshot.prepared else ConditionType.PREPARED
    since = next(
        (c.last_transition_time for c in snapshot.job.status.conditions if c.type == type_ and c.reason == reason), ""
    )
    waited = seconds_since(since, snapshot.now) if since else 0
    return CheckResult(
        phase=snapshot.job.status.phase or Phase.PENDING,
        prepared=prepared(snapshot) if snapshot.prepared else state,
        running=state if snapshot.prepared else not_yet_training(),
        recheck_seconds=min(LONGEST_RECHECK_SECONDS, max(SHORTEST_RECHECK_SECONDS, waited)),
    )
