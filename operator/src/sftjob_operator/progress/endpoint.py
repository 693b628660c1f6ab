"""`POST progress_path(NAMESPACE, NAME)`: one trainer's whole state, believed only from the Pod that runs it.

401 the token is none of ours, 403 its Pod is not the one that trains this job, 413 too large, 408 too slow,
400 not a report, 503 ask again, 204 taken.
"""

import asyncio
import logging
import socket
import ssl
from collections.abc import Callable
from typing import Final

from aiohttp import web

from sftjob_contract.codec import from_json
from sftjob_contract.names import PROGRESS_BODY_LIMIT_BYTES, progress_path
from sftjob_contract.progress import PROGRESS_VERSION, Progress
from sftjob_operator.progress.identity import PodIdentity, TokenReviewer

BODY_TIMEOUT_SECONDS: Final = 10
RETRY_AFTER_SECONDS: Final = 5
_BEARER: Final = "Bearer "
_LONGEST_TOKEN: Final = 16 * 1024

Key = tuple[str, str]
Accepts = Callable[[Key, PodIdentity], int | None]
"""Number of the attempt that this Pod runs for this job, or None if it is not the Pod that trains it now."""
Receive = Callable[[Key, Progress], None]
"""Takes in a report.

Raises:
    ValueError: it is not one that can be stored; the text says why.
"""

log = logging.getLogger(__name__)


class ProgressEndpoint:
    """The endpoint's routes; `serve` serves them."""

    def __init__(self, reviewer: TokenReviewer, accepts: Accepts, receive: Receive) -> None:
        self._reviewer = reviewer
        self._accepts = accepts
        self._receive = receive
        self._runner: web.AppRunner | None = None

    async def serve(self, listener: socket.socket, tls: ssl.SSLContext) -> None:
        """Serve on a socket that listens already, until `close`."""
        app = web.Application(client_max_size=PROGRESS_BODY_LIMIT_BYTES)
        app.router.add_post(progress_path("{namespace}", "{name}"), self._post)
        self._runner = web.AppRunner(app, access_log=None, handle_signals=False, shutdown_timeout=1.0)
        await self._runner.setup()
        await web.SockSite(self._runner, listener, ssl_context=tls).start()

    async def close(self) -> None:
        """Stop listening and end open connections."""
        if self._runner is not None:
            await self._runner.cleanup()

    async def _post(self, request: web.Request) -> web.Response:
        key = (request.match_info["namespace"], request.match_info["name"])
        try:
            attempt = await self._authorize(request, key)
            self._receive(key, _report(await _body(request), attempt))
        except web.HTTPException as refusal:
            log.info("progress report refused with %s: %s", refusal.status, refusal.text, extra={"job": "/".join(key)})
            raise
        except ValueError as error:
            log.info("progress report refused with 400: %s", error, extra={"job": "/".join(key)})
            raise web.HTTPBadRequest(text=f"not a usable report: {error}") from error
        return web.Response(status=204)

    async def _authorize(self, request: web.Request, key: Key) -> int:
        """The attempt that the bearer runs for job `key`, or an HTTPException."""
        header = request.headers.get("Authorization", "")
        token = header.removeprefix(_BEARER).strip()
        if not header.startswith(_BEARER) or not 0 < len(token) <= _LONGEST_TOKEN:
            raise _unauthorized("a bearer token is needed: the one projected into the train Pod")
        try:
            pod = await self._reviewer.pod_of(token)
        except Exception as error:
            log.warning("TokenReview failed: %s", error, extra={"job": "/".join(key)})
            text = "the token can not be checked now"
            raise web.HTTPServiceUnavailable(text=text, headers={"Retry-After": str(RETRY_AFTER_SECONDS)}) from error
        if pod is None:
            raise _unauthorized("the token is not valid for this endpoint")
        attempt = self._accepts(key, pod)
        if attempt is None:
            raise web.HTTPForbidden(text="the token's Pod is not the one that trains this job now")
        return attempt


def _unauthorized(text: str) -> web.HTTPUnauthorized:
    return web.HTTPUnauthorized(text=text, headers={"WWW-Authenticate": "Bearer"})


async def _body(request: web.Request) -> bytes:
    if request.content_length is not None and request.content_length > PROGRESS_BODY_LIMIT_BYTES:
        raise web.HTTPRequestEntityTooLarge(PROGRESS_BODY_LIMIT_BYTES, request.content_length)
    try:
        async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
            return await request.read()
    except TimeoutError as error:
        raise web.HTTPRequestTimeout(text=f"the body did not arrive within {BODY_TIMEOUT_SECONDS} s") from error


def _report(body: bytes, attempt: int) -> Progress:
    progress = from_json(Progress, body, ignore_unknown=True)
    if progress.version != PROGRESS_VERSION:
        raise ValueError(f"version must be {PROGRESS_VERSION}, not {progress.version}")
    if progress.attempt != attempt:
        raise ValueError(f"attempt must be {attempt}, the one of this Pod, not {progress.attempt}")
    return progress
