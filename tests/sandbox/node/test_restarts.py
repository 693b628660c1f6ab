"""Restart policies, backoff, and what a status says of earlier runs."""

from typing import Any

from sftjob_sandbox.node.logs import LogOptions, read_log
from support.node_api import container, pod
from support.node_cluster import Cluster, StartCluster

COUNT = "echo >> /v/runs; runs=$(wc -l < /v/runs); echo run $runs; test $runs -ge {enough}"
MOUNTS = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
VOLUMES = [{"name": "v", "emptyDir": {}}]


def main(status: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = status["containerStatuses"][0]
    return found


async def test_on_failure_a_container_is_restarted_until_it_succeeds(cluster: Cluster) -> None:
    obj = pod(container(COUNT.format(enough=3), **MOUNTS), restartPolicy="OnFailure", volumes=VOLUMES)
    status = main(await cluster.run(obj))
    assert status["restartCount"] == 2
    assert status["lastState"]["terminated"]["exitCode"] == 1
    assert await cluster.output() == "run 3\n"


async def test_the_log_of_the_run_before_is_kept(cluster: Cluster) -> None:
    obj = pod(container(COUNT.format(enough=2), **MOUNTS), restartPolicy="OnFailure", volumes=VOLUMES)
    await cluster.run(obj)
    options = LogOptions(previous=True)
    pieces = [x async for x in read_log(cluster.data, cluster.api.pod("p"), "main", options, lambda: False)]
    assert b"".join(pieces) == b"run 1\n"


async def test_a_failed_init_container_is_restarted_too(cluster: Cluster) -> None:
    init = container(COUNT.format(enough=2), name="init", **MOUNTS)
    obj = pod(container("cat /v/runs | wc -l", **MOUNTS), initContainers=[init], volumes=VOLUMES)
    status = await cluster.run({**obj, "spec": {**obj["spec"], "restartPolicy": "OnFailure"}})
    assert status["initContainerStatuses"][0]["restartCount"] == 1


async def test_always_restarts_and_backs_off_in_the_kubelets_words(start_cluster: StartCluster) -> None:
    cluster = await start_cluster(backoff_seconds=30, max_backoff_seconds=300)
    cluster.api.create("pods", pod(container("exit 7"), restartPolicy="Always"))
    status = await cluster.api.waiting("p", "CrashLoopBackOff")
    reference = "p_default(uid-1)"
    assert status["phase"] == "Running"
    message = main(status)["state"]["waiting"]["message"]
    assert message == f"back-off 30s restarting failed container=main pod={reference}"
    assert main(status)["lastState"]["terminated"]["exitCode"] == 7
    assert main(status)["restartCount"] == 1  # the first restart waits for nothing
    assert f"Back-off restarting failed container main in pod {reference}" in cluster.api.messages("p")


async def test_a_pod_that_backs_off_is_deleted_at_once(start_cluster: StartCluster) -> None:
    cluster = await start_cluster(backoff_seconds=1000, max_backoff_seconds=1000)
    cluster.api.create("pods", pod(container("exit 7"), restartPolicy="Always"))
    await cluster.api.waiting("p", "CrashLoopBackOff")
    cluster.api.delete_pod("p")
    await cluster.api.until(lambda: not cluster.api.has("pods", "p"))
    assert main(cluster.api.statuses[-1])["state"]["terminated"]["exitCode"] == 7


async def test_a_start_error_is_retried_when_the_policy_says_so(cluster: Cluster) -> None:
    cluster.api.create("pods", pod(container(command=["no-such-program"]), restartPolicy="Always"))
    status = await cluster.api.waiting("p", "CrashLoopBackOff")
    assert main(status)["lastState"]["terminated"]["reason"] == "StartError"


async def test_one_container_restarts_while_the_other_runs(cluster: Cluster) -> None:
    steady = container("until test -e /v/enough; do :; done", name="steady", **MOUNTS)
    script = COUNT.format(enough=3) + " && touch /v/enough"
    obj = pod(container(script, **MOUNTS), steady, restartPolicy="OnFailure", volumes=VOLUMES)
    status = await cluster.run(obj)
    assert {entry["name"]: entry["restartCount"] for entry in status["containerStatuses"]} == {"main": 2, "steady": 0}
