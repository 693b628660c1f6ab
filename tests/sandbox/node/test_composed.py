"""The node within the whole sandbox: what it writes is accepted by the API server's own checks."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from sftjob_sandbox.node.containers.logs import LogOptions, read_log
from sftjob_sandbox.sandbox import Sandbox
from support.clients.wait import eventually
from support.fakes.node_api import claim, config_map, container, pod

TRAINER = """
test -d "$VOLUME" && test -d "$CLAIMS/base" && cat "$CONFIG" && cut -d. -f1 "$TOKEN" | wc -c
echo model > "$VOLUME/model" && echo "$HUB_TOKEN" | wc -c
printf '{"exitCode":0}' > "$TERMINATION_LOG"
"""


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    (tmp_path / "image").mkdir()
    async with Sandbox(data=tmp_path / "data", images={"trainer": tmp_path / "image"}, gpus=1) as running:
        yield running


def trainer_pod() -> dict[str, Any]:
    env = {
        "VOLUME": "/sftjob",
        "CLAIMS": "/mnt/claims",
        "CONFIG": "/etc/sftjob/config.json",
        "TOKEN": "/var/run/secrets/sftjob/token",
        "TERMINATION_LOG": "/dev/termination-log",
    }
    secret = {"name": "HUB_TOKEN", "valueFrom": {"secretKeyRef": {"name": "hub", "key": "token"}}}
    mounts = {
        "volume": "/sftjob",
        "base": "/mnt/claims/base",
        "config": "/etc/sftjob",
        "token": "/var/run/secrets/sftjob",
        "tmp": "/tmp",
        "shm": "/dev/shm",
    }
    projection = {"serviceAccountToken": {"path": "token", "audience": "sftjob-progress", "expirationSeconds": 3600}}
    return pod(
        container(
            image="trainer",
            command=["sh", "-c", TRAINER],
            env=[*({"name": name, "value": value} for name, value in env.items()), secret],
            volumeMounts=[{"name": name, "mountPath": path} for name, path in mounts.items()],
            resources={"limits": {"nvidia.com/gpu": 1, "memory": "1Gi"}, "requests": {"cpu": "100m"}},
            securityContext={"allowPrivilegeEscalation": False, "readOnlyRootFilesystem": True},
        ),
        automountServiceAccountToken=False,
        securityContext={"runAsNonRoot": True, "runAsUser": 65532},
        volumes=[
            {"name": "volume", "persistentVolumeClaim": {"claimName": "volume"}},
            {"name": "base", "persistentVolumeClaim": {"claimName": "base", "readOnly": True}},
            {"name": "config", "configMap": {"name": "config"}},
            {"name": "token", "projected": {"sources": [projection]}},
            {"name": "tmp", "emptyDir": {}},
            {"name": "shm", "emptyDir": {"medium": "Memory"}},
        ],
    )


async def test_a_pod_as_a_training_job_has_it_runs_to_its_end(sandbox: Sandbox) -> None:
    for obj in (claim("volume"), claim("base"), config_map("config", **{"config.json": "{}\n"})):
        sandbox.store.create(obj)
    sandbox.store.create(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "hub"}, "data": {"token": "aGlkZGVu"}}
    )
    created = sandbox.store.create(trainer_pod())

    def status() -> dict[str, Any]:
        found: dict[str, Any] = sandbox.store.get("pods", "default", "p")["status"]
        return found

    async def ended() -> bool:
        return status()["phase"] in ("Succeeded", "Failed")

    await eventually(ended, "the Pod did not end")
    pieces = [piece async for piece in read_log(sandbox.data, created, "main", LogOptions(), lambda: False)]
    config, token_bytes, secret_bytes = b"".join(pieces).decode().splitlines()
    assert (config, secret_bytes) == ("{}", "7")
    assert int(token_bytes) > 10
    assert status()["phase"] == "Succeeded"
    assert status()["containerStatuses"][0]["state"]["terminated"]["message"] == '{"exitCode":0}'
    assert (sandbox.data / "volumes/default/volume/model").read_text() == "model\n"
    claims = [sandbox.store.get("persistentvolumeclaims", "default", name) for name in ("volume", "base")]
    assert [found["status"]["phase"] for found in claims] == ["Bound", "Bound"]
    reasons = {event["reason"] for event in sandbox.store.objects("events")}
    assert reasons == {"Scheduled", "Pulled", "Created", "Started"}
