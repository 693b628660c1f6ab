"""A proxy between a client and any API server that misbehaves on order, and tells what was asked through it.

`with hostile_api(kubeconfig, directory) as api:` serves HTTPS on a loopback port; `api.kubeconfig` leads to it. Nothing
is changed on the way unless `api.plan` says so, which is asked about every request.
"""

import asyncio
import base64
import json
import random
import ssl
import threading
from collections import Counter
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from typing import Any, Final, TypeVar

import aiohttp
import yaml
from aiohttp import web
from yarl import URL

from sftjob_sandbox.http.requests import parse_request
from support.fakes.denials import KINDS, Denial, denials_of
from support.servers.progress_endpoint import write_certificate

WRITES: Final = frozenset({"create", "update", "patch", "delete", "deletecollection"})
RETRY_AFTER_SECONDS: Final = 1
SLOW_SECONDS: Final = 1.0
_THREAD_SECONDS: Final = 30
T = TypeVar("T")
_KEPT_HEADERS: Final = ("Authorization", "Accept", "Content-Type", "User-Agent")


@dataclass(frozen=True, order=True, kw_only=True)
class Asked:
    """What a request needs a right for, in the words of a Role. A cluster-wide request has no namespace."""

    verb: str
    group: str
    resource: str
    subresource: str = ""
    namespace: str = ""

    @property
    def is_write(self) -> bool:
        """It changes something."""
        return self.verb in WRITES


class Fault(StrEnum):
    """What may happen to a request: `ON_WATCHES` to watches alone, `ON_REQUESTS` to all others.

    `OF_NAMESPACES` are what a server answers to all requests in a namespace that was deleted with its rights.
    """

    FORBIDDEN = "403"
    NOT_FOUND = "404"
    CONFLICT = "409"
    INVALID = "422"
    THROTTLED = "429"
    INTERNAL = "500"
    UNAVAILABLE = "503"
    SLOW = "slow answer"
    ANSWER_LOST = "500 after it was done"
    DROPPED_BEFORE = "connection dropped before the request arrived"
    DROPPED_AFTER = "connection dropped before the answer arrived"
    WATCH_DROPPED = "watch dropped"
    WATCH_SILENT = "silent watch"
    WATCH_GONE = "watch ends with 410 Gone"
    WATCH_ERROR = "watch ends with another error"


ON_WATCHES: Final = (Fault.WATCH_DROPPED, Fault.WATCH_SILENT, Fault.WATCH_GONE, Fault.WATCH_ERROR)
OF_NAMESPACES: Final = (Fault.FORBIDDEN, Fault.NOT_FOUND)
ON_REQUESTS: Final = tuple(fault for fault in Fault if fault not in (*ON_WATCHES, *OF_NAMESPACES))
_STATUS: Final = {
    Fault.FORBIDDEN: (403, "Forbidden"),
    Fault.NOT_FOUND: (404, "NotFound"),
    Fault.CONFLICT: (409, "Conflict"),
    Fault.INVALID: (422, "Invalid"),
    Fault.THROTTLED: (429, "TooManyRequests"),
    Fault.INTERNAL: (500, "InternalError"),
    Fault.UNAVAILABLE: (503, "ServiceUnavailable"),
}

Plan = Callable[[Asked], Fault | Denial | None]
"""What befalls a request. A denial is an answer to the create of an object that it fits."""


def no_faults(_: Asked) -> Fault | Denial | None:
    """The plan of a server that is well."""
    return None


class Next:
    """A plan: `fault` befalls the first `times` requests that match, and nothing else happens."""

    def __init__(self, fault: Fault, matches: Callable[[Asked], bool], times: int = 1) -> None:
        self.left = times
        self._fault = fault
        self._matches = matches

    def __call__(self, asked: Asked) -> Fault | None:
        """See Plan."""
        if self.left == 0 or not self._matches(asked):
            return None
        self.left -= 1
        return self._fault


class Storm:
    """A plan: every request has a fault with probability `rate`, drawn at random from those that `may` befall it."""

    def __init__(self, seed: int, rate: float, may: Callable[[Asked, Fault], bool] = lambda *_: True) -> None:
        self._random = random.Random(seed)
        self._rate = rate
        self._may = may

    def __call__(self, asked: Asked) -> Fault | None:
        """See Plan."""
        if self._random.random() >= self._rate:
            return None
        possible = ON_WATCHES if asked.verb == "watch" else ON_REQUESTS
        allowed = [fault for fault in possible if self._may(asked, fault)]
        return self._random.choice(allowed) if allowed else None


