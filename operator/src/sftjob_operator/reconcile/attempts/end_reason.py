"""Why an attempt ended: from its Pods, their termination messages and Kubernetes."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import REASON_BY_EXIT_CODE, Reason
from sftjob_operator.reconcile.attempts.failure_reasons import STOPPED
from sftjob_operator.reconcile.observe.attempt_pods import PodGroup
from sftjob_operator.reconcile.observe.observed import PodView
from sftjob_operator.reconcile.observe.starting import NOT_STARTED

SIGNAL_BASE: Final = 128
"""A shell's and the kubelet's exit code of a process that signal N ended is 128 + N."""
_KILLED: Final = frozenset({None, SIGNAL_BASE + 9, SIGNAL_BASE + 15})
STOPPED_BY_SIGNAL: Final = _KILLED | {ExitCode.RETRY}
"""Exit codes of a trainer that was asked to end: it had not started yet, was killed, or saved a checkpoint."""
_OF_PYTHON: Final = 1
"""Python's own exit code for an error. The trainer never uses it."""
_STACKS: Final = re.compile(r'File "[^"]*", line \d+ in [^"|]+$')
"""End of a log in which Python's faulthandler wrote the stacks; the lines of a traceback have a comma before `in`."""
_OOM_KILLED: Final = "OOMKilled"
_NOT_EXECUTABLE: Final = re.compile(
    r'exec: "[^"]{1,200}": (?:executable file not found|stat [^:]{1,200}: no such file|no such file|permission denied|'
    r"is a directory|exec format error)"
    r"|(?:^|[|] )exec [^|]{1,200}: (?:no such file or directory|permission denied|exec format error)"
    r"|executable file `[^`]{1,200}` not found|error finding executable "
    r"|open executable: permission denied",
    re.IGNORECASE,
)
"""Messages of runc, crun and gVisor for a program that the image does not have, or that cannot be executed."""
_OF_A_HOOK: Final = re.compile("hook|nvidia-container", re.IGNORECASE)
"""The same for a program of the node, such as its GPU runtime."""
CANNOT_EXECUTE: Final = "The program of the container cannot be executed"
_LARGEST_SIGNAL: Final = 64
_CONTAINER_LOST: Final = frozenset({"Unknown", "ContainerStatusUnknown"})
"""Reasons of a container that a kubelet or its runtime no longer found, for example after a reboot of the node. The
exit code beside them (255, 137) is not the container's own.

https://github.com/containerd/containerd/blob/v2.0.0/internal/cri/server/container_status.go (Unknown)
https://github.com/kubernetes/kubernetes/blob/v1.36.0/pkg/kubelet/container/runtime.go (ContainerStatusUnknown)
"""
_LOST_CODE: Final = 255
_BY_DISRUPTION: Final[Mapping[str, Reason]] = {
    "PreemptionByScheduler": Reason.PREEMPTED,
    "EvictionByEvictionAPI": Reason.EVICTED,
    "DeletionByTaintManager": Reason.NODE_LOST,
    "DeletionByPodGC": Reason.NODE_LOST,
}
"""Reasons of condition DisruptionTarget; the kubelet's reason adds nothing to the Pod's own.

https://kubernetes.io/docs/concepts/workloads/pods/disruptions/#pod-disruption-conditions
"""
_BY_POD_REASON: Final[Mapping[str, Reason]] = {
    "Evicted": Reason.EVICTED,
    "Preempting": Reason.PREEMPTED,
    "NodeLost": Reason.NODE_LOST,
    "NodeShutdown": Reason.NODE_LOST,
    "Shutdown": Reason.NODE_LOST,
    "Terminated": Reason.NODE_LOST,
    "NodeNotReady": Reason.NODE_LOST,
    "NodeAffinity": Reason.NODE_LOST,
    "UnexpectedAdmissionError": Reason.NODE_LOST,
}
"""status.reason of Pods that a kubelet ended or, after a restart, did not admit again. NodeShutdown, Shutdown and
Terminated all mean its shutdown, by version."""
_NO_ROOM_PREFIX: Final = "OutOf"
"""Prefix of the reason of a Pod that a kubelet did not admit for lack of a resource: OutOfcpu, OutOfnvidia.com/gpu."""
_LEFT_BY_NODE: Final = frozenset({"NodeLost", "NodeShutdown", "Shutdown", "Terminated", "NodeNotReady"})
_IN_SENTENCE: Final = frozenset({"Evicted", "Preempting", "NodeLost", "Error", "Completed"})
"""Reasons that add nothing to the message."""
_BY_KUBELET: Final = "TerminationByKubelet"
DISRUPTIONS: Final = frozenset({Reason.PREEMPTED, Reason.EVICTED, Reason.NODE_LOST})


