"""Each namespace that the operator watches stands alone: what one is refused says nothing about the others."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web

from sftjob_operator.controller import Controller
from sftjob_operator.effects.cluster import (
    ClusterError,
    ForbiddenError,
    NotFoundError,
    Object,
    UnavailableError,
    Wanted,
)
from sftjob_operator.handlers import missing_as_forbidden
from support.fakes.fake_cluster import INTERVAL_SECONDS, SETTINGS, FakeCluster, World
from support.jobs.builders import a_job

GONE = ForbiddenError("sftjobs.sftjob.dev is forbidden")


class Partial(FakeCluster):
    """Refuses to list some namespaces."""

    def __init__(self) -> None:
        super().__init__()
        self.refused: dict[str | None, ClusterError] = {}

    async def list(
        self, kind: str, namespace: str | None, label: str | None = None, wanted: Wanted | None = None
    ) -> AsyncIterator[Object]:
        """See FakeCluster."""
        if namespace in self.refused:
            raise self.refused[namespace]
        async for body in super().list(kind, namespace, label, wanted):
            yield body


class Namespaced(World):
    """An operator of namespaces a and b."""

    cluster: Partial

    def __init__(self) -> None:
        super().__init__(Partial())

    def _new_controller(self) -> Controller:
        return Controller(self.cluster, SETTINGS, INTERVAL_SECONDS, self.clock, self.metrics, ("a", "b"))


def phases(world: World) -> dict[str, str | None]:
    return {
        namespace: (body.get("status") or {}).get("phase")
        for (kind, namespace, _), body in world.cluster.objects.items()
        if kind == "SFTJob"
    }


@pytest.fixture
def world() -> Namespaced:
    """Two jobs of the same name, of which no watch tells."""
    world = Namespaced()
    for namespace in ("a", "b"):
        world.cluster.store(a_job("demo", namespace=namespace).body(), "ADDED")
    return world


@pytest.mark.parametrize("why", [GONE, NotFoundError("not found")], ids=["403", "404"])
async def test_a_refused_namespace_is_left_out_of_a_listing_and_taken_in_later(
    world: Namespaced, why: ClusterError
) -> None:
    world.cluster.refused["a"] = why
    await world.restart_operator()
    assert phases(world) == {"a": None, "b": "Pending"}
    assert world.controller.unserved_namespaces() == 1
    world.cluster.refused.clear()
    await world.controller.resync()
    await world.settle()
    assert phases(world) == {"a": "Pending", "b": "Pending"}
    assert world.controller.unserved_namespaces() == 0


async def test_what_is_known_of_a_namespace_stays_while_it_is_refused(world: Namespaced) -> None:
    await world.restart_operator()
    world.cluster.refused["a"] = GONE
    await world.controller.resync()
    assert {job["metadata"]["namespace"] for job in world.controller.jobs()} == {"a", "b"}


async def test_nothing_is_decided_while_the_server_does_not_answer_for_one_namespace(world: Namespaced) -> None:
    world.cluster.refused["a"] = UnavailableError("etcd has no leader")
    with pytest.raises(UnavailableError):
        await world.controller.resync()


async def test_a_definition_that_is_missing_everywhere_is_an_error(world: Namespaced) -> None:
    world.cluster.refused = {"a": NotFoundError("not served"), "b": NotFoundError("not served")}
    with pytest.raises(NotFoundError, match="not served"):
        await world.controller.resync()


@pytest.mark.parametrize(
    ("path", "answered", "seen"),
    [
        ("/apis/sftjob.dev/v1alpha1/namespaces/a/sftjobs?watch=true", 404, 403),
        ("/api/v1/namespaces/a/pods?limit=250", 404, 403),
        ("/apis/sftjob.dev/v1alpha1/sftjobs?watch=true", 404, 404),
        ("/api/v1/namespaces/a/pods", 403, 403),
        ("/api/v1/namespaces/a/pods", 410, 410),
        ("/api/v1/namespaces/a/pods", 200, 200),
    ],
)
async def test_kopf_sees_a_missing_namespace_as_one_to_ask_for_again(path: str, answered: int, seen: int) -> None:
    async def answer(_: web.Request) -> web.Response:
        return web.Response(status=answered)

    app = web.Application()
    app.router.add_get("/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    host, port = runner.addresses[0][:2]
    async with (
        aiohttp.ClientSession(middlewares=[missing_as_forbidden]) as session,
        session.get(f"http://{host}:{port}{path}") as response,
    ):
        assert response.status == seen
    await runner.cleanup()
