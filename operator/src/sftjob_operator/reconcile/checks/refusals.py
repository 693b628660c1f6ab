"""Checks on what may not be created at all, by our own rules or by the API server's."""

from typing import Final

from sftjob_contract.reasons import Reason
from sftjob_operator.api import AttemptStatus, ConditionReason, ConditionStatus, ConditionType, Phase
from sftjob_operator.reconcile.attempts import succeeded
from sftjob_operator.reconcile.checks.findings import failed, not_yet_training, prepared
from sftjob_operator.reconcile.observed import Refusal
from sftjob_operator.reconcile.situation import Finding, Said, Situation
from sftjob_operator.reconcile.spec_problems import spec_problem
from sftjob_operator.reconcile.times import seconds_since

SHORTEST_RECHECK_SECONDS: Final = 5
LONGEST_RECHECK_SECONDS: Final = 300
"""Bounds of the wait before a refused child is asked for again; it grows with the time since the first refusal."""

_OVER_QUOTA: Final = "exceeded quota:"
"""In the message of the API server's ResourceQuota admission.

https://github.com/kubernetes/kubernetes/blob/v1.36.0/staging/src/k8s.io/apiserver/pkg/admission/plugin/resourcequota/controller.go
"""


def spec_is_invalid(at: Situation) -> Finding | None:
    """The spec asks for what can not be, and nothing was created yet. Jobs that run already are left alone."""
    if at.attempts or (problem := spec_problem(at.job)) is None:
        return None
    return failed(at, Reason.CONFIG_INVALID, problem)


def refused_for_good(at: Situation) -> Finding | None:
    """The API server's validation rejects a child of a first attempt as it was rendered: the spec cannot change.

    A later attempt is rendered as the first one was, which the server took: something in the cluster has changed.
    """
    refusal = at.refusal
    if refusal is None or not refusal.final or any(entry.number > 1 or _failed(entry) for entry in at.attempts):
        return None
    message = f"The API server refuses the {refusal.kind} {refusal.name}: {refusal.message}"
    return failed(at, Reason.CONFIG_INVALID, message)


def _failed(entry: AttemptStatus) -> bool:
    return entry.end_time is not None and not succeeded(entry)


def _reason(refusal: Refusal) -> ConditionReason:
    if refusal.conflict:
        return ConditionReason.NAME_CONFLICT
    return ConditionReason.QUOTA_EXCEEDED if _OVER_QUOTA in refusal.message else ConditionReason.CREATION_REFUSED


def refused(at: Situation) -> Finding | None:
    """A child could not be created: say why, and ask again later."""
    refusal = at.refusal
    if refusal is None:
        return None
    reason = _reason(refusal)
    said = Said(status=ConditionStatus.FALSE, reason=reason, message=refusal.message)
    type_ = ConditionType.RUNNING if at.prepared else ConditionType.PREPARED
    since = next(
        (c.last_transition_time for c in at.job.status.conditions if c.type == type_ and c.reason == reason), ""
    )
    waited = seconds_since(since, at.now) if since else 0
    return Finding(
        phase=at.job.status.phase or Phase.PENDING,
        prepared=prepared(at) if at.prepared else said,
        running=said if at.prepared else not_yet_training(),
        recheck_seconds=min(LONGEST_RECHECK_SECONDS, max(SHORTEST_RECHECK_SECONDS, waited)),
    )
