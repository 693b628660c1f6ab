"""kopf handlers: login, the two watches, liveness, and shutdown. Events are passed to the controller unchanged."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import aiohttp
import kopf

from sftjob_contract.names import GROUP, PLURAL, VERSION
from sftjob_operator.controller import Controller
from sftjob_operator.effects.kube import Credentials
from sftjob_operator.metrics.operator import OperatorMetrics
from sftjob_operator.runtime.watch_age import LONGEST_AGE_SECONDS, NAMESPACED, WatchAge

_DELETED: Final = "DELETED"


def registry(
    controller: Controller,
    credentials: Callable[[], Awaitable[Credentials]],
    stop: Callable[[], Awaitable[None]],
    watches: WatchAge,
    metrics: OperatorMetrics,
) -> kopf.OperatorRegistry:
    """Return handlers that feed `controller`; `stop` is awaited at shutdown.

    `watches` is updated, and `metrics` counts kopf's requests.

    kopf waits for tasks that were started under it, so `stop` must end those of open connections.
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
        handle = controller.job_gone if event["type"] == _DELETED else controller.job_changed
        handle(event["object"])

    @kopf.on.event("v1", "pods", registry=handlers)
    async def pod_event(event: kopf.RawEvent, **_: Any) -> None:
        handle = controller.pod_gone if event["type"] == _DELETED else controller.pod_changed
        handle(event["object"])

    return handlers


def healthy_age(seconds: float) -> int:
    """Return the age of the oldest watch for the liveness probe.

    Raises:
        kopf.PermanentError: it is too old; kopf then answers the probe with 500.
    """
    if seconds > LONGEST_AGE_SECONDS:
        raise kopf.PermanentError(
            f"the oldest watch was last answered {seconds:.0f} s ago, more than {LONGEST_AGE_SECONDS} s"
        )
    return round(seconds)


def session(info: kopf.ConnectionInfo, *traces: aiohttp.TraceConfig) -> kopf.AiohttpSession:
    """Return the session that kopf would create from `info`, with `traces`."""
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
    """Turn 404 on objects of one namespace into 403, which kopf 1.45 retries indefinitely (`api.request`).

    Any other 4xx to a watch ends all watches of the process. A missing namespace must not end those of others.
    """
    response = await handler(request)
    if response.status == 404 and NAMESPACED in request.url.path:
        response.status = 403
    return response


def connection(credentials: Credentials) -> kopf.ConnectionInfo:
    """Return the credentials in kopf's form."""
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
