"""Startup, readiness and liveness probes of a running container.

Source: k8s.io/kubernetes pkg/kubelet/prober. All Pods share the machine's network, so a port belongs to whoever has it.
"""

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

import aiohttp

from sftjob_sandbox.node.container import StartError, run_to_end
from sftjob_sandbox.node.launch import Launch
from sftjob_sandbox.node.logs import last_output

_DEFAULTS: Final = {
    "initialDelaySeconds": 0,
    "periodSeconds": 10,
    "timeoutSeconds": 1,
    "successThreshold": 1,
    "failureThreshold": 3,
}

Check = Callable[[Mapping[str, Any]], Awaitable[str | None]]
"""Asks a probe once; None is success, a text says what failed."""


@dataclass(frozen=True, kw_only=True)
class Listener:
    """Who wants to know: the states of startup and readiness, each failed probe, and the kind that found it dead."""

    on_started: Callable[[], None]
    on_ready: Callable[[bool], None]
    on_failure: Callable[[str], None]
    on_dead: Callable[[str], None]


async def watch_probes(spec: Mapping[str, Any], check: Check, listener: Listener) -> None:
    """Probe a container for as long as it runs; to be cancelled when it ends."""
    if (probe := spec.get("startupProbe")) and not await _first_verdict(probe, check, listener):
        listener.on_dead("startup")
        return
    listener.on_started()
    if not spec.get("readinessProbe"):
        listener.on_ready(True)
    async with asyncio.TaskGroup() as group:
        if probe := spec.get("readinessProbe"):
            group.create_task(_watch_readiness(probe, check, listener))
        if probe := spec.get("livenessProbe"):
            group.create_task(_watch_liveness(probe, check, listener))


async def _first_verdict(probe: Mapping[str, Any], check: Check, listener: Listener) -> bool:
    async with contextlib.aclosing(_verdicts(probe, "Startup", check, listener)) as verdicts:
        return await anext(verdicts)


async def _watch_readiness(probe: Mapping[str, Any], check: Check, listener: Listener) -> None:
    async for ready in _verdicts(probe, "Readiness", check, listener):
        listener.on_ready(ready)


async def _watch_liveness(probe: Mapping[str, Any], check: Check, listener: Listener) -> None:
    async for alive in _verdicts(probe, "Liveness", check, listener):
        if not alive:
            listener.on_dead("liveness")


async def _verdicts(
    probe: Mapping[str, Any], kind: str, check: Check, listener: Listener
) -> AsyncGenerator[bool, None]:
    """Probe for ever; yields whenever a threshold is reached."""
    given = _DEFAULTS | {key: value for key, value in probe.items() if value is not None}
    await asyncio.sleep(given["initialDelaySeconds"])
    last, streak = None, 0
    while True:
        problem = await check(given)
        succeeded = problem is None
        if problem is not None:
            listener.on_failure(f"{kind} probe failed: {problem}")
        streak = streak + 1 if succeeded == last else 1
        last = succeeded
        if streak == given["successThreshold" if succeeded else "failureThreshold"]:
            yield succeeded
        await asyncio.sleep(given["periodSeconds"])


@dataclass(frozen=True)
class Prober:
    """Asks one container's probes."""

    spec: Mapping[str, Any]
    launch: Launch
    address: str

    async def check(self, probe: Mapping[str, Any]) -> str | None:
        """One try, within the probe's timeout."""
        seconds = probe["timeoutSeconds"]
        if action := probe.get("exec"):
            return await self._exec(action, seconds)
        try:
            async with asyncio.timeout(seconds):
                if action := probe.get("httpGet"):
                    return await self._http_get(action)
                return await self._tcp_socket(probe["tcpSocket"])
        except TimeoutError:
            return "context deadline exceeded"

    async def _exec(self, action: Mapping[str, Any], limit_seconds: float) -> str | None:
        log = self.launch.log.with_suffix(".probe.log")
        argv = [self.launch.places.rewrite(word) for word in action["command"]]
        command = replace(self.launch.command, argv=argv, memory_limit_bytes=None)
        try:
            ended = await run_to_end(command, log, limit_seconds)
        except StartError as error:
            return str(error)
        if ended is None:
            return f"command timed out after {limit_seconds}s"
        return None if ended.code == 0 else last_output(log)

    async def _http_get(self, action: Mapping[str, Any]) -> str | None:
        host, port = action.get("host") or self.address, self._port(action["port"])
        url = f"{action.get('scheme', 'HTTP').lower()}://{host}:{port}{action.get('path') or '/'}"
        headers = {header["name"]: header["value"] for header in action.get("httpHeaders") or ()}
        try:
            # A probe proves that something answers, not who: the kubelet does not verify certificates either.
            async with aiohttp.ClientSession() as session, session.get(url, headers=headers, ssl=False) as answer:
                good = 200 <= answer.status < 400
                return None if good else f"HTTP probe failed with statuscode: {answer.status}"
        except aiohttp.ClientError as error:
            return f'Get "{url}": {error}'

    async def _tcp_socket(self, action: Mapping[str, Any]) -> str | None:
        host, port = action.get("host") or self.address, self._port(action["port"])
        try:
            _, writer = await asyncio.open_connection(host, port)
        except OSError as error:
            return f"dial tcp {host}:{port}: {error.strerror or error}"
        writer.close()
        return None

    def _port(self, port: int | str) -> int:
        named = {entry.get("name"): entry["containerPort"] for entry in self.spec.get("ports") or ()}
        return int(named.get(port, port))
