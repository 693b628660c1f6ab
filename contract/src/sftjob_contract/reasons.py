"""Why an attempt or a job ended: one word for conditions, attempts, events and docs."""

from enum import StrEnum

from sftjob_contract.exit_codes import ExitCode


class Reason(StrEnum):
    """The failure taxonomy. Reasons are CamelCase, as Kubernetes conditions require."""

    DATA_INVALID = "DataInvalid"
    """A row, file or column of the dataset cannot be used as configured."""
    CONFIG_INVALID = "ConfigInvalid"
    """The spec requires something that this trainer, model or machine does not support."""
    MODEL_NOT_FOUND = "ModelNotFound"
    DATASET_NOT_FOUND = "DatasetNotFound"
    ACCESS_DENIED = "AccessDenied"
    """A hub, a gated repository, an object store or file permissions denied access."""
    UNREACHABLE = "Unreachable"
    """A hub, object store or web server did not answer: no name, no connection, no trusted certificate, HTTP 5xx."""
    GPU_OUT_OF_MEMORY = "GpuOutOfMemory"
    GPU_UNAVAILABLE = "GpuUnavailable"
    """The container sees fewer CUDA devices than it requested: the node's driver or device plugin is broken."""
    HOST_OUT_OF_MEMORY = "HostOutOfMemory"
    """The kernel killed the container at its memory limit (OOMKilled)."""
    DISK_FULL = "DiskFull"
    """The volume or the node's disk is full."""
    DIVERGED = "Diverged"
    """Loss or gradient became NaN or infinite."""
    HUNG = "Hung"
    """A step took many times longer than earlier steps, or no report arrived for as long."""
    INTERRUPTED = "Interrupted"
    """The trainer was asked to stop and saved a checkpoint first."""
    KILLED = "Killed"
    """A signal that neither operator nor trainer sent ended the container."""
    POD_LOST = "PodLost"
    """The Pod disappeared without a verdict: it was deleted."""
    NODE_LOST = "NodeLost"
    """The Pod's node is missing, was restarted, does not respond, or did not admit the Pod."""
    PREEMPTED = "Preempted"
    """The scheduler preempted the Pod for one of higher priority."""
    EVICTED = "Evicted"
    """The node was drained, or the kubelet evicted the Pod for its resources."""
    IMAGE_PULL_FAILED = "ImagePullFailed"
    UNSCHEDULABLE = "Unschedulable"
    """No node satisfies the Pod's requests."""
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    """The job did not end within spec.deadlineSeconds of its creation."""
    INTERNAL_ERROR = "InternalError"


REASON_BY_EXIT_CODE = {
    ExitCode.INVALID: Reason.CONFIG_INVALID,
    ExitCode.NOT_FOUND: Reason.MODEL_NOT_FOUND,
    ExitCode.INTERNAL: Reason.INTERNAL_ERROR,
    ExitCode.RETRY: Reason.INTERRUPTED,
    ExitCode.GPU_OUT_OF_MEMORY: Reason.GPU_OUT_OF_MEMORY,
    ExitCode.DIVERGED: Reason.DIVERGED,
}
"""The reason for an exit code whose termination message is missing or unreadable."""
