"""kopf: login, the two watches, and the end of the process. Every event goes to the controller as it is."""

from collections.abc import Awaitable, Callable
from typing import Any, Final

import kopf

from sftjob_contract.names import GROUP, PLURAL, VERSION
from sftjob_operator.controller import Controller
from sftjob_operator.effects.kube import Credentials

_DELETED: Final = "DELETED"


def registry(
    controller: Controller,
    credentials: Callable[[], Awaitable[Credentials]],
    stop: Callable[[], Awaitable[None]],
) -> kopf.OperatorRegistry:
    """Handlers that feed `controller`; `stop` is awaited when the process is asked to end.

    kopf waits for tasks that were begun under it, so `stop` must end those of open connections.
    """
    handlers = kopf.OperatorRegistry()

    @kopf.on.login(registry=handlers)
    async def login(**_: Any) -> kopf.ConnectionInfo:
        return connection(await credentials())

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
