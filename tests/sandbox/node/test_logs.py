import asyncio
from pathlib import Path
from typing import Any

import pytest

from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.node.containers.logs import LogOptions, container_to_log, is_running, last_output, read_log
from sftjob_sandbox.node.containers.paths import PodPaths
from support.fakes.node_api import container, pod

POD = {**pod(container(name="a"), container(name="b")), "metadata": {"name": "p", "namespace": "ns", "uid": "u"}}


def log_of(data: Path) -> Path:
    path = PodPaths.of(data, POD).log("a")
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


async def output(data: Path, container: str = "a", **options: Any) -> str:
    return b"".join([x async for x in read_log(data, POD, container, LogOptions(**options), lambda: False)]).decode()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "line 0\nline 1\nline 2\nline 3\nline 4\n"),
        ({"tail_lines": 2}, "line 3\nline 4\n"),
        ({"tail_lines": 0}, ""),
        ({"tail_lines": 99}, "line 0\nline 1\nline 2\nline 3\nline 4\n"),
        ({"follow": True, "tail_lines": 1}, "line 4\n"),
    ],
)
async def test_options_of_kubectl_logs(tmp_path: Path, options: dict[str, Any], expected: str) -> None:
    log_of(tmp_path).write_text("".join(f"line {number}\n" for number in range(5)))
    assert await output(tmp_path, **options) == expected


async def test_a_container_that_never_started_has_no_output(tmp_path: Path) -> None:
    assert await output(tmp_path, "b") == ""


async def test_an_unfinished_line_counts_as_a_line(tmp_path: Path) -> None:
    log_of(tmp_path).write_text("one\ntwo\nthr")
    assert await output(tmp_path, tail_lines=2) == "two\nthr"


async def test_the_tail_is_found_across_blocks(tmp_path: Path) -> None:
    log_of(tmp_path).write_text("".join(f"{number} {'x' * 50}\n" for number in range(3000)))
    lines = (await output(tmp_path, tail_lines=2000)).splitlines()
    assert [int(line.split()[0]) for line in lines] == list(range(1000, 3000))


async def test_following_ends_with_the_container_and_misses_nothing(tmp_path: Path) -> None:
    running, seen = [True], asyncio.Queue[bytes]()

    async def follow() -> None:
        async for piece in read_log(tmp_path, POD, "a", LogOptions(follow=True), lambda: running[0]):
            seen.put_nowait(piece)

    with log_of(tmp_path).open("ab", buffering=0) as log:
        log.write(b"one\n")
        following = asyncio.create_task(follow())
        assert await seen.get() == b"one\n"
        log.write(b"two\n")
        assert await seen.get() == b"two\n"
        log.write(b"last without newline")
    running[0] = False
    await asyncio.wait_for(following, 20)
    assert seen.get_nowait() == b"last without newline"


def test_the_last_output_is_at_most_80_lines_and_2048_bytes(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("".join(f"{number}\n" for number in range(200)))
    assert last_output(log).splitlines() == [str(number) for number in range(120, 200)]
    log.write_text("x" * 5000 + "\n")
    assert last_output(log) == "x" * 2047 + "\n"
    assert last_output(tmp_path / "none") == ""


def with_status(**status: Any) -> dict[str, Any]:
    containers = [{"name": "a", "state": {}, "lastState": {}, **status}]
    return {
        **POD,
        "spec": {**POD["spec"], "nodeName": "sandbox"},
        "status": {"containerStatuses": containers},
    }


ENDED = {"terminated": {"exitCode": 0, "containerID": "sandbox://1"}}


@pytest.mark.parametrize(
    ("obj", "name", "sentence"),
    [
        (with_status(), None, "a container name must be specified for pod p, choose one of: [a b]"),
        (with_status(), "z", "container z is not valid for pod p"),
        (with_status(), "b", 'container "b" in pod "p" is not available'),
        (with_status(), "a", 'container "a" in pod "p" is waiting to start - no logs yet'),
        (
            with_status(state={"waiting": {"reason": "ContainerCreating"}}),
            "a",
            'container "a" in pod "p" is waiting to start: ContainerCreating',
        ),
        (
            with_status(state={"waiting": {"reason": "ImagePullBackOff"}}),
            "a",
            'container "a" in pod "p" is waiting to start: trying and failing to pull image',
        ),
        (with_status(state={"terminated": {"exitCode": 137}}), "a", 'container "a" in pod "p" is terminated'),
    ],
)
def test_a_log_that_cannot_be_read_is_refused_in_the_kubelets_words(
    obj: dict[str, Any], name: str | None, sentence: str
) -> None:
    with pytest.raises(ApiError) as error:
        container_to_log(obj, name)
    assert (error.value.code, error.value.reason, error.value.message) == (400, "BadRequest", sentence)


@pytest.mark.parametrize("state", [{"running": {}}, ENDED])
def test_a_container_that_runs_or_ran_has_a_log(state: dict[str, Any]) -> None:
    assert container_to_log(with_status(state=state), "a") == "a"


def test_the_only_container_needs_no_name_and_a_pod_without_node_has_an_empty_log() -> None:
    assert container_to_log({**POD, "spec": {"containers": [container(name="only")]}}, None) == "only"


def test_only_a_running_container_may_still_write() -> None:
    assert is_running(with_status(state={"running": {}}), "a")
    assert not is_running(with_status(state=ENDED), "a")
    assert not is_running(POD, "a")
