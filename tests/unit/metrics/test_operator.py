"""The metrics about the operator itself, and the endpoint that tells them."""

from collections.abc import AsyncIterator

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from sftjob_contract.names import KIND
from sftjob_dev.stack import free_port
from sftjob_operator.effects.cluster import InvalidError, UnavailableError
from sftjob_operator.metrics.endpoint import MetricsEndpoint
from sftjob_operator.metrics.operator import OperatorMetrics
from sftjob_operator.metrics.requests import resource_and_verb
from support.checks.scrapes import OPENMETRICS, Scrape, scrape
from support.fakes.fake_cluster import World
from support.jobs.builders import a_job

JOBS = "/apis/sftjob.dev/v1alpha1"


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/api/v1/pods?watch=true&resourceVersion=5", ("pods", "watch")),
        ("GET", "/api/v1/namespaces/a/pods?limit=250", ("pods", "list")),
        ("GET", "/api/v1/namespaces/a/pods/watch", ("pods", "get")),
        ("POST", "/api/v1/namespaces/a/pods", ("pods", "create")),
        ("DELETE", "/api/v1/namespaces/a/pods/p", ("pods", "delete")),
        ("PUT", "/api/v1/namespaces/a/secrets/s", ("secrets", "update")),
        ("GET", f"{JOBS}/sftjobs", ("sftjobs", "list")),
        ("GET", f"{JOBS}/namespaces/a/sftjobs?watch=true", ("sftjobs", "watch")),
        ("GET", f"{JOBS}/namespaces/a/sftjobs/demo", ("sftjobs", "get")),
        ("PATCH", f"{JOBS}/namespaces/a/sftjobs/demo/status", ("sftjobs/status", "patch")),
        ("POST", "/apis/authentication.k8s.io/v1/tokenreviews", ("tokenreviews", "create")),
        ("GET", "/api/v1", ("", "get")),
        ("GET", JOBS, ("", "get")),
        ("GET", "/version", ("", "get")),
    ],
)
def test_a_request_is_told_in_the_words_of_access_rules(method: str, path: str, expected: tuple[str, str]) -> None:
    assert resource_and_verb(method, URL(f"https://server:6443{path}")) == expected


async def test_requests_are_counted_by_what_was_answered() -> None:
    async def answer(request: web.Request) -> web.Response:
        return web.Response(status=int(request.query.get("status", "200")))

    app = web.Application()
    app.router.add_route("*", "/{path:.*}", answer)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    metrics, pods = OperatorMetrics(), f"http://{host}:{port}/api/v1/namespaces/a/pods"
    async with aiohttp.ClientSession(trace_configs=[metrics.trace()]) as session:
        for status in (201, 201, 409):
            (await session.post(f"{pods}?status={status}")).release()
        await runner.cleanup()
        with pytest.raises(aiohttp.ClientError):
            await session.get(pods)
    counted = {
        (sample.labels["verb"], sample.labels["resource"], sample.labels["code"]): sample.value
        for sample in scrape(metrics.registry).series("sftjob_api_requests_total")
    }
    assert counted == {("create", "pods", "201"): 2, ("create", "pods", "409"): 1, ("list", "pods", "none"): 1}


async def test_looks_at_a_job_are_timed_and_their_failures_counted_by_cause() -> None:
    world = World()
    world.cluster.fail("create", "PersistentVolumeClaim", UnavailableError("away"))
    await world.apply(a_job())
    world.cluster.fail("create", "PersistentVolumeClaim", InvalidError("no"))  # told in the status, not repeated
    await world.apply(a_job("other"))
    world.cluster.fail("patch", KIND, InvalidError("no"))
    await world.apply(a_job("third"))
    told = scrape(world.metrics.registry)
    causes = ("unavailable", "refused", "fault")
    assert [told.value("sftjob_reconcile_errors_total", cause=cause) for cause in causes] == [1, 1, 0]
    assert (told.value("sftjob_reconcile_duration_seconds_count") or 0) >= 3
    assert told.value("sftjob_reconcile_duration_seconds_bucket", le="+Inf") == told.value(
        "sftjob_reconcile_duration_seconds_count"
    )


def test_what_is_read_is_read_at_the_moment_of_a_scrape() -> None:
    metrics, waiting = OperatorMetrics(), [1, 2, 3]
    metrics.read("sftjob_workqueue_depth", "Jobs that wait for a worker.", waiting.__len__)
    assert scrape(metrics.registry).value("sftjob_workqueue_depth") == 3
    waiting.pop()
    assert scrape(metrics.registry).value("sftjob_workqueue_depth") == 2


@pytest.fixture
async def served() -> AsyncIterator[str]:
    port, endpoint = free_port(), MetricsEndpoint(OperatorMetrics().registry)
    await endpoint.serve("127.0.0.1", port)
    yield f"http://127.0.0.1:{port}"
    await endpoint.close()
    await endpoint.close()  # at the end of the process it is closed from two sides


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [("text/plain", "text/plain"), (OPENMETRICS, "application/openmetrics-text"), ("*/*", "text/plain")],
    ids=["text", "openmetrics", "anything"],
)
async def test_the_endpoint_answers_in_the_format_that_is_asked_for(
    served: str, accept: str, content_type: str
) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{served}/metrics", headers={"Accept": accept}) as got:
        assert (got.status, got.content_type) == (200, content_type)
        told = Scrape(await got.text(), open_metrics="openmetrics" in content_type)
    assert told.value("process_start_time_seconds") is not None
    assert told.value("sftjob_reconcile_errors_total", cause="fault") == 0


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [("GET", "/", 404), ("GET", "/metrics/", 404), ("POST", "/metrics", 405), ("GET", "/v1/jobs", 404)],
)
async def test_the_endpoint_has_nothing_else(served: str, method: str, path: str, status: int) -> None:
    async with aiohttp.ClientSession() as session, session.request(method, f"{served}{path}") as got:
        assert got.status == status
