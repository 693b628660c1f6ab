"""Why an attempt or a job ended: one word for conditions, attempts, events and docs."""

from enum import StrEnum

from sftjob_contract.exit_codes import ExitCode


class Reason(StrEnum):
    """The failure taxonomy. A reason is CamelCase, as Kubernetes conditions ask."""

    DATA_INVALID = "DataInvalid"
    """A row, file or column of the data set can not be used as asked."""
    CONFIG_INVALID = "ConfigInvalid"
    """The spec asks for something that this trainer, model or machine can not do."""
    MODEL_NOT_FOUND = "ModelNotFound"
    DATASET_NOT_FOUND = "DatasetNotFound"
    ACCESS_DENIED = "AccessDenied"
    """A hub, a gated repository, an object store or the mode of a file refused us."""
    UNREACHABLE = "Unreachable"
    """A hub, object store or web server did not answer: no name, no connection, no trusted certificate, HTTP 5xx."""
    GPU_OUT_OF_MEMORY = "GpuOutOfMemory"
    GPU_UNAVAILABLE = "GpuUnavailable"
    """The container sees fewer CUDA devices than it asked for: the node's driver or device plugin is broken."""
    HOST_OUT_OF_MEMORY = "HostOutOfMemory"
    """The kernel killed the container for its memory limit (OOMKilled)."""
    DISK_FULL = "DiskFull"
    """The volume or the node's disk has no room for what the stage had to write."""
    DIVERGED = "Diverged"
    """Loss or gradient became NaN or infinite."""
    HUNG = "Hung"
    """No step ended within many times what steps took, or nothing was reported for as long."""
    INTERRUPTED = "Interrupted"
    """The trainer was asked to stop and saved a checkpoint first."""
    KILLED = "Killed"
    """The container ended by a signal that nobody of ours sent."""
    POD_LOST = "PodLost"
    """The Pod is gone without a verdict: somebody deleted it."""
    NODE_LOST = "NodeLost"
    """The Pod's node is gone, was restarted, does not answer, or did not admit the Pod."""
    PREEMPTED = "Preempted"
    """The scheduler took the place for a Pod of higher priority."""
    EVICTED = "Evicted"
    """The node was drained, or the kubelet needed what the Pod used."""
    IMAGE_PULL_FAILED = "ImagePullFailed"
    UNSCHEDULABLE = "Unschedulable"
    """No node has what the Pod asks for."""
    DEADLINE_EXCEEDED = "DeadlineExceeded"
    """The job had not ended spec.deadlineSeconds after its creation."""
    INTERNAL_ERROR = "InternalError"


REASON_BY_EXIT_CODE = {
    ExitCode.INVALID: Reason.CONFIG_INVALID,
    ExitCode.NOT_FOUND: Reason.MODEL_NOT_FOUND,
    ExitCode.INTERNAL: Reason.INTERNAL_ERROR,
    ExitCode.RETRY: Reason.INTERRUPTED,
    ExitCode.GPU_OUT_OF_MEMORY: Reason.GPU_OUT_OF_MEMORY,
    ExitCode.DIVERGED: Reason.DIVERGED,
}
"""The reason of an exit code whose termination message is missing or unreadable."""
