"""The resource requests of Pods, whether they fit, and the node's GPU slots. Pure.

Sources: k8s.io/component-helpers/resource (PodRequests), k8s.io/kubernetes pkg/scheduler/framework/plugins
(noderesources, nodeaffinity, volumebinding) and pkg/scheduler/framework (FitError).
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from decimal import Decimal
from typing import Any, Final

from sftjob_sandbox.apimachinery import quantity
from sftjob_sandbox.apimachinery.objects import Object, claims_of, is_deleting, namespace_of

PODS: Final = "pods"
_UNHELPFUL: Final = "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
_NO_VICTIMS: Final = "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."

Resources = Mapping[str, Decimal]


def pod_requests(pod: Object) -> dict[str, Decimal]:
    """What the Pod takes from the node."""
    requests = [(container.get("resources") or {}).get("requests") for container in pod["spec"]["containers"]]
    return total([*map(_parsed, requests), {PODS: Decimal(1)}])


def refusal(pod: Object, node: Object, used: Resources, claim: Callable[[str, str], Object | None]) -> str | None:
    """Why `pod` cannot run on `node`, of which `used` is taken; None if it can.

    `claim` looks up a PersistentVolumeClaim by namespace and name.
    """
    if message := _claim_problem(pod, claim):
        return f"0/1 nodes are available: {message}. {_UNHELPFUL}"
    if node["spec"].get("unschedulable"):
        return f"0/1 nodes are available: 1 node(s) were unschedulable. {_UNHELPFUL}"
    if not _selected(pod, node):
        mismatch = "1 node(s) didn't match Pod's node affinity/selector"
        return f"0/1 nodes are available: {mismatch}. {_UNHELPFUL}"
    requests, allocatable = pod_requests(pod), _parsed(node["status"]["allocatable"])
    short = shortages(pod, node, used)
    if not short:
        return None
    reasons = sorted("1 Too many pods" if name == PODS else f"1 Insufficient {name}" for name in short)
    hopeless = any(requests[name] > allocatable.get(name, Decimal(0)) for name in short)
    return f"0/1 nodes are available: {', '.join(reasons)}. {_UNHELPFUL if hopeless else _NO_VICTIMS}"


def shortages(pod: Object, node: Object, used: Resources) -> list[str]:
    """Names of the resources of which `pod` requests more than `node` has left."""
    requests, allocatable = pod_requests(pod), _parsed(node["status"]["allocatable"])
    return [name for name in requests if requests[name] > allocatable.get(name, Decimal(0)) - used.get(name, 0)]


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


def _parsed(quantities: Mapping[str, Any] | None) -> dict[str, Decimal]:
    return {name: quantity.parse(text).value for name, text in (quantities or {}).items()}


def total(parts: Iterable[Resources]) -> dict[str, Decimal]:
    """The sum of resources."""
    result: dict[str, Decimal] = defaultdict(Decimal)
    for part in parts:
        for name, amount in part.items():
            result[name] += amount
    return dict(result)


class GpuSlots:
    """The node's GPUs. Whether there are enough is the scheduler's question, asked before."""

    def __init__(self, count: int) -> None:
        self._free = list(range(count))
        self._lent: dict[str, tuple[int, ...]] = {}

    def lend(self, uid: str, count: int) -> tuple[int, ...]:
        """The lowest free slots, lent to the Pod `uid`; the same again if it has some."""
        if uid not in self._lent:
            self._lent[uid], self._free = tuple(self._free[:count]), self._free[count:]
        return self._lent[uid]

    def take_back(self, uid: str) -> None:
        """The Pod has ended."""
        self._free = sorted((*self._free, *self._lent.pop(uid, ())))


def visible_devices(pod: Object, container: str, slots: tuple[int, ...], resource: str) -> str:
    """CUDA_VISIBLE_DEVICES of a container; the containers of a Pod share its slots."""
    start = 0
    for spec in pod["spec"]["containers"]:
        end = start + _gpus(spec, resource)
        if spec["name"] == container:
            return ",".join(map(str, slots[start:end]))
        start = end
    raise KeyError(container)


def _gpus(container: Mapping[str, Any], resource: str) -> int:
    requests = (container.get("resources") or {}).get("requests") or {}
    return int(quantity.parse(requests.get(resource, "0")).value)
