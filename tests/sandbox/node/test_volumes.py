"""Volumes as a running container finds them."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sftjob_sandbox.node.containers.volumes import File, write_atomically
from support.fakes.node_api import FakeNodeApi, claim, config_map, container, pod
from support.fakes.node_cluster import Cluster, StartCluster

MOUNT = {"volumeMounts": [{"name": "v", "mountPath": "/v"}]}


def claim_pod(script: str, name: str = "p") -> dict[str, object]:
    volume = {"name": "v", "persistentVolumeClaim": {"claimName": "c"}}
    return pod(container(script, **MOUNT), name=name, volumes=[volume])


async def test_a_claim_is_bound_when_it_appears(cluster: Cluster) -> None:
    cluster.api.create("persistentvolumeclaims", claim("c"))
    bound = {"phase": "Bound", "accessModes": ["ReadWriteOnce"], "capacity": {"storage": "1Gi"}}
    await cluster.api.until(lambda: cluster.api.get("persistentvolumeclaims", "default", "c")["status"] == bound)
    assert (cluster.data / "volumes/default/c").is_dir()


async def test_a_volume_outlives_pods_and_the_node(start_cluster: StartCluster, cluster: Cluster) -> None:
    cluster.api.create("persistentvolumeclaims", claim("c"))
    await cluster.run(claim_pod("echo kept > /v/file"))
    again = await start_cluster(FakeNodeApi())
    again.api.create("persistentvolumeclaims", claim("c"))
    assert await again.run_script(claim_pod("cat /v/file", "later")) == ["kept"]


async def test_a_deleted_claim_takes_its_files_with_it_once_nobody_uses_them(cluster: Cluster) -> None:
    cluster.api.create("persistentvolumeclaims", claim("c"))
    cluster.api.create("pods", claim_pod("echo old > /v/old; until test -e /v/stop; do :; done; cat /v/old"))
    await cluster.api.running("p")
    cluster.api.delete("persistentvolumeclaims", "c")
    cluster.api.create("persistentvolumeclaims", claim("c"))
    cluster.api.create("pods", claim_pod("ls -A /v", "next"))
    await cluster.api.until(lambda: "FailedScheduling" in cluster.api.reasons("next"))
    assert "unbound immediate PersistentVolumeClaims" in cluster.api.messages("next")[0]
    (cluster.data / "volumes/default/c/stop").touch()
    await cluster.api.phase("next", "Succeeded")
    assert await cluster.output("p") == "old\n"
    assert await cluster.output("next") == ""


async def test_a_pod_waits_for_its_claim(cluster: Cluster) -> None:
    cluster.api.create("pods", claim_pod("touch /v/file"))
    await cluster.api.until(lambda: "FailedScheduling" in cluster.api.reasons("p"))
    missing = '0/1 nodes are available: persistentvolumeclaim "c" not found.'
    hopeless = "preemption: 0/1 nodes are available: 1 Preemption is not helpful for scheduling."
    assert cluster.api.messages("p") == [f"{missing} {hopeless}"]
    cluster.api.create("persistentvolumeclaims", claim("c"))
    await cluster.api.phase("p", "Succeeded")


async def test_a_pod_waits_for_its_config_map(cluster: Cluster) -> None:
    obj = pod(container("cat /v/a", **MOUNT), volumes=[{"name": "v", "configMap": {"name": "cm"}}])
    cluster.api.create("pods", obj)
    await cluster.api.until(lambda: "FailedMount" in cluster.api.reasons("p"))
    status = await cluster.api.waiting("p", "ContainerCreating")
    assert status["phase"] == "Pending"
    assert "podIP" not in status
    assert 'MountVolume.SetUp failed for volume "v" : configmap "cm" not found' in cluster.api.messages("p")
    cluster.api.create("configmaps", config_map("cm", a="content"))
    await cluster.api.phase("p", "Succeeded")
    assert await cluster.output() == "content"


async def test_a_changed_config_map_reaches_a_running_container(cluster: Cluster) -> None:
    cluster.api.create("configmaps", config_map("cm", a="old", gone="x"))
    script = "until grep -q new /v/a; do :; done; ls /v"
    obj = pod(container(script, **MOUNT), volumes=[{"name": "v", "configMap": {"name": "cm"}}])
    cluster.api.create("pods", obj)
    await cluster.api.running("p")
    cluster.api.change("configmaps", "cm", data={"a": "new", "b": "y"})
    await cluster.api.phase("p", "Succeeded")
    assert await cluster.output() == "a\nb\n"


async def test_files_have_their_modes(cluster: Cluster) -> None:
    cluster.api.create("configmaps", config_map("cm", a="x"))
    volume = {"name": "v", "configMap": {"name": "cm", "defaultMode": 0o400}}
    assert await cluster.run_script(pod(container("stat -L -c %a /v/a", **MOUNT), volumes=[volume])) == ["400"]


async def test_volumes_and_tokens_are_gone_when_the_pod_has_ended_but_its_log_is_not(cluster: Cluster) -> None:
    source = {"serviceAccountToken": {"path": "token", "audience": "me"}}
    obj = pod(container("cat /v/token", **MOUNT), volumes=[{"name": "v", "projected": {"sources": [source]}}])
    await cluster.run(obj)
    await cluster.eventually(lambda: {path.name for path in (cluster.data / "pods").glob("*/*")} == {"main.log"})
    assert await cluster.output() == "token-1"


async def test_a_token_is_bound_to_pod_audience_and_account_and_renewed_well_before_it_expires(
    start_cluster: StartCluster,
) -> None:
    now = [datetime(2026, 1, 1, tzinfo=UTC)]
    cluster = await start_cluster(clock=lambda: now[0], resync_seconds=0.02)
    source = {"serviceAccountToken": {"path": "token", "audience": "me", "expirationSeconds": 1000}}
    script = "until grep -q token-2 /v/token; do :; done"
    volumes = [{"name": "v", "projected": {"sources": [source]}}]
    cluster.api.create("pods", pod(container(script, **MOUNT), serviceAccountName="robot", volumes=volumes))
    await cluster.api.running("p")
    now[0] += timedelta(seconds=799)
    assert len(cluster.api.tokens) == 1
    now[0] += timedelta(seconds=1)
    await cluster.api.phase("p", "Succeeded")
    asked = {"account": "default/robot", "audiences": ["me"], "seconds": 1000, "pod": "uid-1"}
    assert cluster.api.tokens == [asked, asked]


async def test_a_missing_service_account_fails_the_mount(cluster: Cluster) -> None:
    source = {"serviceAccountToken": {"path": "token"}}
    volumes = [{"name": "v", "projected": {"sources": [source]}}]
    cluster.api.create("pods", pod(container("true", **MOUNT), serviceAccountName="missing", volumes=volumes))
    await cluster.api.until(lambda: "FailedMount" in cluster.api.reasons("p"))
    assert 'failed to fetch token: serviceaccounts "missing" not found' in cluster.api.messages("p")[-1]


def test_an_update_replaces_all_files_at_once(tmp_path: Path) -> None:
    write_atomically(tmp_path, {"a": File(b"1", 0o644), "deep/b": File(b"1", 0o600), "gone": File(b"", 0o644)})
    first = (tmp_path / "..data").resolve()
    write_atomically(tmp_path, {"a": File(b"2", 0o644), "deep/b": File(b"2", 0o600)})
    assert (tmp_path / "a").read_text() == (tmp_path / "deep/b").read_text() == "2"
    assert sorted(path.name for path in tmp_path.iterdir() if not path.name.startswith("..")) == ["a", "deep"]
    assert not first.exists()


@pytest.mark.parametrize("mode", [0o600, 0o755])
def test_modes_do_not_depend_on_the_umask(tmp_path: Path, mode: int) -> None:
    write_atomically(tmp_path, {"a": File(b"", mode)})
    assert (tmp_path / "a").stat().st_mode & 0o777 == mode
