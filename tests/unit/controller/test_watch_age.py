"""A watch that is not answered any more is noticed, told to the probe, and nothing else counts as a watch."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import kopf
import pytest
from aiohttp import web

from sftjob_dev.stack import free_port
from sftjob_operator.controller import Controller
from sftjob_operator.effects.kube import KubeCluster
from sftjob_operator.handlers import healthy_age, registry
from sftjob_operator.metrics.operator import OperatorMetrics
from sftjob_operator.runtime.watch_age import WatchAge
from sftjob_operator.runtime.workqueue import SystemClock
from sftjob_operator.settings import configure
from sftjob_sandbox.sandbox import Sandbox
from support.clients.wait import eventually
from support.fakes.fake_cluster import SETTINGS, FakeClock

DEFINITION = Path(__file__).parents[3] / "crds" / "sftjobs.yaml"


class Server:
    """Answers every GET with `status`, under the eyes of `watches`."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.watches = WatchAge(self.clock.monotonic)
        self.status = 200

    async def answer(self, _request: web.Request) -> web.Response:
        return web.Response(status=self.status)

    async def get(self, path: str) -> None:
        async with self.session.get(self.url + path):
            pass


class Answers(WatchAge):
    """Tells which watches were answered at all."""

    def __init__(self, clock: FakeClock) -> None:
        super().__init__(clock.monotonic)
        self.paths: set[str] = set()

    def trace(self) -> aiohttp.TraceConfig:
        config = super().trace()
        config.on_request_end.append(self._note)
        return config

    async def _note(self, _session: object, _context: object, request: aiohttp.TraceRequestEndParams) -> None:
        if "watch" in request.url.query and request.response.status == 200:
            self.paths.add(request.url.path)


@pytest.fixture
async def server() -> AsyncIterator[Server]:
    server, app = Server(), web.Application()
    app.router.add_get("/{path:.*}", server.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    server.url = f"http://{host}:{port}"
    async with aiohttp.ClientSession(trace_configs=[server.watches.trace()]) as server.session:
        yield server
    await runner.cleanup()


async def test_the_age_is_the_time_since_the_oldest_watch_was_answered(server: Server) -> None:
    assert server.watches.seconds() == 0
    await server.get("/api/v1/pods?watch=true")
    server.clock.advance(100)
    await server.get("/apis/sftjob.dev/v1alpha1/sftjobs?watch=true&resourceVersion=5")
    server.clock.advance(20)
    assert server.watches.seconds() == 120
    await server.get("/api/v1/pods?watch=true&resourceVersion=9")
    assert server.watches.seconds() == 20


async def test_lists_and_refusals_do_not_make_a_watch_younger(server: Server) -> None:
    await server.get("/api/v1/pods?watch=true")
    server.clock.advance(100)
    await server.get("/api/v1/pods?limit=250")
    server.status = 401
    await server.get("/api/v1/pods?watch=true")
    assert server.watches.seconds() == 100


async def test_a_watch_that_was_never_answered_ages_from_the_first_try(server: Server) -> None:
    server.status = 403
    await server.get("/api/v1/pods?watch=true")
    server.clock.advance(100)
    await server.get("/api/v1/pods?watch=true")
    assert server.watches.seconds() == 100


async def test_a_namespace_that_is_refused_does_not_age_its_watch(server: Server) -> None:
    await server.get("/api/v1/namespaces/a/pods?watch=true")
    server.clock.advance(100)
    server.status = 403
    await server.get("/api/v1/namespaces/a/pods?limit=250")
    assert server.watches.seconds() == 0


def test_a_probe_fails_after_a_quarter_of_an_hour() -> None:
    assert healthy_age(899.7) == 900
    with pytest.raises(kopf.PermanentError, match="the oldest watch was last answered 901 s ago, more than 900 s"):
        healthy_age(901)


async def test_kopf_tells_the_age_and_fails_the_probe_when_it_is_too_old(tmp_path: Path) -> None:
    async with Sandbox(data=tmp_path, with_node=False, definitions=[DEFINITION]) as sandbox:
        assert await probed(sandbox, shift_seconds=0) == (200, {"watchAgeSeconds": 0})
        assert await probed(sandbox, shift_seconds=1000) == (500, None)


async def probed(sandbox: Sandbox, shift_seconds: float) -> tuple[int, object]:
    """What a probe is answered by kopf with our handlers, once both watches stand and that much time has passed."""
    clock = FakeClock()
    watches = Answers(clock)
    cluster = await KubeCluster.connect(sandbox.kubeconfig)
    controller = Controller(cluster, SETTINGS, 10, SystemClock(), OperatorMetrics())
    end, settings = asyncio.Event(), kopf.OperatorSettings()
    configure(settings, 70)

    async def stop() -> None:
        end.set()

    handlers, port = registry(controller, cluster.credentials, stop, watches, OperatorMetrics()), free_port()
    url = f"http://127.0.0.1:{port}/healthz"
    operator = kopf.operator(
        registry=handlers, settings=settings, clusterwide=True, liveness_endpoint=url, stop_flag=end
    )
    running = asyncio.create_task(operator)
    try:
        async with aiohttp.ClientSession() as session:
            await eventually(lambda: both_stand(watches, port), "kopf did not begin its watches")
            clock.advance(shift_seconds)  # before the first probe, since kopf remembers its answer for 10 s
            return await answered(session, url)
    finally:
        end.set()
        await running
        await cluster.close()


async def both_stand(watches: Answers, port: int) -> bool:
    """Whether two watches were answered, so that they age from now on, and somebody listens for probes."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    await writer.wait_closed()
    return len(watches.paths) == 2


async def answered(session: aiohttp.ClientSession, url: str) -> tuple[int, object]:
    """Status and JSON of the probe."""
    async with session.get(url) as response:
        return response.status, await response.json() if response.status == 200 else None
