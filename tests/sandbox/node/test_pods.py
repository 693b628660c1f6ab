"""Pods run by a real node as real processes."""

import json
from pathlib import Path
from typing import Any

import pytest

from support.fakes.node_api import container, pod
from support.fakes.node_cluster import Cluster, StartCluster


def state(status: dict[str, Any]) -> dict[str, Any]:
    found: dict[str, Any] = status["containerStatuses"][0]["state"]
    return found


async def test_a_pod_runs_from_pending_to_succeeded(cluster: Cluster) -> None:
    status = await cluster.run(pod(container("echo hello")))
    assert await cluster.output() == "hello\n"
    assert [written["phase"] for written in cluster.api.statuses] == ["Pending", "Pending", "Running", "Succeeded"]
    ended = state(status)["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (0, "Completed")
    assert ended["containerID"] == status["containerStatuses"][0]["containerID"]
    assert cluster.api.pod("p")["spec"]["nodeName"] == "sandbox"


async def test_its_events_are_those_of_a_real_node(cluster: Cluster) -> None:
    await cluster.run(pod())
    assert [(event.component, event.type, event.reason, event.message) for event in cluster.api.events] == [
        ("default-scheduler", "Normal", "Scheduled", "Successfully assigned default/p to sandbox"),
        ("kubelet", "Normal", "Pulled", 'Container image "shell" already present on machine'),
        ("kubelet", "Normal", "Created", "Created container: main"),
        ("kubelet", "Normal", "Started", "Started container main"),
    ]


@pytest.mark.parametrize(
    ("script", "code", "reason"),
    [("exit 65", 65, "Error"), ("kill -9 $$$$", 137, "Error"), ("kill -TERM $$$$", 143, "Error")],
)
async def test_a_container_that_fails_fails_the_pod(cluster: Cluster, script: str, code: int, reason: str) -> None:
    ended = state(await cluster.run(pod(container(script)), "Failed"))["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (code, reason)


async def test_environment_arguments_and_paths_as_the_container_sees_them(cluster: Cluster) -> None:
    env = [
        {"name": "POD", "value": "p"},
        {"name": "DIR", "value": "/work/$(POD)"},
        {"name": "PARENT", "value": "/mnt/claims"},
    ]
    mounts = [{"name": "v", "mountPath": "/work"}, {"name": "v", "mountPath": "/mnt/claims/c", "subPath": "claim"}]
    script = 'mkdir -p "$DIR"; echo "$1" > "$DIR/f"; cat /work/p/f; ls "$PARENT"; echo "$HOSTNAME"; pwd'
    obj = pod(
        {
            **container(env=env, volumeMounts=mounts, workingDir="/work"),
            "command": ["sh", "-c", script],
            "args": ["sh", "--out=$(DIR):/usr"],
        },
        volumes=[{"name": "v", "emptyDir": {}}],
    )
    lines = await cluster.run_script(obj)
    tree = cluster.tree()
    assert lines[0] == f"--out={tree}/work/p:/usr"
    assert lines[1:3] == ["c", "p"]
    assert lines[3].endswith("/_volumes/v") or lines[3] == f"{tree}/work"


async def test_the_image_comes_first_on_path_and_nothing_of_the_machines_environment_gets_in(
    start_cluster: StartCluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LEAKED", "secret")
    program = tmp_path / "bin" / "greet"
    program.parent.mkdir()
    program.write_text("#!/bin/sh\necho from the image\nenv | cut -d= -f1 | sort | tr '\\n' ' '\n")
    program.chmod(0o755)
    cluster = await start_cluster(images={"greeter:1": program.parent})
    lines = await cluster.run_script(pod({"name": "main", "image": "greeter:1", "command": ["greet"]}))
    assert lines == ["from the image", "CUDA_VISIBLE_DEVICES HOME HOSTNAME PATH PWD "]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "said"),
        ({"terminationMessagePath": "/out/said", "volumeMounts": [{"name": "v", "mountPath": "/out"}]}, "said"),
        ({"terminationMessagePath": "/dev/other"}, ""),
    ],
)
async def test_the_termination_message_is_in_the_status(cluster: Cluster, fields: dict[str, Any], message: str) -> None:
    script = 'printf said > "$MESSAGE"'
    path = fields.get("terminationMessagePath", "/dev/termination-log")
    value = "/nowhere-at-all" if path == "/dev/other" else path
    env = [{"name": "MESSAGE", "value": value if message else "message"}]
    status = await cluster.run(pod(container(script, env=env, **fields), volumes=[{"name": "v", "emptyDir": {}}]))
    assert state(status)["terminated"].get("message", "") == message


@pytest.mark.parametrize(
    ("script", "message"),
    [
        ("echo from the log; exit 1", "from the log\n"),
        ("echo from the log; printf own > /dev/termination-log; exit 1", "own"),
        ("echo from the log", None),
    ],
)
async def test_the_log_stands_in_for_a_missing_message_of_a_failed_container(
    cluster: Cluster, script: str, message: str | None
) -> None:
    obj = pod(container(script, terminationMessagePolicy="FallbackToLogsOnError"))
    status = await cluster.run(obj, "Succeeded" if message is None else "Failed")
    assert state(status)["terminated"].get("message") == message


