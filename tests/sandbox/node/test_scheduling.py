"""Placing Pods: what fits, what waits, and what goes on when something is freed."""

from typing import Any

from support.fakes.node_api import container, pod
from support.fakes.node_cluster import Cluster, StartCluster

WAIT = "trap 'exit 0' TERM; while :; do sleep 0.01; done"


def gpu_pod(name: str, gpus: int, script: str = WAIT, **spec: Any) -> dict[str, Any]:
    resources = {"requests": {"nvidia.com/gpu": str(gpus)}, "limits": {"nvidia.com/gpu": str(gpus)}}
    return pod(container(script, resources=resources), name=name, **spec)


def scheduled(cluster: Cluster, name: str) -> dict[str, Any]:
    conditions = cluster.api.pod(name)["status"]["conditions"]
    found: dict[str, Any] = next(condition for condition in conditions if condition["type"] == "PodScheduled")
    return found


async def test_a_pod_without_room_says_why_and_runs_when_there_is_some(start_cluster: StartCluster) -> None:
    cluster = await start_cluster(gpus=2)
    cluster.api.create("pods", gpu_pod("first", 2))
    await cluster.api.running("first")
    cluster.api.create("pods", gpu_pod("second", 1, "echo GPU $CUDA_VISIBLE_DEVICES"))
    await cluster.api.until(lambda: scheduled(cluster, "second")["status"] == "False")
    message = (
        "0/1 nodes are available: 1 Insufficient nvidia.com/gpu. "
        "preemption: 0/1 nodes are available: 1 No preemption victims found for incoming pod."
    )
    condition = scheduled(cluster, "second")
    assert (condition["reason"], condition["message"]) == ("Unschedulable", message)
    assert cluster.api.pod("second")["status"]["phase"] == "Pending"
    assert cluster.api.messages("second") == [message]
    cluster.api.delete_pod("first")
    await cluster.api.phase("second", "Succeeded")
    assert await cluster.output("second") == "GPU 0\n"
    assert scheduled(cluster, "second")["status"] == "True"


async def test_a_finished_pod_frees_what_it_had(start_cluster: StartCluster) -> None:
    cluster = await start_cluster(gpus=1)
    cluster.api.create("pods", gpu_pod("first", 1, "true"))
    cluster.api.create("pods", gpu_pod("second", 1, "true"))
    await cluster.api.phase("second", "Succeeded")
    assert cluster.api.has("pods", "first")


async def test_waiting_pods_go_by_priority_and_age(start_cluster: StartCluster) -> None:
    cluster = await start_cluster(gpus=1)
    cluster.api.create("pods", gpu_pod("holder", 1))
    await cluster.api.running("holder")
    for name, priority in (("old", 0), ("young", 0), ("urgent", 10)):
        cluster.api.create("pods", gpu_pod(name, 1, "true", priority=priority))
    cluster.api.delete_pod("holder")
    await cluster.api.phase("young", "Succeeded")
    order = [event.name for event in cluster.api.events if event.reason == "Scheduled"]
    assert order == ["holder", "urgent", "old", "young"]


async def test_gpus_are_told_to_those_who_asked_and_hidden_from_the_others(start_cluster: StartCluster) -> None:
    cluster = await start_cluster(gpus=3)
    cluster.api.create("pods", gpu_pod("a", 1))
    await cluster.api.running("a")
    assert await cluster.run_script(gpu_pod("b", 2, "echo [$CUDA_VISIBLE_DEVICES]")) == ["[1,2]"]
    assert await cluster.run_script(pod(container("echo [$CUDA_VISIBLE_DEVICES]"), name="c")) == ["[]"]


async def test_cpu_and_memory_are_counted(cluster: Cluster) -> None:
    resources = {"requests": {"cpu": "3", "memory": "5Gi"}}
    cluster.api.create("pods", pod(container(WAIT, resources=resources), name="a"))
    cluster.api.create("pods", pod(container("true", resources=resources), name="b"))
    await cluster.api.until(lambda: cluster.api.messages("b"))
    assert "1 Insufficient cpu, 1 Insufficient memory." in cluster.api.messages("b")[0]
    await cluster.api.running("a")
    cluster.api.delete_pod("a")
    await cluster.api.phase("b", "Succeeded")


async def test_a_pod_sent_to_the_node_without_room_is_rejected(cluster: Cluster) -> None:
    obj = pod(container(resources={"requests": {"cpu": "5"}}), nodeName="sandbox")
    status = await cluster.run(obj, "Failed")
    assert (status["reason"], status["message"]) == (
        "OutOfcpu",
        "Pod was rejected: Node didn't have enough resource: cpu",
    )
    cluster.api.delete_pod("p")
    await cluster.api.until(lambda: not cluster.api.has("pods", "p"))


async def test_a_pod_sent_to_the_node_with_room_runs(cluster: Cluster) -> None:
    await cluster.run(pod(nodeName="sandbox"))


async def test_a_cordoned_node_takes_no_pod(cluster: Cluster) -> None:
    cluster.api.change("nodes", "sandbox", spec={"unschedulable": True})
    cluster.api.create("pods", pod())
    await cluster.api.until(lambda: cluster.api.messages("p"))
    assert "1 node(s) were unschedulable" in cluster.api.messages("p")[0]
    cluster.api.change("nodes", "sandbox", spec={})
    await cluster.api.phase("p", "Succeeded")


async def test_a_pod_deleted_while_it_waits_is_forgotten(start_cluster: StartCluster) -> None:
    cluster = await start_cluster(gpus=1)
    cluster.api.create("pods", gpu_pod("holder", 1))
    await cluster.api.running("holder")
    cluster.api.create("pods", gpu_pod("waiting", 1))
    await cluster.api.until(lambda: cluster.api.messages("waiting"))
    cluster.api.delete_pod("waiting")
    cluster.api.delete_pod("holder")
    await cluster.run(gpu_pod("last", 1, "true"))
    assert "Scheduled" not in cluster.api.reasons("waiting")