@dataclass(frozen=True, kw_only=True, slots=True)
class EndReason:
    """Reason and message."""

    reason: str
    message: str


def end_reason(group: PodGroup, pod: PodView, operator_reason: EndReason | None) -> EndReason:
    """Return why an attempt ended; `pod` caused it. `operator_reason`: why the operator was ending it."""
    own = _from_trainer(pod)
    if operator_reason is not None and _ended_as_intended(operator_reason.reason, pod):
        return EndReason(
            reason=operator_reason.reason,
            message=own.message if operator_reason.reason in STOPPED else operator_reason.message,
        )
    if (cause := _cause(group, pod)) is not None:
        trainer_message = f" {pod.outcome.message}" if pod.outcome is not None and pod.outcome.message else ""
        return EndReason(reason=cause.reason, message=f"{cause.message}{trainer_message}")
    return own


def disruption(pod: PodView) -> EndReason | None:
    """Return Kubernetes' reason for evicting a Pod; None if it has none."""
    reason = _BY_DISRUPTION.get(pod.disruption or "") or _by_pod_reason(pod)
    if reason is None and pod.disruption == _BY_KUBELET:
        reason = Reason.EVICTED
    if reason is None:
        return None
    text = pod.disruption_message or pod.message or (pod.last_lines if pod.reason in _CONTAINER_LOST else None)
    named = [] if pod.reason is None or pod.reason in _IN_SENTENCE else [pod.reason]
    details = ": ".join([*named, *([text.rstrip(".")] if text else [])])
    why = f": {details}." if details else "."
    node = f" on node {pod.node}" if pod.node is not None else ""
    happened = {
        Reason.PREEMPTED: f"Pod {pod.name}{node} was preempted by a Pod of higher priority",
        Reason.EVICTED: f"Pod {pod.name}{node} was evicted",
        Reason.NODE_LOST: _node_lost(pod),
    }
    return EndReason(reason=reason, message=f"{happened[reason]}{why}")


def _by_pod_reason(pod: PodView) -> Reason | None:
    """Return what the reason of a Pod, or else of its container, shows about an interruption."""
    word = pod.reason or ""
    if word in _CONTAINER_LOST or word.startswith(_NO_ROOM_PREFIX):
        return Reason.NODE_LOST
    return _BY_POD_REASON.get(word)


def _node_lost(pod: PodView) -> str:
    node = "its node" if pod.node is None else f"node {pod.node}"
    if pod.reason in _CONTAINER_LOST:
        return f"The container of Pod {pod.name} disappeared from {node}, as after a reboot"
    if pod.exit_code is None and (pod.reason or "") not in _LEFT_BY_NODE and pod.disruption is None:
        return f"Pod {pod.name} was not admitted by {node}"
    return f"Pod {pod.name} lost {node if pod.node is None else f'its {node}'}"


def lost(pod: str, operator_reason: EndReason | None) -> EndReason:
    """Return why an attempt ended if one of its Pods disappeared without a termination message."""
    if operator_reason is None:
        message = (
            f"Pod {pod} disappeared without a termination message: it was deleted or evicted, or its node is gone."
        )
        return EndReason(reason=Reason.POD_LOST, message=message)
    if operator_reason.reason in STOPPED:
        return EndReason(reason=operator_reason.reason, message=f"Pod {pod} was deleted without a termination message.")
    return EndReason(
        reason=operator_reason.reason,
        message=operator_reason.message or f"Pod {pod} disappeared without a termination message.",
    )


def _ended_as_intended(reason: str, pod: PodView) -> bool:
    """Whether a Pod ended as one does that the operator ended for `reason`."""
    if pod.reason == _OOM_KILLED:
        return False
    if reason in STOPPED:
        return pod.exit_code in STOPPED_BY_SIGNAL
    if reason == Reason.HUNG:  # one that can still save a checkpoint was not hung
        return pod.exit_code in _KILLED
    return reason not in DISRUPTIONS and pod.exit_code in _KILLED and pod.started is None


