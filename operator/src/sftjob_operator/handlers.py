"""kopf: login, the two watches, liveness, and the end of the process. Events go to the controller as they are."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import aiohttp
import kopf

from sftjob_contract.names import GROUP, PLURAL, VERSION
from sftjob_operator.controller import Controller
from sftjob_operator.effects.kube import Credentials
from sftjob_operator.metrics.operator import OperatorMetrics
from sftjob_operator.watch_age import LONGEST_AGE_SECONDS, NAMESPACED, WatchAge

_DELETED: Final = "DELETED"


def registry(
    controller: Controller,
    credentials: Callable[[], Awaitable[Credentials]],
    stop: Callable[[], Awaitable[None]],
    watches: WatchAge,
    metrics: OperatorMetrics,
) -> kopf.OperatorRegistry:
    """Handlers that feed `controller`; `stop` is awaited at the end of the process.

    `watches` is kept up to date, and `metrics` counts kopf's requests.

    kopf waits for tasks that were begun under it, so `stop` must end those of open connections.
    """
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    async def login(**_: Any) -> kopf.AiohttpSession:
        return session(connection(await credentials()), watches.trace(), metrics.trace())

    @kopf.on.probe(registry=handlers, id="watchAgeSeconds")
    async def watch_age(**_: Any) -> int:
        return healthy_age(watches.seconds())

    @kopf.on.cleanup(registry=handlers)
    async def cleanup(**_: Any) -> None:
        await stop()

    @kopf.on.event(GROUP, VERSION, PLURAL, registry=handlers)
    async def job_event(event: kopf.RawEvent, **_: Any) -> None:
        tell = controller.job_gone if event["type"] == _DELETED else controller.job_changed
        tell(event["object"])

    @kopf.on.event("v1", "pods", registry=handlers)
    async def pod_event(event: kopf.RawEvent, **_: Any) -> None:
        tell = controller.pod_gone if event["type"] == _DELETED else controller.pod_changed
        tell(event["object"])

    return handlers


def healthy_age(seconds: float) -> int:
    """The age of the oldest watch as a probe tells it.

    Raises:
        kopf.PermanentError: it is too old; kopf then answers the probe with 500.
    """
    if seconds > LONGEST_AGE_SECONDS:
        raise kopf.PermanentError(f"a watch was last answered {seconds:.0f} s ago, more than {LONGEST_AGE_SECONDS} s")
    return round(seconds)


def session(info: kopf.ConnectionInfo, *traces: aiohttp.TraceConfig) -> kopf.AiohttpSession:
    """The session that kopf would make of `info`, under the eyes of `traces`."""
    client = aiohttp.ClientSession(
        middlewares=[missing_as_forbidden],
        connector=aiohttp.TCPConnector(limit=0, ssl=info.as_ssl_context()),
        headers=info.as_http_headers(),
        proxy=info.proxy_url,
        trace_configs=list(traces),
    )
    return kopf.AiohttpSession(server=info.server, aiohttp_session=client)


async def missing_as_forbidden(
    request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """Turn 404 on objects of one namespace into 403, which kopf 1.45 tries again without end (`api.request`).

    Any other 4xx to a watch ends all watches of the process. A namespace that is not there must not end the others'.
    """
    response = await handler(request)
    if response.status == 404 and NAMESPACED in request.url.path:
        response.status = 403
    return response


def connection(credentials: Credentials) -> kopf.ConnectionInfo:
    """The credentials as kopf takes them."""
    scheme, _, token = (credentials.authorization or "").partition(" ")
    return kopf.ConnectionInfo(
        server=credentials.server,
        ca_path=credentials.ca_path,
        insecure=not credentials.verify,
        scheme=scheme or None,
        token=token.strip() or None,
        certificate_path=credentials.certificate_path,
        private_key_path=credentials.key_path,
        proxy_url=credentials.proxy,
    )
