"""Stopping Pods: grace, force, and the end of the node."""

from sftjob_sandbox.node.node import Node
from sftjob_sandbox.node.settings import NodeSettings
from support.fakes.node_api import FakeNodeApi, container, pod
from support.fakes.node_cluster import Cluster, Processes, StartCluster

POLITE = "trap 'echo bye; exit 75' TERM; echo ready; while :; do sleep 0.01; done"
STUBBORN = "trap '' TERM; echo ready; while :; do sleep 0.01; done"


async def ready(cluster: Cluster, name: str = "p") -> None:
    """Wait until the script of the Pod has set its trap."""
    await cluster.api.running(name)
    log = next((cluster.data / "pods").glob(f"default_{name}_*")) / "main.log"
    await cluster.eventually(lambda: "ready" in log.read_text())


def last_state(api: FakeNodeApi) -> dict[str, object]:
    found: dict[str, object] = api.statuses[-1]["containerStatuses"][0]["state"]["terminated"]
    return found


async def test_a_deleted_pod_gets_sigterm_and_its_end_is_seen_before_it_goes(cluster: Cluster) -> None:
    cluster.api.create("pods", pod(container(POLITE)))
    await ready(cluster)
    cluster.api.delete_pod("p")
    await cluster.api.until(lambda: not cluster.api.has("pods", "p"))
    assert last_state(cluster.api)["exitCode"] == 75
    assert cluster.api.statuses[-1]["phase"] == "Failed"
    assert "Stopping container main" in cluster.api.messages("p")
    assert list((cluster.data / "pods").iterdir()) == []


async def test_one_that_does_not_listen_is_killed_after_its_grace(cluster: Cluster) -> None:
    cluster.api.create("pods", pod(container(STUBBORN), terminationGracePeriodSeconds=1))
    await ready(cluster)
    cluster.api.delete_pod("p")
    await cluster.api.until(lambda: not cluster.api.has("pods", "p"))
    assert last_state(cluster.api)["exitCode"] == 137


async def test_a_second_deletion_may_shorten_the_grace(cluster: Cluster) -> None:
    cluster.api.create("pods", pod(container(STUBBORN), terminationGracePeriodSeconds=1000))
    await ready(cluster)
    cluster.api.delete_pod("p")
    await cluster.api.until(lambda: "Killing" in cluster.api.reasons("p"))
    cluster.api.delete_pod("p", grace_seconds=1)
    await cluster.api.until(lambda: not cluster.api.has("pods", "p"))
    assert cluster.api.reasons("p").count("Killing") == 1


async def test_a_pod_deleted_by_force_leaves_no_process(cluster: Cluster, processes: Processes) -> None:
    cluster.api.create("pods", pod(container(POLITE)))
    await ready(cluster)
    cluster.api.delete_pod("p", grace_seconds=0)
    assert not cluster.api.has("pods", "p")
    await cluster.eventually(lambda: not processes())
    await cluster.eventually(lambda: not list((cluster.data / "pods").iterdir()))


async def test_a_new_pod_of_the_same_name_is_another_pod(cluster: Cluster) -> None:
    cluster.api.create("pods", pod(container(POLITE)))
    await ready(cluster)
    cluster.api.delete_pod("p", grace_seconds=0)
    assert await cluster.run_script(pod(container("echo second"))) == ["second"]


async def test_a_pod_that_never_started_goes_at_once(cluster: Cluster) -> None:
    cluster.api.create("pods", pod(container(image="nowhere")))
    await cluster.api.waiting("p", "ImagePullBackOff")
    cluster.api.delete_pod("p")
    await cluster.api.until(lambda: not cluster.api.has("pods", "p"))
    assert last_state(cluster.api)["reason"] == "ContainerStatusUnknown"


async def test_a_finished_pod_goes_with_its_files(cluster: Cluster) -> None:
    await cluster.run(pod())
    cluster.api.delete_pod("p")
    await cluster.api.until(lambda: not cluster.api.has("pods", "p"))
    assert list((cluster.data / "pods").iterdir()) == []


async def test_the_end_of_the_node_ends_every_pod(start_cluster: StartCluster, processes: Processes) -> None:
    cluster = await start_cluster()
    settings = NodeSettings(data=cluster.data / "other", images={"shell": cluster.data}, shutdown_grace_seconds=0.1)
    api = FakeNodeApi()
    async with Node(api, settings):
        for name, script in (("polite", POLITE), ("stubborn", STUBBORN)):
            api.create("pods", pod(container(script), name=name))
            await ready(Cluster(api, settings.data), name)
        api.create("pods", pod(container(image="nowhere"), name="waiting"))
        await api.waiting("waiting", "ErrImagePull")
    codes = {
        name: api.pod(name)["status"]["containerStatuses"][0]["state"]["terminated"]["exitCode"]
        for name in ("polite", "stubborn")
    }
    assert codes == {"polite": 75, "stubborn": 137}
    assert processes() == []


async def test_files_of_an_earlier_runs_pods_are_removed_at_the_start(
    cluster: Cluster, start_cluster: StartCluster
) -> None:
    await cluster.run(pod())
    assert list((cluster.data / "pods").iterdir())
    await start_cluster(FakeNodeApi())
    assert not list((cluster.data / "pods").iterdir())


async def test_nobody_else_may_look_into_the_pods_files(cluster: Cluster) -> None:
    assert (cluster.data / "pods").stat().st_mode & 0o777 == 0o700
