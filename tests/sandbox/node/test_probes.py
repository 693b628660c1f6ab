"""Startup, readiness and liveness."""

import asyncio
from typing import Any

from support.node_api import container, pod
from support.node_cluster import Cluster

FAST = {"periodSeconds": 0.02, "timeoutSeconds": 5}
SERVE = "exec python3 -m http.server --bind 127.0.0.1 {port}"
WAIT = "trap 'exit 0' TERM; while :; do sleep 0.01; done"
MOUNT = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}
VOLUMES = [{"name": "v", "emptyDir": {}}]


def main(cluster: Cluster) -> dict[str, Any]:
    found: dict[str, Any] = cluster.api.pod("p")["status"]["containerStatuses"][0]
    return found


async def test_a_container_is_ready_when_its_probe_says_so_and_no_longer_when_not(cluster: Cluster) -> None:
    probe = {"exec": {"command": ["test", "-e", "/v/ready"]}, "failureThreshold": 1, **FAST}
    script = "until test -e /v/on; do :; done; touch /v/ready; until test -e /v/off; do :; done; rm /v/ready; " + WAIT
    cluster.api.create("pods", pod(container(script, readinessProbe=probe, **MOUNT), volumes=VOLUMES))
    await cluster.api.running("p")
    assert main(cluster)["started"] is True
    await cluster.api.until(lambda: "Unhealthy" in cluster.api.reasons("p"))
    assert main(cluster)["ready"] is False
    (cluster.tree() / "v/on").touch()
    await cluster.api.until(lambda: main(cluster)["ready"])
    conditions = {c["type"]: c["status"] for c in cluster.api.pod("p")["status"]["conditions"]}
    assert conditions["Ready"] == conditions["ContainersReady"] == "True"
    (cluster.tree() / "v/off").touch()
    await cluster.api.until(lambda: not main(cluster)["ready"])


async def test_a_dead_container_is_restarted(cluster: Cluster) -> None:
    probe = {"exec": {"command": ["sh", "-c", "echo broken; exit 1"]}, "failureThreshold": 2, **FAST}
    cluster.api.create("pods", pod(container(WAIT, livenessProbe=probe), restartPolicy="Always"))
    await cluster.api.until(lambda: main(cluster)["restartCount"] == 1)
    assert "Liveness probe failed: broken\n" in cluster.api.messages("p")
    assert "Container main failed liveness probe, will be restarted" in cluster.api.messages("p")


async def test_other_probes_wait_for_the_startup_probe(cluster: Cluster) -> None:
    startup = {"exec": {"command": ["test", "-e", "/v/up"]}, "failureThreshold": 10_000, **FAST}
    liveness = {"exec": {"command": ["test", "-e", "/v/up"]}, "failureThreshold": 1, **FAST}
    obj = pod(container(WAIT, startupProbe=startup, livenessProbe=liveness, **MOUNT), volumes=VOLUMES)
    cluster.api.create("pods", obj)
    await cluster.api.until(lambda: any("Startup probe failed" in text for text in cluster.api.messages("p")))
    assert (main(cluster)["started"], main(cluster)["ready"]) == (False, False)
    (cluster.tree() / "v/up").touch()
    await cluster.api.until(lambda: main(cluster)["started"] and main(cluster)["ready"])
    assert main(cluster)["restartCount"] == 0


async def test_http_and_tcp_probes_ask_the_port(cluster: Cluster) -> None:
    answers = [b"HTTP/1.1 500 no\r\nContent-Length: 0\r\n\r\n", b"HTTP/1.1 204 ok\r\n\r\n"]

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if await reader.read(1000):
            writer.write(answers.pop(0) if len(answers) > 1 else answers[0])
        writer.close()

    async with await asyncio.start_server(answer, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        http = {"httpGet": {"port": "web", "path": "/healthz"}, **FAST}
        tcp = {"tcpSocket": {"port": port}, **FAST}
        spec = container(WAIT, readinessProbe=http, livenessProbe=tcp, ports=[{"name": "web", "containerPort": port}])
        cluster.api.create("pods", pod(spec))
        await cluster.api.until(lambda: main(cluster)["ready"])
    assert "Readiness probe failed: HTTP probe failed with statuscode: 500" in cluster.api.messages("p")
    await cluster.api.until(
        lambda: any("Liveness probe failed: dial tcp" in text for text in cluster.api.messages("p"))
    )


async def test_a_probe_that_takes_too_long_has_failed(cluster: Cluster) -> None:
    probe = {"exec": {"command": ["sleep", "1000"]}, "periodSeconds": 0.02, "timeoutSeconds": 0.1}
    cluster.api.create("pods", pod(container(WAIT, readinessProbe=probe)))
    await cluster.api.until(lambda: "Readiness probe failed: command timed out after 0.1s" in cluster.api.messages("p"))
