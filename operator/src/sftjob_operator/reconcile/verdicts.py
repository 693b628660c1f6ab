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
_NOT_STARTED: Final = frozenset({"StartError", "ContainerCannotRun"})
"""Reasons of a container whose process could not even be executed."""
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
}
"""status.reason of Pods that a kubelet ended; the last three are all its shutdown, by version."""
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
    reason = _BY_DISRUPTION.get(pod.disruption or "") or _BY_POD_REASON.get(pod.reason or "")
    if reason is None and pod.disruption == _BY_KUBELET:
        reason = Reason.EVICTED
    if reason is None:
        return None
    words = pod.disruption_message or pod.message
    why = f": {words.rstrip('.')}." if words else "."
    node = f" on node {pod.node}" if pod.node is not None else ""
    happened = {
        Reason.PREEMPTED: f"Pod {pod.name}{node} had to make place for one of higher priority",
        Reason.EVICTED: f"Pod {pod.name}{node} was evicted",
        Reason.NODE_LOST: f"Pod {pod.name} lost its node{'' if pod.node is None else f' {pod.node}'}",
    }
    return Verdict(reason=reason, message=f"{happened[reason]}{why}")


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
    if blamed.exit_code in STOPPED_BY_SIGNAL and (own := disruption(blamed)) is not None:
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
        return Verdict(reason=Reason.POD_LOST, message=f"Pod {pod.name} ended before its container did ({why}).")
    if pod.reason == _OOM_KILLED:
        message = _with_log("The kernel killed the trainer since it used more memory than its limit.", pod)
        return Verdict(reason=Reason.HOST_OUT_OF_MEMORY, message=message)
    if pod.reason in _NOT_STARTED:
        message = f"The container could not be started: {pod.last_lines or 'no message given'}"
        return Verdict(reason=Reason.INTERNAL_ERROR, message=message)
    if code in _KILLED and pod.deleting:
        message = f"Pod {pod.name} was deleted, and signal {code - SIGNAL_BASE} ended it before it had saved."
        return Verdict(reason=Reason.POD_LOST, message=message)
    if code > SIGNAL_BASE:
        return Verdict(reason=Reason.KILLED, message=_with_log(f"Signal {code - SIGNAL_BASE} ended the trainer.", pod))
    return _by_code(code, pod)


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