def _cause(group: PodGroup, culprit: PodView) -> EndReason | None:
    """Return what evicted a Pod of the attempt. A trainer that only lost its peer reports just InternalError."""
    if culprit.reason == _OOM_KILLED:
        return None
    taken = culprit.exit_code in STOPPED_BY_SIGNAL | {_LOST_CODE} or culprit.reason in _CONTAINER_LOST
    if taken and (own := disruption(culprit)) is not None:
        return own
    if culprit.exit_code not in STOPPED_BY_SIGNAL | {ExitCode.INTERNAL}:
        return None
    others = (disruption(pod) for pod in group.members if pod is not culprit)
    return next((found for found in others if found is not None), None)


def _from_trainer(pod: PodView) -> EndReason:
    """Return the trainer's own reason and message if it left some, else what its Pod's status shows."""
    by_pod, outcome = _from_pod_status(pod), pod.outcome
    if outcome is None:
        return by_pod
    return EndReason(reason=outcome.reason or by_pod.reason, message=outcome.message or by_pod.message)


def _from_pod_status(pod: PodView) -> EndReason:
    code = pod.exit_code
    if code is None:
        why = f"{pod.reason or 'no reason given'}: {pod.message or 'no message given'}"
        if pod.problem is not None:
            why = pod.problem.message
        return EndReason(reason=Reason.POD_LOST, message=f"Pod {pod.name} ended before its container did ({why}).")
    if pod.reason == _OOM_KILLED:
        message = _with_log("The kernel killed the trainer: it exceeded its memory limit.", pod)
        return EndReason(reason=Reason.HOST_OUT_OF_MEMORY, message=message)
    if (unable := _from_exec_error(pod)) is not None:
        return unable
    if code in _KILLED and pod.deleting:
        message = f"Pod {pod.name} was deleted, and signal {code - SIGNAL_BASE} ended it before it saved a checkpoint."
        return EndReason(reason=Reason.POD_LOST, message=message)
    if SIGNAL_BASE < code <= SIGNAL_BASE + _LARGEST_SIGNAL:
        return EndReason(
            reason=Reason.KILLED, message=_with_log(f"Signal {code - SIGNAL_BASE} ended the trainer.", pod)
        )
    return _by_exit_code(code, pod)


def _from_exec_error(pod: PodView) -> EndReason | None:
    """Return a verdict if the container's program was never executed, or cannot be."""
    if (text := _exec_error(pod)) is not None:
        return EndReason(reason=Reason.CONFIG_INVALID, message=f"{CANNOT_EXECUTE}: {text}")
    if pod.reason not in NOT_STARTED:
        return None
    text = pod.last_lines or pod.message or "no message given"
    return EndReason(reason=Reason.INTERNAL_ERROR, message=f"The container could not be started: {text}")


def _exec_error(pod: PodView) -> str | None:
    """Return the container runtime's message about a program that the image lacks, or that cannot be executed."""
    text = pod.last_lines or pod.message or ""
    found = _NOT_EXECUTABLE.search(text)
    started = pod.started is not None and pod.reason not in NOT_STARTED
    if found is None or _OF_A_HOOK.search(text) or (started and not text.startswith("exec ")):
        return None
    return text


def _by_exit_code(code: int, pod: PodView) -> EndReason:
    """Return what is known of a trainer that ended by itself and left no outcome."""
    if code == _OF_PYTHON and _STACKS.search(pod.last_lines or ""):
        message = "Training hung, and none of the trainer's threads could run to report it."
        return EndReason(reason=Reason.HUNG, message=message)
    reason = REASON_BY_EXIT_CODE[ExitCode(code)] if code in REASON_BY_EXIT_CODE else Reason.INTERNAL_ERROR
    message = f"The trainer ended with exit code {code} and no message."
    return EndReason(reason=reason, message=_with_log(message, pod))


def _with_log(message: str, pod: PodView) -> str:
    return message if pod.last_lines is None else f"{message} Its log ends with: {pod.last_lines}"
