"""The policy for each reason: whether another attempt can help, and what to change. docs/failures.md shows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from sftjob_contract.names import Stage
from sftjob_contract.reasons import REASON_BY_EXIT_CODE, Reason
from sftjob_operator.api import AttemptStatus, ConditionReason


class Retry(StrEnum):
    """Whether another attempt follows one that ended for a reason."""

    NEVER = "never"
    """Another attempt would fail the same way."""
    ADJUSTED = "adjusted"
    """With gradient checkpointing, then with a smaller micro-batch, down to 1. Uses no budget."""
    COUNTED = "counted"
    """Uses one of failurePolicy.maxRetries."""
    FREE = "free"
    """Uses one of failurePolicy.maxInterruptions: the run itself did not fail."""
    WAITS = "waits"
    """The attempt has not ended: its Pod stays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class RetryPolicy:
    """How a reason is detected, what follows, and what the user can change; `hint` is whole sentences."""

    detected_by: str
    retry: Retry
    hint: str


_AGAIN: Final = "A finished SFTJob cannot be restarted: create a new one."
POLICIES: Final[Mapping[Reason, RetryPolicy]] = {
    Reason.DATA_INVALID: RetryPolicy(
        detected_by="exit code 65, termination message",
        retry=Retry.NEVER,
        hint=f"Correct the data. {_AGAIN}",
    ),
    Reason.CONFIG_INVALID: RetryPolicy(
        detected_by=(
            "exit code 65, termination message; CreateContainerConfigError for 15 minutes before anything of the job "
            "has run; a program that the image does not have; rejection by the API server"
        ),
        retry=Retry.NEVER,
        hint=f"Correct the named field or file. {_AGAIN}",
    ),
    Reason.MODEL_NOT_FOUND: RetryPolicy(
        detected_by="exit code 66, termination message", retry=Retry.NEVER, hint=f"Correct spec.model. {_AGAIN}"
    ),
    Reason.DATASET_NOT_FOUND: RetryPolicy(
        detected_by="exit code 66, termination message", retry=Retry.NEVER, hint=f"Correct spec.dataset. {_AGAIN}"
    ),
    Reason.ACCESS_DENIED: RetryPolicy(
        detected_by="exit code 66, termination message",
        retry=Retry.NEVER,
        hint=f"Grant the token or key that the spec names, or the Pod's user, read (or write) access. {_AGAIN}",
    ),
    Reason.UNREACHABLE: RetryPolicy(
        detected_by="exit code 70, termination message",
        retry=Retry.COUNTED,
        hint=(
            "Make the address reachable from the Pods: check NetworkPolicies for egress, DNS, HTTPS_PROXY and NO_PROXY "
            "in spec.env, and the certificates that the image trusts. failurePolicy.maxRetries and backoffSeconds "
            "limit how long an outage may last."
        ),
    ),
    Reason.GPU_OUT_OF_MEMORY: RetryPolicy(
        detected_by="exit code 76",
        retry=Retry.ADJUSTED,
        hint=(
            "Lower training.maxLength, remove training.gradientCheckpointing: false, write method.lora or "
            "method.quantization, or request GPUs with more memory."
        ),
    ),
    Reason.GPU_UNAVAILABLE: RetryPolicy(
        detected_by="exit code 70, termination message",
        retry=Retry.FREE,
        hint=(
            "Check the node's GPU driver and device plugin (kubectl describe node), or write resources.gpus: 0 to "
            "train on the CPU."
        ),
    ),
    Reason.HOST_OUT_OF_MEMORY: RetryPolicy(
        detected_by="container reason OOMKilled, or termination message",
        retry=Retry.COUNTED,
        hint="Raise spec.resources.memory.",
    ),
    Reason.DISK_FULL: RetryPolicy(
        detected_by="exit code 70, termination message",
        retry=Retry.NEVER,
        hint=(
            "Create a new SFTJob with a larger storage.size or a smaller checkpoints.keep; with checkpoints.resumeFrom "
            "it starts from this job's weights."
        ),
    ),
    Reason.DIVERGED: RetryPolicy(
        detected_by="exit code 77",
        retry=Retry.NEVER,
        hint="Lower training.learningRate, add warmup, and keep training.maxGradNorm: 1.0.",
    ),
    Reason.HUNG: RetryPolicy(
        detected_by=(
            "exit code 70, termination message; exit code 1 and stack traces at the log's end; heartbeat: no report "
            "for an hour after earlier reports"
        ),
        retry=Retry.COUNTED,
        hint="The log has the stack traces of all processes.",
    ),
    Reason.INTERRUPTED: RetryPolicy(
        detected_by="exit code 75", retry=Retry.FREE, hint="No change is needed: a checkpoint was saved."
    ),
    Reason.KILLED: RetryPolicy(
        detected_by="exit code 128 + N",
        retry=Retry.COUNTED,
        hint="Check the node's log for the sender of the signal.",
    ),
    Reason.POD_LOST: RetryPolicy(
        detected_by="the Pod disappeared, or was deleted and did not end in time",
        retry=Retry.FREE,
        hint="Check who deleted the Pod.",
    ),
    Reason.NODE_LOST: RetryPolicy(
        detected_by=(
            "condition DisruptionTarget (DeletionByTaintManager, DeletionByPodGC); Pod reason NodeLost, Shutdown, "
            "Terminated, UnexpectedAdmissionError, OutOfcpu, ...; container reason Unknown, ContainerStatusUnknown"
        ),
        retry=Retry.FREE,
        hint="Check the node: kubectl describe node.",
    ),
    Reason.PREEMPTED: RetryPolicy(
        detected_by="condition DisruptionTarget (PreemptionByScheduler); Pod reason Preempting",
        retry=Retry.FREE,
        hint="Set a scheduling.priorityClassName with a higher priority.",
    ),
    Reason.EVICTED: RetryPolicy(
        detected_by="condition DisruptionTarget (EvictionByEvictionAPI, TerminationByKubelet); Pod reason Evicted",
        retry=Retry.FREE,
        hint="If the node ran out of a resource, request it in spec.resources (memory, ephemeralStorage).",
    ),
    Reason.IMAGE_PULL_FAILED: RetryPolicy(
        detected_by=(
            "waiting reason ErrImagePull, ImagePullBackOff, InvalidImageName, ... for 15 minutes without a gap; an "
            "interruption if anything of the job has run"
        ),
        retry=Retry.NEVER,
        hint="Correct spec.image, or name the registry's Secret in spec.imagePullSecrets, and create a new SFTJob.",
    ),
    Reason.UNSCHEDULABLE: RetryPolicy(
        detected_by="condition PodScheduled is False",
        retry=Retry.WAITS,
        hint="Request less in spec.resources, or check spec.scheduling; spec.deadlineSeconds limits the wait.",
    ),
    Reason.DEADLINE_EXCEEDED: RetryPolicy(
        detected_by="the clock",
        retry=Retry.NEVER,
        hint="Create a new SFTJob with a larger deadlineSeconds and checkpoints.resumeFrom.",
    ),
    Reason.INTERNAL_ERROR: RetryPolicy(
        detected_by="exit code 70, or an unknown one",
        retry=Retry.COUNTED,
        hint="If it recurs, report it with the log and the job's YAML.",
    ),
}
STOPPED: Final = frozenset({ConditionReason.SUSPENDED, Reason.DEADLINE_EXCEEDED})
"""Reasons of attempts that ended because their job may not run now: no failures, and no backoff follows."""


def policy_of(attempt: AttemptStatus) -> RetryPolicy:
    """Return the policy for an attempt's end: by its reason, or by its exit code if the reason is unknown."""
    known = {str(reason): reason for reason in Reason}
    by_code = (reason for code, reason in REASON_BY_EXIT_CODE.items() if code == attempt.exit_code)
    return POLICIES[known.get(attempt.reason or "", next(by_code, Reason.INTERNAL_ERROR))]


def retry_of(attempt: AttemptStatus) -> Retry:
    """Whether another attempt follows one that failed. Prepare has no micro-batch to reduce."""
    retry = policy_of(attempt).retry
    return Retry.NEVER if retry is Retry.ADJUSTED and attempt.stage is not Stage.TRAIN else retry
