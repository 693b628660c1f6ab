import asyncio
import re
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sftjob_sandbox.errors import ApiError
from sftjob_sandbox.node.logs import (
    LONGEST_LINE_BYTES,
    LogOptions,
    LogWriter,
    container_to_log,
    is_running,
    last_output,
    read_log,
)
from sftjob_sandbox.node.paths import PodPaths
from support.node_api import container, pod

POD = {**pod(container(name="a"), container(name="b")), "metadata": {"name": "p", "namespace": "ns", "uid": "u"}}
ENTRIES = [f"2026-01-01T00:00:0{second}.123456789Z stdout F line {second}" for second in range(5)]


def log_of(data: Path, *, previous: bool = False) -> Path:
    path = PodPaths.of(data, POD).log("a", previous=previous)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


@pytest.fixture
def data(tmp_path: Path) -> Path:
    log_of(tmp_path).write_text("".join(f"{entry}\n" for entry in ENTRIES))
    log_of(tmp_path, previous=True).write_text("2026-01-01T00:00:00Z stdout F before\n")
    return tmp_path


async def output(data: Path, container: str = "a", **options: Any) -> str:
    return b"".join([x async for x in read_log(data, POD, container, LogOptions(**options), lambda: False)]).decode()


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, "line 0\nline 1\nline 2\nline 3\nline 4\n"),
        ({"tail_lines": 2}, "line 3\nline 4\n"),
        ({"tail_lines": 0}, ""),
        ({"tail_lines": 99, "limit_bytes": 9}, "line 0\nli"),
        ({"limit_bytes": 0}, ""),
        ({"since": datetime(2026, 1, 1, 0, 0, 3, tzinfo=UTC)}, "line 3\nline 4\n"),
        ({"tail_lines": 1, "timestamps": True}, "2026-01-01T00:00:04.123456789Z line 4\n"),
        ({"previous": True}, "before\n"),
        ({"follow": True, "tail_lines": 1}, "line 4\n"),
    ],
)
async def test_what_kubectl_logs_may_ask_for(data: Path, options: dict[str, Any], expected: str) -> None:
    assert await output(data, **options) == expected


async def test_a_container_that_never_started_has_no_output(data: Path) -> None:
    assert await output(data, "b") == ""


async def test_the_tail_is_found_across_blocks(tmp_path: Path) -> None:
    writer = LogWriter(log_of(tmp_path))
    for number in range(3000):
        writer.write("stdout", f"{number} {'x' * 50}\n".encode())
    for stream in ("stdout", "stderr"):
        writer.end(stream)
    lines = (await output(tmp_path, tail_lines=2000)).splitlines()
    assert [int(line.split()[0]) for line in lines] == list(range(1000, 3000))


async def test_following_ends_with_the_container_and_misses_nothing(tmp_path: Path) -> None:
    writer, running, seen = LogWriter(log_of(tmp_path)), [True], asyncio.Queue[bytes]()
    writer.write("stdout", b"one\n")

    async def follow() -> None:
        async for piece in read_log(tmp_path, POD, "a", LogOptions(follow=True), lambda: running[0]):
            seen.put_nowait(piece)

    following = asyncio.create_task(follow())
    assert await seen.get() == b"one\n"
    writer.write("stdout", b"tw")
    writer.write("stderr", b"err\n")
    assert await seen.get() == b"err\n"
    writer.write("stdout", b"o\nlast without newline")
    for stream in ("stdout", "stderr"):
        writer.end(stream)
    running[0] = False
    await asyncio.wait_for(following, 20)
    assert seen.get_nowait() == b"two\nlast without newline"


async def test_very_long_lines_are_split_on_disk_and_whole_again_when_read(tmp_path: Path) -> None:
    writer, line = LogWriter(log_of(tmp_path)), b"x" * (3 * LONGEST_LINE_BYTES + 7)
    writer.write("stdout", line[:100])
    writer.write("stdout", line[100:] + b"\n" + b"\xff\n")
    for stream in ("stdout", "stderr"):
        writer.end(stream)
    tags = [entry.split(b" ", 3)[2] for entry in log_of(tmp_path).read_bytes().splitlines()]
    assert tags == [b"P", b"P", b"P", b"F", b"F"]
    pieces = [piece async for piece in read_log(tmp_path, POD, "a", LogOptions(), lambda: False)]
    assert b"".join(pieces) == line + b"\n\xff\n"


