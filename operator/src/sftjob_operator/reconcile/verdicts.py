"""Why an attempt ended: from what its Pods, their last words and Kubernetes say of it."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import REASON_BY_EXIT_CODE, Reason
from sftjob_operator.reconcile.groups import Group
from sftjob_operator.reconcile.observed import PodView
from sftjob_operator.reconcile.policy import STOPPED
from sftjob_operator.reconcile.starting import NOT_STARTED

SIGNAL_BASE: Final = 128
"""A shell's and the kubelet's exit code of a process that signal N ended is 128 + N."""
_KILLED: Final = frozenset({None, SIGNAL_BASE + 9, SIGNAL_BASE + 15})
STOPPED_BY_SIGNAL: Final = _KILLED | {ExitCode.RETRY}
"""Exit codes of a trainer that was asked to end: it was not there yet, was killed, or saved a checkpoint."""
_OF_PYTHON: Final = 1
"""What Python itself ends with. The trainer means nothing by it."""
_STACKS: Final = re.compile(r'File "[^"]*", line \d+ in [^"|]+$')
"""How a log ends that Python's faulthandler wrote the stacks to; the lines of a traceback have a comma before `in`."""
_OOM_KILLED: Final = "OOMKilled"
_NOT_EXECUTABLE: Final = re.compile(
    r'exec: "[^"]{1,200}": (?:executable file not found|stat [^:]{1,200}: no such file|no such file|permission denied|'
    r"is a directory|exec format error)"
    r"|(?:^|[|] )exec [^|]{1,200}: (?:no such file or directory|permission denied|exec format error)"
    r"|executable file `[^`]{1,200}` not found|error finding executable "
    r"|open executable: permission denied",
    re.IGNORECASE,
)
"""How runc, crun and gVisor say that the image has no such program, or one that cannot be executed."""
_OF_A_HOOK: Final = re.compile("hook|nvidia-container", re.IGNORECASE)
"""The same about a program of the node, such as its GPU runtime."""
CANNOT_EXECUTE: Final = "The program of the container cannot be executed"
_LARGEST_SIGNAL: Final = 64
_CONTAINER_LOST: Final = frozenset({"Unknown", "ContainerStatusUnknown"})
"""Reasons of a container that a kubelet or its runtime no longer found, such as after a reboot of the node. The exit
code beside them (255, 137) is no container's own.

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
"""Reasons of condition DisruptionTarget; the kubelet's one says no more than the Pod's own reason.

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
Terminated are all its shutdown, by version."""
_NO_ROOM_PREFIX: Final = "OutOf"
"""Begins the reason of a Pod that a kubelet did not admit for lack of a resource: OutOfcpu, OutOfnvidia.com/gpu."""
_LEFT_BY_NODE: Final = frozenset({"NodeLost", "NodeShutdown", "Shutdown", "Terminated", "NodeNotReady"})
_SAID_BY_SENTENCE: Final = frozenset({"Evicted", "Preempting", "NodeLost", "Error", "Completed"})
"""Reasons that add nothing to the sentence about what happened."""
_BY_KUBELET: Final = "TerminationByKubelet"
DISRUPTIONS: Final = frozenset({Reason.PREEMPTED, Reason.EVICTED, Reason.NODE_LOST})


@dataclass(frozen=True, kw_only=True, slots=True)
class Verdict:
    """Reason and sentence."""

    reason: str
    message: str


def verdict(group: Group, pod: PodView, ours: Verdict | None) -> Verdict:
    """Why an attempt ended of which `pod` is to blame. `ours`: why the operator was ending it, if it was."""
    own = _own_words(pod)
    if ours is not None and _ended_for(ours.reason, pod):
        return Verdict(reason=ours.reason, message=own.message if ours.reason in STOPPED else ours.message)
    if (cause := _cause(group, pod)) is not None:
        said = f" {pod.outcome.message}" if pod.outcome is not None and pod.outcome.message else ""
        return Verdict(reason=cause.reason, message=f"{cause.message}{said}")
    return own


def disruption(pod: PodView) -> Verdict | None:
    """What Kubernetes says about why it takes a Pod away; None if it says nothing."""
    reason = _BY_DISRUPTION.get(pod.disruption or "") or _by_pod_reason(pod)
    if reason is None and pod.disruption == _BY_KUBELET:
        reason = Reason.EVICTED
    if reason is None:
        return None
    words = pod.disruption_message or pod.message or (pod.last_lines if pod.reason in _CONTAINER_LOST else None)
    named = [] if pod.reason is None or pod.reason in _SAID_BY_SENTENCE else [pod.reason]
    said = ": ".join([*named, *([words.rstrip(".")] if words else [])])
    why = f": {said}." if said else "."
    node = f" on node {pod.node}" if pod.node is not None else ""
    happened = {
        Reason.PREEMPTED: f"Pod {pod.name}{node} had to make place for one of higher priority",
        Reason.EVICTED: f"Pod {pod.name}{node} was evicted",
        Reason.NODE_LOST: _node_lost(pod),
    }
    return Verdict(reason=reason, message=f"{happened[reason]}{why}")


def _by_pod_reason(pod: PodView) -> Reason | None:
    """What the reason of a Pod, or else of its container, says about an interruption."""
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


def lost(pod: str, ours: Verdict | None) -> Verdict:
    """Why an attempt ended of which a Pod is gone that left no last word."""
    if ours is None:
        message = f"Pod {pod} is gone without having ended: it was deleted, evicted, or its node is gone."
        return Verdict(reason=Reason.POD_LOST, message=message)
    if ours.reason in STOPPED:
        return Verdict(reason=ours.reason, message=f"Pod {pod} was deleted and left no last word.")
    return Verdict(reason=ours.reason, message=ours.message or f"Pod {pod} is gone and left no last word.")


def _ended_for(reason: str, pod: PodView) -> bool:
    """Whether the way that a Pod ended is that of one that the operator ended for `reason`."""
    if pod.reason == _OOM_KILLED:
        return False
    if reason in STOPPED:
        return pod.exit_code in STOPPED_BY_SIGNAL
    if reason == Reason.HUNG:  # one that can still save a checkpoint was not
        return pod.exit_code in _KILLED
    return reason not in DISRUPTIONS and pod.exit_code in _KILLED and pod.started is None


def _cause(group: Group, blamed: PodView) -> Verdict | None:
    """What took a Pod of the attempt away. A trainer that only lost its peer knows no better than InternalError."""
    if blamed.reason == _OOM_KILLED:
        return None
    taken = blamed.exit_code in STOPPED_BY_SIGNAL | {_LOST_CODE} or blamed.reason in _CONTAINER_LOST
    if taken and (own := disruption(blamed)) is not None:
        return own
    if blamed.exit_code not in STOPPED_BY_SIGNAL | {ExitCode.INTERNAL}:
        return None
    others = (disruption(pod) for pod in group.members if pod is not blamed)
    return next((found for found in others if found is not None), None)


def _own_words(pod: PodView) -> Verdict:
    """The trainer's own words where it left some, else what can be seen from outside."""
    seen = _outside_view(pod)
    said = pod.outcome
    if said is None:
        return seen
    return Verdict(reason=said.reason or seen.reason, message=said.message or seen.message)


