from decimal import Decimal
from typing import Any

import pytest

from sftjob_sandbox.node.capacity import pod_requests, refusal
from support.fakes.node_api import container, pod

NODE = {
    "metadata": {"name": "sandbox", "labels": {"disk": "ssd"}},
    "spec": {},
    "status": {"allocatable": {"cpu": "4", "memory": "8Gi", "pods": "3", "nvidia.com/gpu": "2"}},
}
UNHELPFUL = "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
NO_VICTIMS = "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."


def asking(**requests: str) -> dict[str, Any]:
    named = {name.replace("gpu", "nvidia.com/gpu"): amount for name, amount in requests.items()}
    obj = pod(container(resources={"requests": named}))
    obj["metadata"]["namespace"] = "default"
    return obj


def test_a_pod_takes_what_its_containers_request_together() -> None:
    def cpu(name: str, amount: str) -> dict[str, Any]:
        return container(name=name, resources={"requests": {"cpu": amount}})

    obj = pod(cpu("a", "1"), cpu("b", "500m"))
    assert pod_requests(obj) == {"cpu": Decimal("1.5"), "pods": Decimal(1)}


@pytest.mark.parametrize(
    ("requests", "used", "message"),
    [
        ({"gpu": "3"}, {}, f"0/1 nodes are available: 1 Insufficient nvidia.com/gpu. {UNHELPFUL}"),
        ({"gpu": "2"}, {"nvidia.com/gpu": 1}, f"0/1 nodes are available: 1 Insufficient nvidia.com/gpu. {NO_VICTIMS}"),
        (
            {"memory": "9Gi", "cpu": "5"},
            {},
            f"0/1 nodes are available: 1 Insufficient cpu, 1 Insufficient memory. {UNHELPFUL}",
        ),
        ({"fpga": "1"}, {}, f"0/1 nodes are available: 1 Insufficient fpga. {UNHELPFUL}"),
        ({}, {"pods": 3}, f"0/1 nodes are available: 1 Too many pods. {NO_VICTIMS}"),
    ],
)
def test_a_pod_that_does_not_fit(requests: dict[str, str], used: dict[str, int], message: str) -> None:
    taken = {name: Decimal(amount) for name, amount in used.items()}
    assert refusal(asking(**requests), NODE, taken, lambda *_: None) == message


def test_a_pod_that_just_fits() -> None:
    assert refusal(asking(cpu="3", gpu="1"), NODE, {"cpu": Decimal(1), "pods": Decimal(2)}, lambda *_: None) is None


@pytest.mark.parametrize(
    ("claim", "message"),
    [
        (None, 'persistentvolumeclaim "c" not found'),
        ({"metadata": {}, "status": {"phase": "Pending"}}, "pod has unbound immediate PersistentVolumeClaims"),
        ({"metadata": {"deletionTimestamp": "now"}}, 'persistentvolumeclaim "c" is being deleted'),
    ],
)
def test_a_claim_that_can_not_be_used(claim: dict[str, Any] | None, message: str) -> None:
    obj = asking()
    obj["spec"]["volumes"] = [{"name": "v", "persistentVolumeClaim": {"claimName": "c"}}]
    found = refusal(obj, NODE, {}, lambda *_: claim)
    assert found == f"0/1 nodes are available: {message}. {UNHELPFUL}"


def test_selectors_and_a_cordoned_node() -> None:
    obj = asking()
    selected = {**obj, "spec": {**obj["spec"], "nodeSelector": {"disk": "ssd"}}}
    missed = {**obj, "spec": {**obj["spec"], "nodeSelector": {"disk": "hdd"}}}
    cordoned = {**NODE, "spec": {"unschedulable": True}}

    def message(obj: dict[str, Any], node: dict[str, Any] = NODE) -> str:
        return refusal(obj, node, {}, lambda *_: None) or ""

    assert message(selected) == ""
    assert "1 node(s) didn't match Pod's node affinity/selector" in message(missed)
    assert "1 node(s) were unschedulable" in message(obj, cordoned)