async def test_a_long_termination_message_loses_its_beginning(cluster: Cluster) -> None:
    script = "printf '%5000s' x | tr ' ' - > /dev/termination-log"
    message = state(await cluster.run(pod(container(script))))["terminated"]["message"]
    assert len(message) == 4096
    assert message.endswith("-x")


async def test_a_program_that_is_not_there_is_a_start_error(cluster: Cluster) -> None:
    status = await cluster.run(pod(container(command=["no-such-program"])), "Failed")
    ended = state(status)["terminated"]
    assert (ended["exitCode"], ended["reason"], ended["startedAt"]) == (128, "StartError", "1970-01-01T00:00:00Z")
    assert 'exec: "no-such-program": executable file not found in $PATH' in ended["message"]
    assert f"Error: {ended['message']}" in cluster.api.messages("p")


async def test_memory_beyond_the_limit_is_oom_killed(cluster: Cluster) -> None:
    script = "exec python3 -c 'x = bytearray(300_000_000); input()'"
    limits = {"limits": {"memory": "100M"}, "requests": {"memory": "100M"}}
    ended = state(await cluster.run(pod(container(script, resources=limits)), "Failed"))["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (137, "OOMKilled")


async def test_what_the_node_can_not_do_fails_the_pod_with_a_sentence(cluster: Cluster) -> None:
    status = await cluster.run(pod(container(volumeMounts=[{"name": "v", "mountPath": "/"}])), "Failed")
    assert status["reason"] == "UnexpectedAdmissionError"
    assert status["message"].startswith(
        "Pod was rejected: the sandbox's node does not support spec.containers[0].volumeMounts: a mountPath of /"
    )
    assert "UnexpectedAdmissionError" in cluster.api.reasons("p")


async def test_an_image_that_is_not_there_waits_as_on_a_real_node(cluster: Cluster) -> None:
    cluster.api.create("pods", pod(container(image="nowhere:1")))
    status = await cluster.api.waiting("p", "ErrImagePull")
    assert 'no image "nowhere:1" (it has: shell)' in state(status)["waiting"]["message"]
    status = await cluster.api.waiting("p", "ImagePullBackOff")
    assert state(status)["waiting"]["message"].startswith('Back-off pulling image "nowhere:1": ErrImagePull: ')
    assert status["phase"] == "Pending"
    assert cluster.api.reasons("p")[:4] == ["Scheduled", "Pulling", "Failed", "Failed"]
    assert {'Pulling image "nowhere:1"', "Error: ErrImagePull", "Error: ImagePullBackOff"} <= set(
        cluster.api.messages("p")
    )


async def test_an_image_that_must_not_be_pulled(cluster: Cluster) -> None:
    cluster.api.create("pods", pod(container(image="nowhere", imagePullPolicy="Never")))
    status = await cluster.api.waiting("p", "ErrImageNeverPull")
    expected = 'Container image "nowhere" is not present with pull policy of Never'
    assert state(status)["waiting"]["message"] == expected


async def test_a_missing_secret_key_is_a_config_error_until_it_comes(cluster: Cluster) -> None:
    env = [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "token"}}}]
    cluster.api.create("pods", pod(container("test $TOKEN = hidden", env=env)))
    status = await cluster.api.waiting("p", "CreateContainerConfigError")
    assert state(status)["waiting"]["message"] == 'secret "s" not found'
    assert 'Error: secret "s" not found' in cluster.api.messages("p")
    cluster.api.create("secrets", {"metadata": {"name": "s"}, "data": {"token": "aGlkZGVu"}})
    await cluster.api.phase("p", "Succeeded")


async def test_no_secret_appears_in_status_or_events(cluster: Cluster) -> None:
    cluster.api.create("secrets", {"metadata": {"name": "s"}, "data": {"token": "aGlkZGVuLXZhbHVl"}})
    env = [{"name": "TOKEN", "valueFrom": {"secretKeyRef": {"name": "s", "key": "token"}}}]
    await cluster.run(pod(container("exit 1", env=env)), "Failed")
    assert "hidden-value" not in json.dumps(cluster.api.statuses) + str(cluster.api.events)


async def test_a_service_link_to_configuration_by_env_from(cluster: Cluster) -> None:
    cluster.api.create("secrets", {"metadata": {"name": "s"}, "data": {"A": "MQ=="}})
    obj = pod(container('echo "$A"', envFrom=[{"secretRef": {"name": "s"}}]))
    assert await cluster.run_script(obj) == ["1"]


async def test_pods_of_other_nodes_and_schedulers_are_left_alone(cluster: Cluster) -> None:
    cluster.api.create("pods", pod(name="elsewhere", nodeName="other"))
    cluster.api.create("pods", pod(name="theirs", schedulerName="custom"))
    await cluster.run(pod(name="mine"))
    untouched = {"phase": "Pending", "qosClass": "BestEffort"}
    assert cluster.api.pod("elsewhere")["status"] == cluster.api.pod("theirs")["status"] == untouched


async def test_a_failure_of_the_node_itself_is_told_and_logged(
    cluster: Cluster, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr("sftjob_sandbox.node.runner.prepare", broken)
    status = await cluster.run(pod(), "Failed")
    assert (status["reason"], status["message"]) == ("NodeError", "The sandbox's node failed; see its log")
    assert "ZeroDivisionError" in caplog.text
