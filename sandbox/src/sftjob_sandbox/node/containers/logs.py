"""Container logs: files with the output of both streams, read as `kubectl logs` requests.

Source of the error messages: k8s.io/kubernetes pkg/kubelet/kubelet_pods.go (validateContainerLogStatus) and
pkg/registry/core/pod/strategy.go (LogLocation).
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Final

from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.apimachinery.objects import Object, name_of
from sftjob_sandbox.node.containers.paths import PodPaths

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
    """The supported fields of v1.PodLogOptions; None means without limit."""

    follow: bool = False
    tail_lines: int | None = None


async def read_log(
    data: Path, pod: Object, container: str, options: LogOptions, is_running: Callable[[], bool]
) -> AsyncIterator[bytes]:
    """The log of a container, in pieces; with `follow`, until `is_running` returns False.

    `data` is the node's data directory. `container_to_log` checks whether there is a log to read.
    """
    path = PodPaths.of(data, pod).log(container)
    if not path.exists():
        return  # it was never started
    with path.open("rb") as file:
        if options.tail_lines is not None:
            file.seek(_tail_start(file, options.tail_lines))
        while True:
            running = is_running()  # asked first, so that output from before the end is read after it
            if block := file.read(_BLOCK_BYTES):
                yield block
            elif options.follow and running:
                await asyncio.sleep(_POLL_SECONDS)
            else:
                return


def last_output(path: Path) -> str:
    """The end of a log as a termination message: at most FALLBACK_LINES lines and FALLBACK_BYTES bytes."""
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(_tail_start(file, FALLBACK_LINES), file.seek(0, 2) - FALLBACK_BYTES))
        return file.read().decode(errors="replace")


def container_to_log(pod: Object, container: str | None) -> str:
    """Name of the container whose log is requested. Raises ApiError: 400, it is not specified, or has no log (yet)."""
    names = [container["name"] for container in pod["spec"]["containers"]]
    if not container and len(names) > 1:
        choices = f"choose one of: [{' '.join(names)}]"
        raise _bad_request(f"a container name must be specified for pod {name_of(pod)}, {choices}")
    name = container or names[0]
    if name not in names:
        raise _bad_request(f"container {name} is not valid for pod {name_of(pod)}")
    if pod["spec"].get("nodeName") and (refusal := _refusal(pod, name)):
        raise _bad_request(refusal)
    return name


def is_running(pod: Object, container: str) -> bool:
    """Whether the container may still write to its log."""
    return "running" in (_container_status(pod, container) or {}).get("state", {})


def _refusal(pod: Object, name: str) -> str | None:
    which = f'container "{name}" in pod "{name_of(pod)}"'
    status = _container_status(pod, name)
    if status is None:
        return f"{which} is not available"
    state = status.get("state") or {}
    if "terminated" in state:
        return None if state["terminated"].get("containerID") else f"{which} is terminated"
    if "waiting" in state:
        reason = state["waiting"].get("reason", "")
        return f"{which} is waiting to start: {_PULLING.get(reason, reason)}"
    return None if "running" in state else f"{which} is waiting to start - no logs yet"


def _container_status(pod: Object, name: str) -> dict[str, Any] | None:
    statuses = (pod.get("status") or {}).get("containerStatuses") or ()
    return next((status for status in statuses if status["name"] == name), None)


def _bad_request(message: str) -> ApiError:
    return ApiError(400, "BadRequest", message)


def _tail_start(file: BinaryIO, lines: int) -> int:
    """Offset at which the last `lines` lines begin."""
    position = file.seek(0, 2)
    if position:  # an unfinished last line counts as a line
        file.seek(position - 1)
        lines += file.read(1) == b"\n"
    while position > 0:
        size = min(_BLOCK_BYTES, position)
        position -= size
        file.seek(position)
        block = file.read(size)
        at = len(block)
        while lines and (at := block.rfind(b"\n", 0, at)) >= 0:
            lines -= 1
        if not lines:
            return position + at + 1
    return 0
