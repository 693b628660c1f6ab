"""Condition types and reasons, and the one way to set a condition."""

from collections.abc import Iterable
from enum import StrEnum

from sftjob_operator.api.parse import replace
from sftjob_operator.api.status import Condition


class ConditionType(StrEnum):
    """The truths about a job. All are present, as Unknown, from the first status on."""

    PREPARED = "Prepared"
    """Model and data were fetched, checked and tokenized."""
    RUNNING = "Running"
    """A trainer is running at this moment."""
    PROGRESS_REPORTING = "ProgressReporting"
    """The running trainer's reports arrive."""
    SUCCEEDED = "Succeeded"
    """How the job ended: Unknown until it does, with what it does or waits for as the reason; then True or False for
    good."""


class ConditionReason(StrEnum):
    """Why a condition is as it is. Failures, and Pods that can not start, carry those of `sftjob_contract.reasons`."""

    WAITING = "Waiting"
    """Its turn has not come."""
    PREPARING = "Preparing"
    """The Prepare Pod exists and has not ended."""
    PREPARED = "Prepared"
    """The Prepare Pod ended well."""
    POD_PENDING = "PodPending"
    """The train Pod exists; its container has not started."""
    QUEUED = "Queued"
    """The train Pod waits for admission, such as by its Kueue queue."""
    TRAINING = "Training"
    """The train Pod's container runs."""
    PUBLISHING = "Publishing"
    """Training is complete, and the Publish Pod exists and has not ended."""
    BACKING_OFF = "BackingOff"
    """The last attempt ended; the next one waits."""
    STOPPING = "Stopping"
    """A Pod was asked to end, and has not yet."""
    SUSPENDED = "Suspended"
    """spec.suspend is true, and no Pod is left running."""
    REPORTING = "Reporting"
    """A report arrived in time."""
    REPORTS_MISSING = "ReportsMissing"
    """No report for too long while the trainer runs."""
    COMPLETED = "Completed"
    """The trainer ended with exit code 0 and its output is in place."""
    FAILED = "Failed"
    """The job failed; condition Succeeded says why."""
    RETRIES_EXHAUSTED = "RetriesExhausted"
    """The last attempt that failurePolicy.maxRetries allows failed too."""
    INTERRUPTIONS_EXHAUSTED = "InterruptionsExhausted"
    """The run was interrupted more often than failurePolicy.maxInterruptions allows."""
    INVALID_SPEC = "InvalidSpec"
    """The stored spec, or a part of the status that decisions need, cannot be read; the job keeps its state."""
    NAME_CONFLICT = "NameConflict"
    """A child of that name exists and belongs to something else."""
    CREATION_REFUSED = "CreationRefused"
    """The API server does not let the operator create a child now (a policy, missing rights); it asks again."""
    QUOTA_EXCEEDED = "QuotaExceeded"
    """The same for lack of quota in the namespace."""
    DELETION_REFUSED = "DeletionRefused"
    """The API server does not let the operator delete a child now (a policy, missing rights); it asks again."""
    STATUS_REFUSED = "StatusRefused"
    """The API server does not take the status that the operator writes (an older CRD, its size, a policy); it asks
    again."""
    SERVER_UNAVAILABLE = "ServerUnavailable"
    """The API server, or a webhook that it asks, does not answer; the operator asks again."""
    OPERATOR_FAULT = "OperatorFault"
    """A fault of the operator keeps it from deciding about the job; its log has the traceback. It tries again."""


def set_condition(conditions: Iterable[Condition], new: Condition, now: str) -> tuple[Condition, ...]:
    """`conditions` with `new` in place of the one of its type, or at the end.

    `now` (RFC 3339) becomes lastTransitionTime when status changes; otherwise the earlier time stays.
    """
    existing = tuple(conditions)
    before = next((condition for condition in existing if condition.type == new.type), None)
    if before is None:
        return (*existing, replace(new, last_transition_time=now))
    since = before.last_transition_time if before.status == new.status else now
    entry = replace(new, last_transition_time=since)
    return tuple(entry if condition.type == new.type else condition for condition in existing)
