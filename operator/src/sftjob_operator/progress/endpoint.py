"""`POST progress_path(NAMESPACE, NAME)`: one trainer's whole state, believed only from the Pod that runs it.

`POST trainer_status_path(NAMESPACE, NAME)`: the same from an image of the user's own, in Kubeflow's form.

401 the token is none of ours, 403 its Pod is not the one that trains this job, 413 too large, 408 too slow,
400 not a report, 429 too many, 503 ask again, 204 taken; 200 for what came in Kubeflow's form, whose senders know no
other success.
"""

import asyncio
import logging
import socket
import ssl
import time
from collections.abc import Callable
from typing import Final

from aiohttp import web

from sftjob_contract.codec import from_untrusted_json
from sftjob_contract.names import PROGRESS_BODY_LIMIT_BYTES, progress_path, trainer_status_path
from sftjob_contract.progress import PROGRESS_VERSION, Progress
from sftjob_operator.logs import LogPace
from sftjob_operator.progress.connections import (
    SILENT_SECONDS,
    Connection,
    Listener,
    connection_rate,
    one_request_of_strangers,
)
from sftjob_operator.progress.identity import LONGEST_TOKEN, PodIdentity, TokenReviewer
from sftjob_operator.progress.kubeflow import kubeflow_progress
from sftjob_operator.progress.limits import RateLimit
from sftjob_operator.progress.reception import Reception

BODY_TIMEOUT_SECONDS: Final = 10
RETRY_AFTER_SECONDS: Final = 5
REPORTS_AT_ONCE: Final = 20
REPORTS_PER_SECOND: Final = 2.0
"""Of one Pod, which sends one every two seconds."""
REVIEWS_AT_ONCE: Final = 20
REVIEWS_PER_SECOND: Final = 0.5
"""TokenReviews that one address may cause: a Pod needs one in five minutes."""
COMPLAINTS_AT_ONCE: Final = 20
COMPLAINTS_PER_SECOND: Final = 0.1
"""Refusals of one address that are worth a line in the log."""
_REMEMBERED: Final = 4096
_SHUTDOWN_SECONDS: Final = 1.0
_BEARER: Final = "Bearer "
_OBJECT_NAME: Final = "[a-z0-9.-]{1,253}"
"""No other path reaches the log."""

Key = tuple[str, str]
Accepts = Callable[[Key, PodIdentity], int | None]
"""Number of the attempt that this Pod runs for this job, or None if it is not the Pod that trains it now."""
Receive = Callable[[Key, Progress], None]
"""Takes in a report.

Raises:
    ValueError: it is not one that can be stored; the text says why.
"""
Known = Callable[[Key], Progress | None]
"""The newest report that was taken in for a job, if there is one."""
_Read = Callable[[Key, bytes, int], Progress]

log = logging.getLogger(__name__)


