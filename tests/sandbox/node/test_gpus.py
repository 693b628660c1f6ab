from typing import Any

import pytest

from sftjob_sandbox.node.capacity import GpuSlots, visible_devices
from support.fakes.node_api import container, pod


def gpu_container(name: str, count: int) -> dict[str, Any]:
    return container(name=name, resources={"requests": {"nvidia.com/gpu": str(count)}} if count else {})


def test_gpu_slots_are_lent_lowest_first_and_come_back() -> None:
    slots = GpuSlots(4)
    assert slots.lend("a", 2) == (0, 1)
    assert slots.lend("b", 1) == (2,)
    assert slots.lend("a", 2) == (0, 1)
    slots.take_back("a")
    assert slots.lend("c", 3) == (0, 1, 3)


@pytest.mark.parametrize(("name", "devices"), [("a", "3"), ("none", ""), ("b", "5,7")])
def test_each_container_sees_its_own_gpus(name: str, devices: str) -> None:
    obj = pod(gpu_container("a", 1), gpu_container("none", 0), gpu_container("b", 2))
    assert visible_devices(obj, name, (3, 5, 7), "nvidia.com/gpu") == devices