def _outside_view(pod: PodView) -> Verdict:
    code = pod.exit_code
    if code is None:
        why = f"{pod.reason or 'no reason given'}: {pod.message or 'no message given'}"
        if pod.trouble is not None:
            why = pod.trouble.message
        return Verdict(reason=Reason.POD_LOST, message=f"Pod {pod.name} ended before its container did ({why}).")
    if pod.reason == _OOM_KILLED:
        message = _with_log("The kernel killed the trainer since it used more memory than its limit.", pod)
        return Verdict(reason=Reason.HOST_OUT_OF_MEMORY, message=message)
    if (unable := _not_executed(pod)) is not None:
        return unable
    if code in _KILLED and pod.deleting:
        message = f"Pod {pod.name} was deleted, and signal {code - SIGNAL_BASE} ended it before it had saved."
        return Verdict(reason=Reason.POD_LOST, message=message)
    if SIGNAL_BASE < code <= SIGNAL_BASE + _LARGEST_SIGNAL:
        return Verdict(reason=Reason.KILLED, message=_with_log(f"Signal {code - SIGNAL_BASE} ended the trainer.", pod))
    return _by_code(code, pod)


def _not_executed(pod: PodView) -> Verdict | None:
    """That the container's program was never executed, or cannot be."""
    if (words := _not_executable(pod)) is not None:
        return Verdict(reason=Reason.CONFIG_INVALID, message=f"{CANNOT_EXECUTE}: {words}")
    if pod.reason not in NOT_STARTED:
        return None
    words = pod.last_lines or pod.message or "no message given"
    return Verdict(reason=Reason.INTERNAL_ERROR, message=f"The container could not be started: {words}")


def _not_executable(pod: PodView) -> str | None:
    """What the container runtime says about a program that the image does not have, or that cannot be executed."""
    words = pod.last_lines or pod.message or ""
    found = _NOT_EXECUTABLE.search(words)
    started = pod.started is not None and pod.reason not in NOT_STARTED
    if found is None or _OF_A_HOOK.search(words) or (started and not words.startswith("exec ")):
        return None
    return words


def _by_code(code: int, pod: PodView) -> Verdict:
    """What can be told of a trainer that ended by itself and left no outcome."""
    if code == _OF_PYTHON and _STACKS.search(pod.last_lines or ""):
        message = "Training hung, and the trainer could not say so itself: none of its threads could run any more."
        return Verdict(reason=Reason.HUNG, message=message)
    reason = REASON_BY_EXIT_CODE[ExitCode(code)] if code in REASON_BY_EXIT_CODE else Reason.INTERNAL_ERROR
    message = f"The trainer ended with exit code {code} and left no message."
    return Verdict(reason=reason, message=_with_log(message, pod))


def _with_log(message: str, pod: PodView) -> str:
    return message if pod.last_lines is None else f"{message} Its log ends with: {pod.last_lines}"
