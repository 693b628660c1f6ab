"""`POST progress_path(NAMESPACE, NAME)`: one trainer's whole state, accepted only from the Pod that runs it.

`POST trainer_status_path(NAMESPACE, NAME)`: the same from a custom image, in Kubeflow's form.

401 the token is not one for this endpoint, 403 its Pod is not the one that trains this job, 413 too large, 408 too
slow, 400 not a report, 429 too many, 503 try again, 204 accepted; 200 for a report in Kubeflow's form, whose senders
accept no other success.
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
from sftjob_contract.reports.progress import PROGRESS_VERSION, Progress
from sftjob_operator.progress.availability import EndpointAvailability
from sftjob_operator.progress.connections import (
    SILENT_SECONDS,
    Connection,
    Listener,
    close_unknown_senders,
    connection_rate,
)
from sftjob_operator.progress.identity import LONGEST_TOKEN, PodIdentity, TokenReviewer
from sftjob_operator.progress.kubeflow import kubeflow_progress
from sftjob_operator.progress.limits import RateLimit
from sftjob_operator.runtime.logs import LogDeduplicator

BODY_TIMEOUT_SECONDS: Final = 10
RETRY_AFTER_SECONDS: Final = 5
REPORTS_AT_ONCE: Final = 20
REPORTS_PER_SECOND: Final = 2.0
"""Reports of one Pod, which sends one every two seconds."""
REVIEWS_AT_ONCE: Final = 20
REVIEWS_PER_SECOND: Final = 0.5
"""TokenReviews for one address: a Pod needs one in five minutes."""
REJECTION_LOGS_AT_ONCE: Final = 20
REJECTION_LOGS_PER_SECOND: Final = 0.1
"""Refusals of one address that are logged."""
_REMEMBERED: Final = 4096
_SHUTDOWN_SECONDS: Final = 1.0
_BEARER: Final = "Bearer "
_OBJECT_NAME: Final = "[a-z0-9.-]{1,253}"
"""Only these paths are logged."""

Key = tuple[str, str]
Accepts = Callable[[Key, PodIdentity], int | None]
"""Attempt number that this Pod runs for this job, or None if it is not the Pod that trains it now."""
Receive = Callable[[Key, Progress], None]
"""Store a report.

Raises:
    ValueError: it cannot be stored; the text explains why.
"""
Known = Callable[[Key], Progress | None]
"""The newest report accepted for a job, if any."""
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
        availability: EndpointAvailability,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reviewer = reviewer
        self._accepts = accepts
        self._receive = receive
        self._known = known
        self._availability = availability
        self._connection_rate = connection_rate(monotonic)
        self._listener: Listener | None = None
        self._reviews = RateLimit(
            burst=REVIEWS_AT_ONCE, per_second=REVIEWS_PER_SECOND, most=_REMEMBERED, monotonic=monotonic
        )
        self._reports = RateLimit(
            burst=REPORTS_AT_ONCE, per_second=REPORTS_PER_SECOND, most=_REMEMBERED, monotonic=monotonic
        )
        self._rejection_logs = RateLimit(
            burst=REJECTION_LOGS_AT_ONCE, per_second=REJECTION_LOGS_PER_SECOND, most=_REMEMBERED, monotonic=monotonic
        )
        self._log_dedup = LogDeduplicator(monotonic)
        self._runner: web.AppRunner | None = None
        self._server: asyncio.Server | None = None

    async def serve(self, listener: socket.socket, tls: ssl.SSLContext) -> None:
        """Serve on a listening socket, until `close`."""
        app = web.Application(client_max_size=PROGRESS_BODY_LIMIT_BYTES, middlewares=[close_unknown_senders])
        names = f"{{namespace:{_OBJECT_NAME}}}", f"{{name:{_OBJECT_NAME}}}"
        app.router.add_post(progress_path(*names), self._post)
        app.router.add_post(trainer_status_path(*names), self._post_trainer_status)
        self._runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=_SHUTDOWN_SECONDS)
        await self._runner.setup()
        if (server := self._runner.server) is None:
            raise RuntimeError("aiohttp created no server")
        self._listener = Listener.of(listener, self._availability.interrupted, self._connection_rate)
        self._server = await asyncio.get_running_loop().create_server(
            lambda: Connection(server), sock=self._listener, ssl=tls, ssl_handshake_timeout=SILENT_SECONDS
        )

    async def close(self) -> None:
        """Stop listening and close open connections."""
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
            if self._accepts(key, pod) != attempt:  # the job was recreated while the body arrived
                raise _not_the_trainer()
            self._receive(key, read(key, body, attempt))
        except web.HTTPException as error:
            self._log_rejection(request, key, error)
            raise
        except ValueError as error:
            unusable = web.HTTPBadRequest(text=f"invalid report: {error}")
            self._log_rejection(request, key, unusable)
            raise unusable from error

    def _log_rejection(self, request: web.Request, key: Key, error: web.HTTPException) -> None:
        """Log a refusal, unless this address exceeds its rate of log lines."""
        if self._rejection_logs.allows(request.remote):
            self._rejection_logs.take(request.remote)
            log.info("rejected a progress report with %s: %s", error.status, error.text, extra={"job": "/".join(key)})

    async def _authorize(self, request: web.Request, key: Key) -> tuple[PodIdentity, int]:
        """Return the bearer's Pod and the attempt that it runs for job `key`, or raise an HTTPException."""
        header = request.headers.get("Authorization", "")
        token = header.removeprefix(_BEARER).strip()
        if not header.startswith(_BEARER) or not 0 < len(token) <= LONGEST_TOKEN:
            raise _unauthorized("a bearer token is required: the one projected into the Train Pod")
        claims = self._reviewer.plausible_claims(token)
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
        """Return the Pod by TokenReview, or from the cache."""
        if not self._reviewer.is_known(token):
            if not self._reviews.allows(request.remote):
                self._availability.interrupted()
                raise web.HTTPTooManyRequests(text="too many new tokens from this address", headers=_later())
            self._reviews.take(request.remote)
        try:
            return await self._reviewer.pod_of(token)
        except Exception as error:
            self._availability.interrupted()
            if self._log_dedup.is_new("TokenReview", str(error)):
                log.warning("TokenReview failed: %s", error, extra={"job": "/".join(key)})
            raise web.HTTPServiceUnavailable(text="the token cannot be reviewed now", headers=_later()) from error

    def _trust(self, request: web.Request, pod: PodIdentity) -> None:
        """Give the connection a slot of its Pod, and keep it open for the next report."""
        connection, transport = request.protocol, request.transport
        if isinstance(connection, Connection) and transport is not None and self._listener is not None:
            connection.trust()
            self._listener.slots.trust(transport.get_extra_info("socket").fileno(), pod)


def _later() -> dict[str, str]:
    return {"Retry-After": str(RETRY_AFTER_SECONDS)}


def _not_the_trainer() -> web.HTTPForbidden:
    error = web.HTTPForbidden(text="the token's Pod is not the one that trains this job now")
    error.force_close()  # also of a Pod that trained before
    return error


def _unauthorized(text: str) -> web.HTTPUnauthorized:
    error = web.HTTPUnauthorized(text=text, headers={"WWW-Authenticate": "Bearer"})
    error.force_close()
    return error


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
