"""GET pods/NAME/log."""

import contextlib
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path

from aiohttp import web

from sftjob_sandbox.errors import ApiError
from sftjob_sandbox.listing import flag, integer
from sftjob_sandbox.node.logs import LogOptions, container_to_log, is_running, read_log
from sftjob_sandbox.objects import parse_timestamp, uid_of
from sftjob_sandbox.store import Store
from sftjob_sandbox.writes import Target


async def answer_log(store: Store, data: Path, target: Target, request: web.Request) -> web.StreamResponse:
    """A container's log, followed until the container has ended if that is asked for. Raises ApiError 400 or 404."""
    pod = store.writer.live(target).object
    options = _options(request.query, store.clock())
    container = container_to_log(pod, request.query.get("container"), previous=options.previous)

    def still_running() -> bool:
        entry = store.storage.collection("pods").entries.get(target.key)
        return entry is not None and uid_of(entry.object) == uid_of(pod) and is_running(entry.object, container)

    response = web.StreamResponse(headers={"Content-Type": "text/plain", "Cache-Control": "no-cache, private"})
    await response.prepare(request)
    with contextlib.suppress(ConnectionError):
        async for text in read_log(data, pod, container, options, still_running):
            await response.write(text)
    return response


def _options(query: Mapping[str, str], now: datetime) -> LogOptions:
    since_seconds, since = integer(query, "sinceSeconds"), None
    if since_seconds is not None and "sinceTime" in query:
        raise ApiError(400, "BadRequest", "at most one of `sinceTime` or `sinceSeconds` may be specified")
    if since_seconds is not None:
        since = now - timedelta(seconds=since_seconds)
    elif "sinceTime" in query:
        since = parse_timestamp(query["sinceTime"])
    return LogOptions(
        follow=flag(query, "follow"),
        previous=flag(query, "previous"),
        timestamps=flag(query, "timestamps"),
        tail_lines=integer(query, "tailLines"),
        since=since,
        limit_bytes=integer(query, "limitBytes"),
    )