class ProgressEndpoint:
    """The endpoint's routes; `serve` serves them."""

    def __init__(
        self,
        reviewer: TokenReviewer,
        accepts: Accepts,
        receive: Receive,
        known: Known,
        reception: Reception,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reviewer = reviewer
        self._accepts = accepts
        self._receive = receive
        self._known = known
        self._reception = reception
        self._connection_rate = connection_rate(monotonic)
        self._listener: Listener | None = None
        self._reviews = RateLimit(
            burst=REVIEWS_AT_ONCE, per_second=REVIEWS_PER_SECOND, most=_REMEMBERED, monotonic=monotonic
        )
        self._reports = RateLimit(
            burst=REPORTS_AT_ONCE, per_second=REPORTS_PER_SECOND, most=_REMEMBERED, monotonic=monotonic
        )
        self._complaints = RateLimit(
            burst=COMPLAINTS_AT_ONCE, per_second=COMPLAINTS_PER_SECOND, most=_REMEMBERED, monotonic=monotonic
        )
        self._log_pace = LogPace(monotonic)
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None

    async def serve(self, listener: socket.socket, tls: ssl.SSLContext) -> None:
        """Serve on a socket that listens already, until `close`."""
        app = web.Application(client_max_size=PROGRESS_BODY_LIMIT_BYTES, middlewares=[one_request_of_strangers])
        names = f"{{namespace:{_OBJECT_NAME}}}", f"{{name:{_OBJECT_NAME}}}"
        app.router.add_post(progress_path(*names), self._post)
        app.router.add_post(trainer_status_path(*names), self._post_trainer_status)
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=_SHUTDOWN_SECONDS)
        await self._runner.setup()
        if (server := self._runner.server) is None:
            raise RuntimeError("aiohttp made no server")
        self._listener = Listener.of(listener, self._reception.disturbed, self._connection_rate)
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(server), sock=self._listener, ssl=tls, ssl_handshake_timeout=SILENT_SECONDS
        )

    async def close(self) -> None:
        """Stop listening and end open connections."""
        if self._server is not None:
            self._server.close()
        if self._runner is not None:
            await self._runner.cleanup()

    async def _post(self, request: web.Request) -> web.Response:
        await self._take(request, lambda _, body, attempt: _report(body, attempt))
        return web.Response(status=204)

    async def _post_trainer_status(self, request: web.Request) -> web.Response:
        await self._take(request, lambda key, body, attempt: kubeflow_progress(body, attempt, self._known(key)))
        return web.Response(status=200)

    async def _take(self, request: web.Request, read: _Read) -> None:
        key = (request.match_info["namespace"], request.match_info["name"])
        try:
            pod, attempt = await self._authorize(request, key)
            body = await _body(request)
            if self._accepts(key, pod) != attempt:  # the job was created again while the body arrived
                raise _not_the_trainer()
            self._receive(key, read(key, body, attempt))
        except web.HTTPException as refusal:
            self._complain(request, key, refusal)
            raise
        except ValueError as error:
            unusable = web.HTTPBadRequest(text=f"not a usable report: {error}")
            self._complain(request, key, unusable)
            raise unusable from error

    def _complain(self, request: web.Request, key: Key, refusal: web.HTTPException) -> None:
        """Log a refusal, unless this address has filled the log enough."""
        if self._complaints.allows(request.remote):
            self._complaints.take(request.remote)
            log.info("progress report refused with %s: %s", refusal.status, refusal.text, extra={"job": "/".join(key)})

    async def _authorize(self, request: web.Request, key: Key) -> tuple[PodIdentity, int]:
        """The bearer's Pod and the attempt that it runs for job `key`, or an HTTPException."""
        header = request.headers.get("Authorization", "")
        token = header.removeprefix(_BEARER).strip()
        if not header.startswith(_BEARER) or not 0 < len(token) <= LONGEST_TOKEN:
            raise _unauthorized("a bearer token is needed: the one projected into the train Pod")
        claims = self._reviewer.could_be_good(token)
        if claims is None:
            raise _unauthorized("the token is not valid for this endpoint")
        if claims.pod is not None and self._accepts(key, claims.pod) is None:
            raise _not_the_trainer()
        pod = await self._reviewed(request, key, token)
        if pod is None:
            raise _unauthorized("the token is not valid for this endpoint")
        if not self._reports.allows(pod):
            raise web.HTTPTooManyRequests(text="this Pod reports too often", headers=_later())
        self._reports.take(pod)
        attempt = self._accepts(key, pod)
        if attempt is None:
            raise _not_the_trainer()
        self._trust(request, pod)
        return pod, attempt

    async def _reviewed(self, request: web.Request, key: Key, token: str) -> PodIdentity | None:
        """The Pod that the API server names, now or a while ago."""
        if not self._reviewer.is_known(token):
            if not self._reviews.allows(request.remote):
                self._reception.disturbed()
                raise web.HTTPTooManyRequests(text="too many tokens of this address are new", headers=_later())
            self._reviews.take(request.remote)
        try:
            return await self._reviewer.pod_of(token)
        except Exception as error:
            self._reception.disturbed()
            if self._log_pace.is_news("TokenReview", str(error)):
                log.warning("TokenReview failed: %s", error, extra={"job": "/".join(key)})
            raise web.HTTPServiceUnavailable(text="the token cannot be checked now", headers=_later()) from error

    def _trust(self, request: web.Request, pod: PodIdentity) -> None:
        """Give the connection a place of its Pod's, and keep it open for the next report."""
        connection, transport = request.protocol, request.transport
        if isinstance(connection, Connection) and transport is not None and self._listener is not None:
            connection.trust()
            self._listener.places.trust(transport.get_extra_info("socket").fileno(), pod)


def _later() -> dict[str, str]:
    return {"Retry-After": str(RETRY_AFTER_SECONDS)}


def _not_the_trainer() -> web.HTTPForbidden:
    refusal = web.HTTPForbidden(text="the token's Pod is not the one that trains this job now")
    refusal.force_close()  # also of a Pod that trained before
    return refusal


def _unauthorized(text: str) -> web.HTTPUnauthorized:
    refusal = web.HTTPUnauthorized(text=text, headers={"WWW-Authenticate": "Bearer"})
    refusal.force_close()
    return refusal


async def _body(request: web.Request) -> bytes:
    if request.content_length is not None and request.content_length > PROGRESS_BODY_LIMIT_BYTES:
        raise web.HTTPRequestEntityTooLarge(PROGRESS_BODY_LIMIT_BYTES, request.content_length)
    try:
        async with asyncio.timeout(BODY_TIMEOUT_SECONDS):
            return await request.read()
    except TimeoutError as error:
        raise web.HTTPRequestTimeout(text=f"the body did not arrive within {BODY_TIMEOUT_SECONDS} s") from error


def _report(body: bytes, attempt: int) -> Progress:
    progress = from_untrusted_json(Progress, body, longest=PROGRESS_BODY_LIMIT_BYTES)
    if progress.version != PROGRESS_VERSION:
        raise ValueError(f"version must be {PROGRESS_VERSION}, not {progress.version}")
    if progress.attempt != attempt:
        raise ValueError(f"attempt must be {attempt}, the one of this Pod, not {progress.attempt}")
    return progress
