"""The HTTP server: authentication, routing, and errors as Status objects."""

import logging
import ssl
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from aiohttp import web

from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.cluster.store import Store
from sftjob_sandbox.http.answers import answer_json, page_not_found
from sftjob_sandbox.http.auth import Authenticator, User, authorize
from sftjob_sandbox.http.documents import answer_document
from sftjob_sandbox.http.requests import RequestInfo, parse_request
from sftjob_sandbox.http.reviews import answer_review, find_review
from sftjob_sandbox.http.routes import Call, ResourceRoutes
from sftjob_sandbox.storage.bodies import parse_body, read_body

_LOG: Final = logging.getLogger(__name__)
_STOP_SECONDS: Final = 2.0


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Address and options of the server. `bookmark_seconds`: the interval of bookmarks in a quiet watch."""

    host: str = "127.0.0.1"
    port: int = 0
    bookmark_seconds: float = 50.0
    observe: Callable[[RequestInfo, str], None] | None = None
    """Called with every request and its User-Agent before the response: for benchmarks and tests that count."""


class ApiServer:
    """Serves a store over HTTPS. `data` is the node's directory, where Pods' logs are stored."""

    def __init__(self, store: Store, authenticator: Authenticator, data: Path, settings: ServerSettings) -> None:
        self._store = store
        self._authenticator = authenticator
        self._resources = ResourceRoutes(store, data, settings.bookmark_seconds)
        self._settings = settings
        self._runner: web.AppRunner | None = None
        self.address = ""
        """`host:port`, once started."""

    async def start(self, tls: ssl.SSLContext) -> None:
        """Listen."""
        app = web.Application()
        app.router.add_route("*", "/{path:.*}", self._handle)
        # A watch ends when its client goes, not when the next event cannot be written.
        self._runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=_STOP_SECONDS)
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._settings.host, self._settings.port, ssl_context=tls, backlog=1024)
        await site.start()
        host, port = self._runner.addresses[0][:2]
        self.address = f"{host}:{port}"

    async def stop(self) -> None:
        """End all watches and stop listening."""
        self._store.close()
        if self._runner:
            await self._runner.cleanup()

    async def _handle(self, http: web.Request) -> web.StreamResponse:
        try:
            return await self._answer(http)
        except ApiError as error:
            return answer_json(error.status(), error.code)
        except Exception as error:  # noqa: BLE001 -- a defect of this emulator: answer 500 as a server does
            _LOG.exception("%s %s failed", http.method, http.path)
            text = f"Internal error occurred: {type(error).__name__}: {error}"
            return answer_json(ApiError(500, "InternalError", text).status(), 500)

    async def _answer(self, http: web.Request) -> web.StreamResponse:
        user = self._authenticator.user(http.headers)
        info = parse_request(http.method, http.path, http.query)
        if self._settings.observe is not None:
            self._settings.observe(info, http.headers.get("User-Agent", ""))
        authorize(user, info)
        if info.is_resource:
            return await self._answer_resource(http, info, user)
        if info.verb not in ("get", "head"):
            raise _method_not_allowed()
        return answer_document(self._store.catalog, http.path, http.headers.get("Accept", ""), self.address)

    async def _answer_resource(self, http: web.Request, info: RequestInfo, user: User) -> web.StreamResponse:
        if review := find_review(info):
            if info.verb != "create":
                raise _method_not_allowed()
            body = parse_body(http.content_type, await read_body(http))
            return answer_json(answer_review(review, self._authenticator, user, body), 201)
        resource = self._store.catalog.find(info.group, info.version, info.resource)
        version = resource.served(info.version) if resource else None
        misplaced = (
            resource is not None and info.namespace and not resource.namespaced and info.resource != "namespaces"
        )
        if resource is None or version is None or misplaced:
            return page_not_found()
        return await self._resources.answer(Call(http, info, user, resource, version))


def _method_not_allowed() -> ApiError:
    return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
