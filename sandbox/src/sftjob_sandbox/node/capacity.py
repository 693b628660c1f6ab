"""What a Pod asks for, what it costs, and whether it fits. Pure.

Sources: k8s.io/component-helpers/resource (PodRequests), k8s.io/kubernetes pkg/scheduler/framework/plugins
(noderesources, nodeaffinity, volumebinding) and pkg/scheduler/framework (FitError).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from sftjob_sandbox.builtin import quantity
from sftjob_sandbox.objects import Object, claims_of, is_deleting, namespace_of

PODS: Final = "pods"
_UNHELPFUL: Final = "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
_NO_VICTIMS: Final = "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."

Resources = Mapping[str, Decimal]


@dataclass(frozen=True, kw_only=True)
class Refusal:
    """Why a Pod can not be placed now, as the condition PodScheduled says it."""

    reason: str = "Unschedulable"
    message: str


def pod_requests(pod: Object) -> dict[str, Decimal]:
    """What the Pod takes from the node: the larger of all containers together and each init container alone."""
    spec = pod["spec"]
    total = _sum(_requests(container) for container in spec["containers"])
    for container in spec.get("initContainers") or ():
        for name, amount in _requests(container).items():
            total[name] = max(total.get(name, Decimal(0)), amount)
    return _sum([total, _parsed(spec.get("overhead")), {PODS: Decimal(1)}])


def refusal(pod: Object, node: Object, used: Resources, claim: Callable[[str, str], Object | None]) -> Refusal | None:
    """Why `pod` can not run on `node`, of which `used` is taken; None if it can.

    `claim` looks up a PersistentVolumeClaim by namespace and name.
    """
    if pod["spec"].get("schedulingGates"):
        gated = "Scheduling is blocked due to non-empty scheduling gates"
        return Refusal(reason="SchedulingGated", message=gated)
    if message := _claim_problem(pod, claim):
        return Refusal(message=f"0/1 nodes are available: {message}. {_UNHELPFUL}")
    if node["spec"].get("unschedulable"):
        return Refusal(message=f"0/1 nodes are available: 1 node(s) were unschedulable. {_UNHELPFUL}")
    if not _selected(pod, node):
        mismatch = "1 node(s) didn't match Pod's node affinity/selector"
        return Refusal(message=f"0/1 nodes are available: {mismatch}. {_UNHELPFUL}")
    requests, allocatable = pod_requests(pod), _parsed(node["status"]["allocatable"])
    short = shortages(pod, node, used)
    if not short:
        return None
    reasons = sorted("1 Too many pods" if name == PODS else f"1 Insufficient {name}" for name in short)
    hopeless = any(requests[name] > allocatable.get(name, Decimal(0)) for name in short)
    return Refusal(message=f"0/1 nodes are available: {', '.join(reasons)}. {_UNHELPFUL if hopeless else _NO_VICTIMS}")


def shortages(pod: Object, node: Object, used: Resources) -> list[str]:
    """Names of the resources of which `pod` asks for more than `node` has left."""
    requests, allocatable = pod_requests(pod), _parsed(node["status"]["allocatable"])
    return [name for name in requests if requests[name] > allocatable.get(name, Decimal(0)) - used.get(name, 0)]


def total(requests: Iterable[Resources]) -> dict[str, Decimal]:
    """All of them together."""
    return _sum(requests)


def _claim_problem(pod: Object, claim: Callable[[str, str], Object | None]) -> str | None:
    for name in claims_of(pod):
        found = claim(namespace_of(pod), name)
        if found is None:
            return f'persistentvolumeclaim "{name}" not found'
        if is_deleting(found):
            return f'persistentvolumeclaim "{name}" is being deleted'
        if (found.get("status") or {}).get("phase") != "Bound":
            return "pod has unbound immediate PersistentVolumeClaims"
    return None


def _selected(pod: Object, node: Object) -> bool:
    labels = node["metadata"].get("labels") or {}
    wanted = pod["spec"].get("nodeSelector") or {}
    return all(labels.get(key) == value for key, value in wanted.items())


def _requests(container: Mapping[str, Any]) -> dict[str, Decimal]:
    return _parsed((container.get("resources") or {}).get("requests"))


def _parsed(quantities: Mapping[str, Any] | None) -> dict[str, Decimal]:
    return {name: quantity.parse(text).value for name, text in (quantities or {}).items()}


def _sum(parts: Iterable[Resources]) -> dict[str, Decimal]:
    result: dict[str, Decimal] = defaultdict(Decimal)
    for part in parts:
        for name, amount in part.items():
            result[name] += amount
    return dict(result)
