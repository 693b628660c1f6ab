"""What follows from each reason: whether another attempt can help, and what to change. docs/failures.md shows it."""

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
    """Nothing would be different."""
    ADJUSTED = "adjusted"
    """With gradient checkpointing, then with a smaller micro-batch, until it is 1. Costs nothing."""
    COUNTED = "counted"
    """It costs one of failurePolicy.maxRetries."""
    FREE = "free"
    """It costs one of failurePolicy.maxInterruptions: nothing was wrong with the run."""
    WAITS = "waits"
    """Nothing has ended: the Pod stays."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Policy:
    """What a reason is known by, what follows, and what its user can change; `hint` is whole sentences."""

    told_by: str
    retry: Retry
    hint: str


_AGAIN: Final = "A finished job never runs again: create it anew."
POLICIES: Final[Mapping[Reason, Policy]] = {
    Reason.DATA_INVALID: Policy(
        told_by="exit code 65, termination message",
        retry=Retry.NEVER,
        hint=f"Correct the data. {_AGAIN}",
    ),
    Reason.CONFIG_INVALID: Policy(
        told_by=(
            "exit code 65, termination message; CreateContainerConfigError for a quarter of an hour before anything of "
            "the job has run; a program that the image does not have; refusal by the API server"
        ),
        retry=Retry.NEVER,
        hint=f"Correct what is named. {_AGAIN}",
    ),
    Reason.MODEL_NOT_FOUND: Policy(
        told_by="exit code 66, termination message", retry=Retry.NEVER, hint=f"Correct spec.model. {_AGAIN}"
    ),
    Reason.DATASET_NOT_FOUND: Policy(
        told_by="exit code 66, termination message", retry=Retry.NEVER, hint=f"Correct spec.dataset. {_AGAIN}"
    ),
    Reason.ACCESS_DENIED: Policy(
        told_by="exit code 66, termination message",
        retry=Retry.NEVER,
        hint=f"Let the token or key that the spec names, or the Pod's user, read (or write) there. {_AGAIN}",
    ),
    Reason.UNREACHABLE: Policy(
        told_by="exit code 70, termination message",
        retry=Retry.COUNTED,
        hint=(
            "Let the Pods reach the address: check NetworkPolicies for egress, DNS, HTTPS_PROXY and NO_PROXY in "
            "spec.env, and the certificates that the image trusts. failurePolicy.maxRetries and backoffSeconds bound "
            "how long an outage may last."
        ),
    ),
    Reason.GPU_OUT_OF_MEMORY: Policy(
        told_by="exit code 76",
        retry=Retry.ADJUSTED,
        hint=(
            "Lower training.maxLength, remove training.gradientCheckpointing: false, write method.lora or "
            "method.quantization, or ask for GPUs with more memory."
        ),
    ),
    Reason.GPU_UNAVAILABLE: Policy(
        told_by="exit code 70, termination message",
        retry=Retry.FREE,
        hint=(
            "Check the node's GPU driver and device plugin (kubectl describe node), or write resources.gpus: 0 to "
            "train on the CPU."
        ),
    ),
    Reason.HOST_OUT_OF_MEMORY: Policy(
        told_by="container reason OOMKilled, or termination message",
        retry=Retry.COUNTED,
        hint="Raise spec.resources.memory.",
    ),
    Reason.DISK_FULL: Policy(
        told_by="exit code 70, termination message",
        retry=Retry.NEVER,
        hint=(
            "Create the job again with a larger storage.size or a smaller checkpoints.keep; checkpoints.resumeFrom "
            "takes the weights of this one."
        ),
    ),
    Reason.DIVERGED: Policy(
        told_by="exit code 77",
        retry=Retry.NEVER,
        hint="Lower training.learningRate, add warmup, and keep training.maxGradNorm: 1.0.",
    ),
    Reason.HUNG: Policy(
        told_by=(
            "exit code 70, termination message; exit code 1 and stacks at the log's end; heartbeat: reports that "
            "arrived and then did not for an hour"
        ),
        retry=Retry.COUNTED,
        hint="The log has the stacks of all processes.",
    ),
    Reason.INTERRUPTED: Policy(
        told_by="exit code 75", retry=Retry.FREE, hint="Nothing has to be changed: a checkpoint was saved."
    ),
    Reason.KILLED: Policy(
        told_by="exit code 128 + N",
        retry=Retry.COUNTED,
        hint="Look at the node's own log for who sent the signal.",
    ),
    Reason.POD_LOST: Policy(
        told_by="the Pod is gone, or was deleted and did not end in time", retry=Retry.FREE, hint="See who deleted it."
    ),
    Reason.NODE_LOST: Policy(
        told_by=(
            "condition DisruptionTarget (DeletionByTaintManager, DeletionByPodGC); Pod reason NodeLost, Shutdown, "
            "Terminated, UnexpectedAdmissionError, OutOfcpu, ...; container reason Unknown, ContainerStatusUnknown"
        ),
        retry=Retry.FREE,
        hint="Look at the node: kubectl describe node.",
    ),
    Reason.PREEMPTED: Policy(
        told_by="condition DisruptionTarget (PreemptionByScheduler); Pod reason Preempting",
        retry=Retry.FREE,
        hint="A higher scheduling.priorityClassName keeps the place.",
    ),
    Reason.EVICTED: Policy(
        told_by="condition DisruptionTarget (EvictionByEvictionAPI, TerminationByKubelet); Pod reason Evicted",
        retry=Retry.FREE,
        hint="If the node ran short of something, ask for it in spec.resources (memory, ephemeralStorage).",
    ),
    Reason.IMAGE_PULL_FAILED: Policy(
        told_by=(
            "waiting reason ErrImagePull, ImagePullBackOff, InvalidImageName, ... for a quarter of an hour without a "
            "gap; an interruption if anything of the job has run"
        ),
        retry=Retry.NEVER,
        hint="Correct spec.image, or name the registry's Secret in spec.imagePullSecrets, and create the job anew.",
    ),
    Reason.UNSCHEDULABLE: Policy(
        told_by="condition PodScheduled is False",
        retry=Retry.WAITS,
        hint="Ask for less in spec.resources, or look at spec.scheduling; spec.deadlineSeconds bounds the wait.",
    ),
    Reason.DEADLINE_EXCEEDED: Policy(
        told_by="the clock",
        retry=Retry.NEVER,
        hint="Create the job again with a longer deadlineSeconds and checkpoints.resumeFrom.",
    ),
    Reason.INTERNAL_ERROR: Policy(
        told_by="exit code 70, or one of no known meaning",
        retry=Retry.COUNTED,
        hint="If it stays, report it with the log and the job's YAML.",
    ),
}
STOPPED: Final = frozenset({ConditionReason.SUSPENDED, Reason.DEADLINE_EXCEEDED})
"""Reasons of attempts that ended since their job may not run now: no failures, and nothing waits after them."""


def policy_of(attempt: AttemptStatus) -> Policy:
    """The policy for how an attempt ended: by its reason, by its exit code where the reason is none of ours."""
    known = {str(reason): reason for reason in Reason}
    by_code = (reason for code, reason in REASON_BY_EXIT_CODE.items() if code == attempt.exit_code)
    return POLICIES[known.get(attempt.reason or "", next(by_code, Reason.INTERNAL_ERROR))]


def retry_of(attempt: AttemptStatus) -> Retry:
    """Whether another attempt follows one that ended without success. Prepare has no micro-batch to make smaller."""
    retry = policy_of(attempt).retry
    return Retry.NEVER if retry is Retry.ADJUSTED and attempt.stage is not Stage.TRAIN else retry
