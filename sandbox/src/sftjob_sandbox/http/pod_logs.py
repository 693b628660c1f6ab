"""GET pods/NAME/log."""

import contextlib
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from aiohttp import web

from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.apimachinery.objects import uid_of
from sftjob_sandbox.cluster.store import Store
from sftjob_sandbox.http.listing import flag, integer
from sftjob_sandbox.node.containers.logs import LogOptions, container_to_log, is_running, read_log
from sftjob_sandbox.storage.writes import Target

_SUPPORTED: Final = ("container", "follow", "tailLines")


async def answer_log(store: Store, data: Path, target: Target, request: web.Request) -> web.StreamResponse:
    """A container's log, with `follow` until the container has ended. Raises ApiError 400 or 404."""
    pod = store.writer.live(target).object
    options = _options(request.query)
    container = container_to_log(pod, request.query.get("container"))

    def still_running() -> bool:
        entry = store.storage.collection("pods").entries.get(target.key)
        return entry is not None and uid_of(entry.object) == uid_of(pod) and is_running(entry.object, container)

    response = web.StreamResponse(headers={"Content-Type": "text/plain", "Cache-Control": "no-cache, private"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        async for text in read_log(data, pod, container, options, still_running):
            await response.write(text)
    return response


def _options(query: Mapping[str, str]) -> LogOptions:
    for name in query:
        if name not in _SUPPORTED:
            raise ApiError(400, "BadRequest", f"this local server does not support the log option {name}: remove it")
    return LogOptions(follow=flag(query, "follow"), tail_lines=integer(query, "tailLines"))
