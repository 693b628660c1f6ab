"""Container logs in the CRI format (`TIME stdout F line`): writing them, and reading them as `kubectl logs` asks.

Sources: k8s.io/kubernetes pkg/kubelet/kuberuntime/logs/logs.go, pkg/kubelet/kubelet_pods.go
(validateContainerLogStatus) and pkg/registry/core/pod/strategy.go (LogLocation).
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from sftjob_sandbox.errors import ApiError
from sftjob_sandbox.node.paths import PodPaths
from sftjob_sandbox.objects import Object, name_of

LONGEST_LINE_BYTES: Final = 16 * 1024
FALLBACK_LINES: Final = 80
FALLBACK_BYTES: Final = 2048
_POLL_SECONDS: Final = 0.1
_BLOCK_BYTES: Final = 1 << 16
_PULLING: Final = {
    "ErrImagePull": "image can't be pulled",
    "ImagePullBackOff": "trying and failing to pull image",
}


@dataclass(frozen=True, kw_only=True)
class LogOptions:
    """What `kubectl logs` may ask for, as in v1.PodLogOptions; None means without limit."""

    follow: bool = False
    previous: bool = False
    timestamps: bool = False
    tail_lines: int | None = None
    since: datetime | None = None
    limit_bytes: int | None = None


class LogWriter:
    """Appends the output of one container to its log, line by line, with the time of each."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._file = path.open("wb")
        self._partial = {"stdout": b"", "stderr": b""}

    def write(self, stream: str, chunk: bytes) -> None:
        """Output of `stream`; what comes after its last newline waits for the rest of the line."""
        *lines, rest = (self._partial[stream] + chunk).split(b"\n")
        entries = [entry for line in lines for entry in _entries(stream, line)]
        while len(rest) >= LONGEST_LINE_BYTES:
            entries.append(_entry(stream, "P", rest[:LONGEST_LINE_BYTES]))
            rest = rest[LONGEST_LINE_BYTES:]
        self._partial[stream] = rest
        self._append(entries)

    def end(self, stream: str) -> None:
        """The stream has ended; an unfinished line is written as it is. After both streams the file is closed."""
        if rest := self._partial.pop(stream):
            self._append([_entry(stream, "P", rest)])
        if not self._partial:
            self._file.close()

    def _append(self, entries: list[bytes]) -> None:
        self._file.write(b"".join(entries))
        self._file.flush()


def _entries(stream: str, line: bytes) -> Iterator[bytes]:
    while len(line) > LONGEST_LINE_BYTES:
        yield _entry(stream, "P", line[:LONGEST_LINE_BYTES])
        line = line[LONGEST_LINE_BYTES:]
    yield _entry(stream, "F", line)


def _entry(stream: str, tag: str, content: bytes) -> bytes:
    seconds, nanoseconds = divmod(time.time_ns(), 1_000_000_000)
    moment = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")
    return f"{moment}.{nanoseconds:09d}Z {stream} {tag} ".encode() + content + b"\n"


