"""GPU slots: numbered, lent to Pods, shown to containers through CUDA_VISIBLE_DEVICES."""

from collections.abc import Mapping
from typing import Any

from sftjob_sandbox.builtin import quantity
from sftjob_sandbox.objects import Object


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
    """CUDA_VISIBLE_DEVICES of a container: main containers share the Pod's slots out, an init container starts at 0."""
    position = 0
    for spec in pod["spec"]["containers"]:
        count = _gpus(spec, resource)
        if spec["name"] == container:
            return _joined(slots[position : position + count])
        position += count
    init = pod["spec"].get("initContainers") or ()
    return _joined(slots[: sum(_gpus(spec, resource) for spec in init if spec["name"] == container)])


def _gpus(container: Mapping[str, Any], resource: str) -> int:
    requests = (container.get("resources") or {}).get("requests") or {}
    return int(quantity.parse(requests.get(resource, "0")).value)


def _joined(slots: tuple[int, ...]) -> str:
    return ",".join(map(str, slots))
