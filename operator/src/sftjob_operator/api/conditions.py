"""Condition types and reasons, and the function that sets a condition."""

from collections.abc import Iterable
from enum import StrEnum

from sftjob_operator.api.parse import replace
from sftjob_operator.api.v1alpha1.status import Condition


class ConditionType(StrEnum):
    """Condition types of a job. All are present, as Unknown, from the first status on."""

    PREPARED = "Prepared"
    """Model and data were downloaded, checked and tokenized."""
    RUNNING = "Running"
    """A trainer is running."""
    PROGRESS_REPORTING = "ProgressReporting"
    """The running trainer's reports arrive."""
    SUCCEEDED = "Succeeded"
    """How the job ended: Unknown until it does, with the current activity or wait as the reason; then True or False,
    final."""


class ConditionReason(StrEnum):
    """Reasons of conditions. Failures, and Pods that cannot start, use those of `sftjob_contract.reasons`."""

    WAITING = "Waiting"
    """An earlier stage has not completed."""
    PREPARING = "Preparing"
    """The Prepare Pod exists and has not ended."""
    PREPARED = "Prepared"
    """The Prepare Pod succeeded."""
    POD_PENDING = "PodPending"
    """The train Pod exists; its container has not started."""
    QUEUED = "Queued"
    """The train Pod waits for admission, for example by its Kueue queue."""
    TRAINING = "Training"
    """The train Pod's container is running."""
    PUBLISHING = "Publishing"
    """Training is complete, and the Publish Pod exists and has not ended."""
    BACKING_OFF = "BackingOff"
    """The last attempt ended; the next one waits for its backoff."""
    STOPPING = "Stopping"
    """A Pod is terminating."""
    SUSPENDED = "Suspended"
    """spec.suspend is true, and no Pod is running."""
    REPORTING = "Reporting"
    """A report arrived in time."""
    REPORTS_MISSING = "ReportsMissing"
    """No report for too long although the trainer runs."""
    COMPLETED = "Completed"
    """The trainer ended with exit code 0 and its output is complete."""
    FAILED = "Failed"
    """The job failed; condition Succeeded has the reason."""
    RETRIES_EXHAUSTED = "RetriesExhausted"
    """The last attempt within failurePolicy.maxRetries failed too."""
    INTERRUPTIONS_EXHAUSTED = "InterruptionsExhausted"
    """The run was interrupted more often than failurePolicy.maxInterruptions allows."""
    INVALID_SPEC = "InvalidSpec"
    """The stored spec, or a part of the status that decisions need, cannot be read; the job keeps its state."""
    NAME_CONFLICT = "NameConflict"
    """A child of that name exists and belongs to another owner."""
    CREATION_REFUSED = "CreationRefused"
    """The API server currently rejects the creation of a child (a policy, missing rights); the operator retries."""
    QUOTA_EXCEEDED = "QuotaExceeded"
    """The same, because the namespace's quota is exceeded."""
    DELETION_REFUSED = "DeletionRefused"
    """The API server currently rejects the deletion of a child (a policy, missing rights); the operator retries."""
    STATUS_REFUSED = "StatusRefused"
    """The API server rejects the operator's status update (an older CRD, its size, a policy); the operator retries."""
    SERVER_UNAVAILABLE = "ServerUnavailable"
    """The API server, or a webhook that it calls, does not answer; the operator retries."""
    OPERATOR_FAULT = "OperatorFault"
    """An internal error of the operator prevents a decision about the job; its log has the traceback. The operator
    retries."""


def set_condition(conditions: Iterable[Condition], new: Condition, now: str) -> tuple[Condition, ...]:
    """Return `conditions` with `new` in place of the one of its type, or at the end.

    lastTransitionTime becomes `now` (RFC 3339) when status changes; otherwise it stays.
    """
    existing = tuple(conditions)
    before = next((condition for condition in existing if condition.type == new.type), None)
    if before is None:
        return (*existing, replace(new, last_transition_time=now))
    since = before.last_transition_time if before.status == new.status else now
    entry = replace(new, last_transition_time=since)
    return tuple(entry if condition.type == new.type else condition for condition in existing)