class Admission:
    """A plan: of the creates of objects of `kinds`, a part of `rate` is refused, each time by another denial."""

    def __init__(self, seed: int, rate: float, kinds: Collection[str] = tuple(KINDS.values())) -> None:
        self._random = random.Random(seed)
        self._rate = rate
        self._kinds = kinds

    def __call__(self, asked: Asked) -> Denial | None:
        """See Plan."""
        kind = KINDS.get(asked.resource)
        if kind is None or kind not in self._kinds or asked.verb != "create" or asked.subresource:
            return None
        return self._random.choice(denials_of(kind)) if self._random.random() < self._rate else None


@dataclass
class HostileApi:
    """The proxy as its user sees it.

    `before_write` and `after_write` are told of every write and the name of its object. Each of them answers whether
    the client was killed: then the write is left undone, or its answer is not sent.
    """

    kubeconfig: Path
    plan: Plan = no_faults
    before_write: Callable[[Asked, str], bool] = lambda _asked, _name: False
    after_write: Callable[[Asked, str], bool] = lambda _asked, _name: False
    asked: Counter[Asked] = field(default_factory=Counter)
    """Every request so far, and how often."""
    injected: Counter[str] = field(default_factory=Counter)
    """Every fault and every denial so far, and how often."""
    cut: Callable[[], None] = lambda: None
    """Drops every open connection at once."""