def test_each_line_has_its_time_and_stream(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path / "log")
    writer.write("stderr", b"oops\n")
    for stream in ("stdout", "stderr"):
        writer.end(stream)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z stderr F oops\n", (tmp_path / "log").read_text())


def test_the_last_output_is_at_most_80_lines_and_2048_bytes(tmp_path: Path) -> None:
    writer = LogWriter(tmp_path / "log")
    writer.write("stdout", b"".join(b"%d\n" % number for number in range(200)))
    assert last_output(tmp_path / "log").splitlines() == [str(number) for number in range(120, 200)]
    writer.write("stdout", b"x" * 5000 + b"\n")
    for stream in ("stdout", "stderr"):
        writer.end(stream)
    assert last_output(tmp_path / "log") == "x" * 2047 + "\n"
    assert last_output(tmp_path / "none") == ""


def with_status(**status: Any) -> dict[str, Any]:
    containers = [{"name": "a", "state": {}, "lastState": {}, **status}]
    return {
        **POD,
        "spec": {**POD["spec"], "nodeName": "sandbox", "initContainers": [container(name="i")]},
        "status": {"containerStatuses": containers},
    }


ENDED = {"terminated": {"exitCode": 0, "containerID": "sandbox://1"}}


@pytest.mark.parametrize(
    ("obj", "name", "previous", "sentence"),
    [
        (
            with_status(),
            None,
            False,
            "a container name must be specified for pod p, choose one of: [a b] or one of the init containers: [i]",
        ),
        (with_status(), "z", False, "container z is not valid for pod p"),
        (with_status(), "b", False, 'container "b" in pod "p" is not available'),
        (
            with_status(state={"waiting": {"reason": "ContainerCreating"}}),
            "a",
            False,
            'container "a" in pod "p" is waiting to start: ContainerCreating',
        ),
        (
            with_status(state={"waiting": {"reason": "ImagePullBackOff"}}),
            "a",
            False,
            'container "a" in pod "p" is waiting to start: trying and failing to pull image',
        ),
        (with_status(state=ENDED), "a", True, 'previous terminated container "a" in pod "p" not found'),
        (
            with_status(state={"terminated": {"exitCode": 137}}),
            "a",
            False,
            'container "a" in pod "p" is terminated',
        ),
    ],
)
def test_a_log_that_can_not_be_read_is_refused_in_the_kubelets_words(
    obj: dict[str, Any], name: str | None, previous: bool, sentence: str
) -> None:
    with pytest.raises(ApiError) as error:
        container_to_log(obj, name, previous=previous)
    assert (error.value.code, error.value.reason, error.value.message) == (400, "BadRequest", sentence)


@pytest.mark.parametrize(
    ("state", "last", "previous"),
    [
        ({"running": {}}, {}, False),
        (ENDED, {}, False),
        ({"waiting": {"reason": "CrashLoopBackOff"}}, ENDED, False),
        ({"running": {}}, ENDED, True),
    ],
)
def test_a_container_that_runs_or_ran_has_a_log(state: dict[str, Any], last: dict[str, Any], previous: bool) -> None:
    assert container_to_log(with_status(state=state, lastState=last), "a", previous=previous) == "a"


def test_the_only_container_needs_no_name_and_a_pod_without_node_has_an_empty_log() -> None:
    single = {**POD, "spec": {"containers": [container(name="only")]}}
    assert container_to_log(single, None, previous=False) == "only"


def test_only_a_running_container_may_still_write() -> None:
    assert is_running(with_status(state={"running": {}}), "a")
    assert not is_running(with_status(state=ENDED), "a")
    assert not is_running(POD, "a")
