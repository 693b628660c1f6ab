"""What the node asks of the store: binding, status, Events, logs."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import pytest

from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.node.containers.paths import PodPaths
from sftjob_sandbox.sandbox import Sandbox
from support.clients.http_api import PODS, TABLE, HttpApi, pod
from support.clients.wait import eventually

EVENTS = "/api/v1/namespaces/default/events"


@pytest.fixture
async def bound(api: HttpApi, sandbox: Sandbox) -> Any:
    uid = (await api.ok("POST", PODS, pod()))["metadata"]["uid"]
    return sandbox.store.bind_pod("default", "one", uid, "node")


async def test_a_pod_is_bound_once(sandbox: Sandbox, bound: Any) -> None:
    assert bound["spec"]["nodeName"] == "node"
    assert bound["status"]["conditions"][0]["type"] == "PodScheduled"

    with pytest.raises(ApiError, match='pod one is already assigned to node "node"'):
        sandbox.store.bind_pod("default", "one", bound["metadata"]["uid"], "other")


async def test_what_is_said_of_another_pod_of_the_name_does_not_count(sandbox: Sandbox, bound: Any) -> None:
    assert bound["metadata"]["name"] == "one"
    for call in (
        lambda: sandbox.store.update_status("pods", "default", "one", "other", {"phase": "Running"}),
        lambda: sandbox.store.bind_pod("default", "one", "other", "node"),
        lambda: sandbox.store.finalize_pod("default", "one", "other"),
    ):
        with pytest.raises(ApiError) as refused:
            call()
        assert refused.value.code == 409


async def test_a_repeated_event_is_counted(api: HttpApi, sandbox: Sandbox, bound: Any) -> None:
    for message in ("pulling", "pulling", "pulled"):
        sandbox.store.record_event(bound, type="Normal", reason="Pull", message=message, component="kubelet")

    query = f"?fieldSelector=involvedObject.name=one,involvedObject.uid={bound['metadata']['uid']}"
    events = (await api.ok("GET", EVENTS + query))["items"]
    assert sorted((event["message"], event["count"]) for event in events) == [("pulled", 1), ("pulling", 2)]
    assert events[0]["source"] == {"component": "kubelet"}


async def test_events_have_columns_of_their_own(api: HttpApi, sandbox: Sandbox, bound: Any) -> None:
    sandbox.store.record_event(bound, type="Warning", reason="Failed", message="it is so", component="kubelet")

    table = await api.ok("GET", EVENTS, headers=TABLE)

    assert [c["name"] for c in table["columnDefinitions"] if not c["priority"]] == [
        "Last Seen",
        "Type",
        "Reason",
        "Object",
        "Message",
    ]
    assert table["rows"][0]["cells"][1:4] == ["Warning", "Failed", "pod/one"]


async def test_the_node_is_told_of_everything_from_the_start(sandbox: Sandbox, bound: Any) -> None:
    changes = sandbox.store.watch_from_start("pods")

    first = await anext(changes)
    sandbox.store.finalize_pod("default", "one", bound["metadata"]["uid"])
    later = [await anext(changes) for _ in range(2)]

    assert (first[0], first[1]["metadata"]["name"]) == ("ADDED", "one")
    assert [change for change, _ in later] == ["MODIFIED", "DELETED"]


def _status(state: dict[str, Any]) -> dict[str, Any]:
    container = {"name": "main", "image": "image:1", "imageID": "", "ready": False, "restartCount": 0, "state": state}
    return {"phase": "Running", "containerStatuses": [{**container, "containerID": "sandbox://1"}]}


@pytest.fixture
def log(tmp_path: Path, bound: Any) -> Iterator[BinaryIO]:
    path = PodPaths.of(tmp_path, bound).log("main")
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("ab", buffering=0) as log:
        yield log


async def test_a_log_is_followed_until_the_container_has_ended(
    api: HttpApi, sandbox: Sandbox, bound: Any, log: BinaryIO
) -> None:
    uid = bound["metadata"]["uid"]
    running = {"running": {"startedAt": "2026-01-01T00:00:00Z"}}
    sandbox.store.update_status("pods", "default", "one", uid, _status(running))
    log.write(b"one\n")

    async with api.stream(f"{PODS}/one/log?follow=true") as response:
        assert await response.content.readline() == b"one\n"
        log.write(b"two\n")
        assert await response.content.readline() == b"two\n"
        ended = {"terminated": {"exitCode": 0, "containerID": "sandbox://1"}}
        sandbox.store.update_status("pods", "default", "one", uid, _status(ended))
        assert await response.content.read() == b""


async def test_a_log_can_be_asked_for_in_part(api: HttpApi, sandbox: Sandbox, bound: Any, log: BinaryIO) -> None:
    uid = bound["metadata"]["uid"]
    sandbox.store.update_status("pods", "default", "one", uid, _status({"running": {}}))
    log.write(b"one\ntwo\nthree\n")

    answers = [(await api("GET", f"{PODS}/one/log{query}")).text for query in ("", "?tailLines=1")]

    assert answers == ["one\ntwo\nthree\n", "three\n"]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("?container=other", "container other is not valid for pod one"),
        ("", 'container "main" in pod "one" is not available'),
        ("?tailLines=x", 'strconv.ParseInt: parsing "x": invalid syntax'),
        ("?previous=true", "this local server does not support the log option previous: remove it"),
    ],
)
async def test_a_log_that_can_not_be_had_is_refused(api: HttpApi, bound: Any, query: str, message: str) -> None:
    refused = await api("GET", f"{PODS}/one/log{query}")

    assert bound["metadata"]["name"] == "one"
    assert refused.refusal == (400, "BadRequest", message)


async def test_a_node_that_comes_back_replaces_its_object(api: HttpApi, sandbox: Sandbox) -> None:
    node: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": "n"},
        "status": {"capacity": {"cpu": "1"}},
    }

    sandbox.store.register_node(node)
    sandbox.store.register_node({**node, "status": {"capacity": {"cpu": "2"}}})

    async def is_replaced() -> bool:
        return bool((await api.ok("GET", "/api/v1/nodes/n"))["status"]["capacity"] == {"cpu": "2"})

    await eventually(is_replaced, "the node is the old one")