class _Proxy:
    def __init__(self, api: HostileApi, upstream: str, authority: str) -> None:
        self._api = api
        self._upstream = upstream
        self._tls = ssl.create_default_context(cadata=authority)
        self._open: set[asyncio.Transport] = set()
        self._session: aiohttp.ClientSession
        self._runner: web.ServerRunner

    async def start(self, certificate: Path, key: Path) -> int:
        """Listen on a free port, which is answered."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(certificate, key)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10)
        connector = aiohttp.TCPConnector(ssl=self._tls, limit=0, force_close=True)
        self._session = aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False)
        server = web.Server(self._handle, handler_cancellation=True)
        self._runner = web.ServerRunner(server, shutdown_timeout=0.1)
        await self._runner.setup()
        site = web.TCPSite(self._runner, "127.0.0.1", 0, ssl_context=context)
        await site.start()
        return int(self._runner.addresses[0][1])

    async def stop(self) -> None:
        """End everything."""
        self.cut()
        await self._runner.cleanup()
        await self._session.close()

    def cut(self) -> None:
        """Drop every open connection."""
        for transport in tuple(self._open):
            transport.abort()

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        asked = _asked(request)
        transport = request.transport
        if transport is None:
            return _drop(request)
        self._open.add(transport)
        try:
            if asked is None:
                return await self._forward(request)
            self._api.asked[asked] += 1
            fault = self._api.plan(asked)
            if isinstance(fault, Denial):
                self._api.injected[fault.what] += 1
                return _denied(fault, asked, await _name(request))
            if fault is not None:
                self._api.injected[fault] += 1
            if asked.verb == "watch":
                return await self._watch(request, fault)
            return await self._answer(request, asked, fault)
        finally:
            self._open.discard(transport)

    async def _answer(self, request: web.BaseRequest, asked: Asked, fault: Fault | None) -> web.StreamResponse:
        name = await _name(request) if asked.is_write else ""
        if name != "" and await asyncio.to_thread(lambda: self._api.before_write(asked, name)):
            return _drop(request)
        if fault == Fault.DROPPED_BEFORE:
            return _drop(request)
        if fault in _STATUS:
            return _refusal(fault)
        if fault == Fault.SLOW:
            await asyncio.sleep(SLOW_SECONDS)
        answer = await self._forward(request)
        if name != "" and await asyncio.to_thread(lambda: self._api.after_write(asked, name)):
            return _drop(request)
        if fault == Fault.DROPPED_AFTER:
            return _drop(request)
        return _refusal(Fault.INTERNAL) if fault == Fault.ANSWER_LOST else answer

    async def _forward(self, request: web.BaseRequest) -> web.StreamResponse:
        async with self._sent(request) as answer:
            body = await answer.read()
            return web.Response(status=answer.status, body=body, content_type=answer.content_type or None)

    async def _watch(self, request: web.BaseRequest, fault: Fault | None) -> web.StreamResponse:
        if fault in OF_NAMESPACES:
            return _refusal(fault)
        async with self._sent(request) as answer:
            if answer.status != 200:
                return web.Response(status=answer.status, body=await answer.read(), content_type=answer.content_type)
            told = web.StreamResponse(headers={"Content-Type": "application/json"})
            await told.prepare(request)
            if fault == Fault.WATCH_SILENT:
                await asyncio.Event().wait()  # until the client gives up
            if fault == Fault.WATCH_DROPPED:
                return _drop(request)
            if fault in (Fault.WATCH_GONE, Fault.WATCH_ERROR):
                await told.write(_ended(410 if fault == Fault.WATCH_GONE else 500))
                return told
            with suppress(ConnectionError, aiohttp.ClientError):
                async for line in answer.content.iter_any():
                    await told.write(line)
            return told

    @asynccontextmanager
    async def _sent(self, request: web.BaseRequest) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {name: request.headers[name] for name in _KEPT_HEADERS if name in request.headers}
        url = URL(self._upstream + request.raw_path, encoded=True)
        data = await request.read() or None
        async with self._session.request(request.method, url, headers=headers, data=data) as answer:
            yield answer


@contextmanager
def hostile_api(kubeconfig: Path, directory: Path) -> Iterator[HostileApi]:
    """A proxy in a thread of its own; the kubeconfig that leads to it and its certificate lie in `directory`."""
    config = yaml.safe_load(kubeconfig.read_text(encoding="utf-8"))
    cluster = config["clusters"][0]["cluster"]
    authority = base64.b64decode(cluster["certificate-authority-data"]).decode()
    certificate, key = write_certificate(directory)
    api = HostileApi(directory / "hostile-kubeconfig")
    proxy = _Proxy(api, cluster["server"], authority)
    with _loop() as loop:

        def call(work: Coroutine[Any, Any, T]) -> T:
            return asyncio.run_coroutine_threadsafe(work, loop).result(_THREAD_SECONDS)

        port = call(proxy.start(certificate, key))
        cluster["server"] = f"https://127.0.0.1:{port}"
        cluster["certificate-authority-data"] = base64.b64encode(certificate.read_bytes()).decode()
        api.kubeconfig.write_text(yaml.safe_dump(config), encoding="utf-8")

        def cut() -> None:
            loop.call_soon_threadsafe(proxy.cut)

        api.cut = cut
        try:
            yield api
        finally:
            call(proxy.stop())


@contextmanager
def _loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop that runs in a thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="hostile-api")
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_THREAD_SECONDS)
        loop.close()


def _asked(request: web.BaseRequest) -> Asked | None:
    """What a request needs a right for; None for one that is not about resources."""
    info = parse_request(request.method, request.path, request.query)
    if not info.is_resource:
        return None
    return Asked(
        verb=info.verb,
        group=info.group,
        resource=info.resource,
        subresource=info.subresource,
        namespace=info.namespace,
    )


async def _name(request: web.BaseRequest) -> str:
    """Name of the object that is written: of the path, or of the body where it is created."""
    info = parse_request(request.method, request.path, request.query)
    return info.name or str((await request.json()).get("metadata", {}).get("name", ""))


def _drop(request: web.BaseRequest) -> web.Response:
    """Drop the connection of a request; what is answered reaches nobody."""
    if request.transport is not None:
        request.transport.abort()
    return web.Response(status=500)


def _refusal(fault: Fault) -> web.Response:
    code, reason = _STATUS[fault]
    headers = {"Retry-After": str(RETRY_AFTER_SECONDS)} if fault == Fault.THROTTLED else {}
    return web.json_response(_status(code, reason), status=code, headers=headers)


def _denied(denial: Denial, asked: Asked, name: str) -> web.Response:
    status = denial.status(KINDS[asked.resource], asked.namespace, name)
    return web.json_response(status, status=denial.code)


def _ended(code: int) -> bytes:
    event = {"type": "ERROR", "object": _status(code, "Expired" if code == 410 else "InternalError")}
    return json.dumps(event).encode() + b"\n"


def _status(code: int, reason: str) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Status",
        "status": "Failure",
        "code": code,
        "reason": reason,
        "message": f"injected by a test: {code} {reason}",
    }