async def read_log(
    data: Path, pod: Object, container: str, options: LogOptions, is_running: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """The log of a container as `options` ask, in pieces; while following, until `is_running` says no.

    `data` is the node's data directory. Whether there is a log to read is `container_to_log`'s question.
    """
    path = PodPaths.of(data, pod).log(container, previous=options.previous)
    if not path.exists():
        return  # it was never started
    reader = _LogReader(path, options)
    try:
        while not reader.finished:
            running = is_running()  # asked first, so that what came before the end is read after it
            text = reader.read()
            if text:
                yield text
            elif options.follow and running:
                await asyncio.sleep(_POLL_SECONDS)
            elif not reader.more:
                return
    finally:
        reader.close()


def last_output(path: Path) -> str:
    """The end of a log as a termination message: at most FALLBACK_LINES lines and FALLBACK_BYTES bytes."""
    if not path.exists():
        return ""
    reader = _LogReader(path, LogOptions(tail_lines=FALLBACK_LINES))
    try:
        text = b""
        while reader.more:
            text = (text + reader.read())[-FALLBACK_BYTES:]
    finally:
        reader.close()
    return text.decode(errors="replace")


def container_to_log(pod: Object, container: str | None, *, previous: bool) -> str:
    """Name of the container whose log is meant.

    Raises:
        ApiError: 400, none is meant, or it has no log (yet).
    """
    names = [[c["name"] for c in pod["spec"].get(kind) or ()] for kind in ("containers", "initContainers")]
    if not container and len(names[0]) > 1:
        init = f" or one of the init containers: [{' '.join(names[1])}]" if names[1] else ""
        choices = f"choose one of: [{' '.join(names[0])}]{init}"
        raise _bad_request(f"a container name must be specified for pod {name_of(pod)}, {choices}")
    name = container or names[0][0]
    if name not in names[0] + names[1]:
        raise _bad_request(f"container {name} is not valid for pod {name_of(pod)}")
    if pod["spec"].get("nodeName") and (refusal := _refusal(pod, name, previous)):
        raise _bad_request(refusal)
    return name


def is_running(pod: Object, container: str) -> bool:
    """Whether the container may still write to its log."""
    return "running" in (_container_status(pod, container) or {}).get("state", {})


def _refusal(pod: Object, name: str, previous: bool) -> str | None:
    which = f'container "{name}" in pod "{name_of(pod)}"'
    status = _container_status(pod, name)
    if status is None:
        return f"{which} is not available"
    state, last = status.get("state") or {}, (status.get("lastState") or {}).get("terminated") or {}
    if previous:
        return None if last.get("containerID") else f"previous terminated {which} not found"
    if "running" in state:
        return None
    if "terminated" in state or last:
        ended = state.get("terminated", {}).get("containerID") or last.get("containerID")
        return None if ended else f"{which} is terminated"
    if "waiting" in state:
        reason = state["waiting"].get("reason", "")
        return f"{which} is waiting to start: {_PULLING.get(reason, reason)}"
    return f"{which} is waiting to start - no logs yet"


def _container_status(pod: Object, name: str) -> dict[str, Any] | None:
    status = pod.get("status") or {}
    statuses = [*(status.get("containerStatuses") or ()), *(status.get("initContainerStatuses") or ())]
    return next((status for status in statuses if status["name"] == name), None)


def _bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


class _LogReader:
    """Reads a log from where `options` say and turns its entries into output."""

    def __init__(self, path: Path, options: LogOptions) -> None:
        self._file = path.open("rb")
        self._options = options
        self._left = options.limit_bytes
        self._rest = b""
        self.more = True
        if options.tail_lines is not None:
            self._file.seek(_tail_start(self._file, options.tail_lines))

    @property
    def finished(self) -> bool:
        """Whether the limit of bytes is reached."""
        return self._left is not None and self._left <= 0

    def read(self) -> bytes:
        """What has come since the last call; `more` tells whether another call may find something at once."""
        block = self._file.read(_BLOCK_BYTES)
        self.more = bool(block)
        *entries, self._rest = (self._rest + block).split(b"\n")
        text = b"".join(self._shown(entry) for entry in entries)
        if self._left is not None:
            text = text[: self._left]
            self._left -= len(text)
        return text

    def close(self) -> None:
        """Let go of the file."""
        self._file.close()

    def _shown(self, entry: bytes) -> bytes:
        moment, _, tag, content = entry.split(b" ", 3)
        if self._options.since and datetime.fromisoformat(moment.decode()) < self._options.since:
            return b""
        prefix = moment + b" " if self._options.timestamps else b""
        return prefix + content + (b"\n" if tag == b"F" else b"")


def _tail_start(file: BinaryIO, lines: int) -> int:
    """Offset at which the last `lines` lines begin."""
    end = file.seek(0, 2)
    position, missing = end, lines + 1  # the newline before the first of them counts as well
    while position > 0:
        size = min(_BLOCK_BYTES, position)
        position -= size
        file.seek(position)
        block = file.read(size)
        at = len(block)
        while missing and (at := block.rfind(b"\n", 0, at)) >= 0:
            missing -= 1
        if not missing:
            return position + at + 1
    return 0
