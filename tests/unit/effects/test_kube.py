"""KubeCluster against a small HTTP server: what it sends, and how answers become objects or errors."""

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from sftjob_operator.effects.cluster import (
    AlreadyExistsError,
    ClusterError,
    ConflictError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    UnavailableError,
    Wanted,
)
from sftjob_operator.effects.kube import KubeCluster

CONFIG_MAP = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "a", "namespace": "team"},
    "data": {"k": "v"},
}


class Server:
    """Answers the next request with what was queued, and remembers what it was sent."""

    def __init__(self) -> None:
        self.requests: list[tuple[str, str, dict[str, str], object]] = []
        self.answers: list[web.Response] = []

    def will_answer(self, status: int, body: object, **headers: str) -> None:
        self.answers.append(web.json_response(body, status=status, headers=headers))

    async def handle(self, request: web.Request) -> web.Response:
        body = await request.read()
        self.requests.append((request.method, request.path_qs, dict(request.headers), json.loads(body or b"null")))
        return self.answers.pop(0)


def kubeconfig(path: Path, url: str, token: str = "secret-1") -> Path:
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "c",
        "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
        "clusters": [{"name": "c", "cluster": {"server": url}}],
        "users": [{"name": "u", "user": {"token": token}}],
    }
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    return path


@pytest.fixture
async def server(tmp_path: Path) -> AsyncIterator[Server]:
    served = Server()
    runner = web.ServerRunner(web.Server(served.handle))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    served.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    served.kubeconfig = kubeconfig(tmp_path / "kubeconfig", served.url)
    yield served
    await runner.cleanup()


@pytest.fixture
async def cluster(server: Server) -> AsyncIterator[KubeCluster]:
    connected = await KubeCluster.connect(server.kubeconfig)
    yield connected
    await connected.close()


def failure(code: int, reason: str = "", message: str = "no", **details: object) -> dict:
    return {"kind": "Status", "code": code, "reason": reason, "message": message, "details": details}


async def test_create_posts_the_object_below_its_namespace(server: Server, cluster: KubeCluster) -> None:
    server.will_answer(201, CONFIG_MAP | {"metadata": {"name": "a", "uid": "1"}})
    stored = await cluster.create(CONFIG_MAP)
    method, path, headers, body = server.requests[0]
    assert (method, path, body) == ("POST", "/api/v1/namespaces/team/configmaps", CONFIG_MAP)
    assert headers["Authorization"] == "Bearer secret-1"
    assert headers["Content-Type"] == "application/json"
    assert stored["metadata"]["uid"] == "1"


@pytest.mark.parametrize(
    ("kind", "path"),
    [
        ("Pod", "/api/v1/namespaces/team/pods/a"),
        ("Service", "/api/v1/namespaces/team/services/a"),
        ("PersistentVolumeClaim", "/api/v1/namespaces/team/persistentvolumeclaims/a"),
    ],
)
async def test_delete_names_the_very_object(server: Server, cluster: KubeCluster, kind: str, path: str) -> None:
    server.will_answer(200, {"kind": "Status", "status": "Success"})
    await cluster.delete(kind, "team", "a", "uid-1")
    method, sent_to, _, body = server.requests[0]
    assert (method, sent_to) == ("DELETE", path)
    assert body == {"apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": "uid-1"}}


@pytest.mark.parametrize(
    ("status", "reason", "expected"), [(404, "NotFound", NotFoundError), (409, "Conflict", ConflictError)]
)
async def test_a_delete_of_what_is_gone_or_another_says_so(
    server: Server, cluster: KubeCluster, status: int, reason: str, expected: Any
) -> None:
    server.will_answer(status, failure(status, reason))
    with pytest.raises(expected):
        await cluster.delete("Pod", "team", "a", "uid-1")


async def test_the_status_of_a_job_is_merge_patched_on_its_subresource(server: Server, cluster: KubeCluster) -> None:
    server.will_answer(200, {"kind": "SFTJob"})
    await cluster.patch_status("team", "demo", {"status": {"phase": None}})
    method, path, headers, body = server.requests[0]
    assert (method, path) == ("PATCH", "/apis/sftjob.dev/v1alpha1/namespaces/team/sftjobs/demo/status")
    assert headers["Content-Type"] == "application/merge-patch+json"
    assert body == {"status": {"phase": None}}


async def test_a_list_follows_its_pages(server: Server, cluster: KubeCluster) -> None:
    server.will_answer(200, {"apiVersion": "v1", "metadata": {"continue": "next"}, "items": [{"n": 1}]})
    server.will_answer(200, {"apiVersion": "v1", "metadata": {}, "items": [{"n": 2}]})
    found = [item async for item in cluster.list("Pod", None, "sftjob.dev/job")]
    assert found == [{"apiVersion": "v1", "kind": "Pod", "n": 1}, {"apiVersion": "v1", "kind": "Pod", "n": 2}]
    assert [path for _, path, _, _ in server.requests] == [
        "/api/v1/pods?limit=250&labelSelector=sftjob.dev/job",
        "/api/v1/pods?limit=250&labelSelector=sftjob.dev/job&continue=next",
    ]


PAGE_ITEMS = [
    {
        "metadata": {"name": name, "namespace": "team", "uid": f"u{name}", "resourceVersion": version, "generation": 1},
        "spec": {"nodeName": "n"},
        "status": {"phase": "Running", "podIP": "10.0.0.1"},
    }
    for name, version in (("a", "7"), ("b", "8"))
]


def wanting(*names: str) -> Wanted:
    return lambda body: body["metadata"]["name"] in names


async def test_what_is_not_wanted_of_a_list_comes_in_outline(server: Server, cluster: KubeCluster) -> None:
    server.will_answer(200, {"apiVersion": "v1", "metadata": {"continue": "next"}, "items": PAGE_ITEMS})
    server.will_answer(200, {"apiVersion": "v1", "metadata": {}, "items": PAGE_ITEMS[:1]})
    first, second, third = [item async for item in cluster.list("Pod", None, wanted=wanting("b"))]
    typed = {"apiVersion": "v1", "kind": "Pod"}
    assert second == typed | PAGE_ITEMS[1]
    outline = {"name": "a", "namespace": "team", "uid": "ua", "resourceVersion": "7"}
    assert first == third == typed | {"metadata": outline, "status": {"phase": "Running"}}
    assert server.requests[1][1] == "/api/v1/pods?limit=250&continue=next"


@pytest.mark.parametrize(
    "change",
    [{"items": None}, {"items": [{"n": 1}]}, {"items": [*PAGE_ITEMS, {"metadata": {"name": "c", "labels": None}}]}],
)
async def test_a_page_of_another_form_is_read_whole(
    server: Server, cluster: KubeCluster, change: dict[str, Any]
) -> None:
    page = {"apiVersion": "v1", "metadata": {}, "items": PAGE_ITEMS} | change
    server.will_answer(200, page)
    found = [item async for item in cluster.list("Pod", None, wanted=wanting())]
    assert found == [{"apiVersion": "v1", "kind": "Pod"} | item for item in page["items"] or ()]


async def test_a_page_that_is_no_json_is_an_outage(server: Server, cluster: KubeCluster) -> None:
    server.answers.append(web.Response(text="<html>", status=200))
    with pytest.raises(UnavailableError, match="not JSON"):
        assert [item async for item in cluster.list("Pod", None, wanted=wanting())]


async def test_a_list_of_one_namespace_reads_no_other(server: Server, cluster: KubeCluster) -> None:
    server.will_answer(200, {"apiVersion": "v1", "items": []})
    assert [item async for item in cluster.list("Pod", "a")] == []
    assert [path for _, path, _, _ in server.requests] == ["/api/v1/namespaces/a/pods?limit=250"]


async def test_a_token_is_reviewed_for_one_audience(server: Server, cluster: KubeCluster) -> None:
    server.will_answer(201, {"status": {"authenticated": True}})
    assert await cluster.review_token("t", "sftjob-progress") == {"authenticated": True}
    assert server.requests[0][3]["spec"] == {"token": "t", "audiences": ["sftjob-progress"]}


@pytest.mark.parametrize(
    ("status", "reason", "expected"),
    [
        (400, "BadRequest", InvalidError),
        (403, "Forbidden", ForbiddenError),
        (404, "NotFound", NotFoundError),
        (409, "AlreadyExists", AlreadyExistsError),
        (409, "Conflict", ConflictError),
        (413, "RequestEntityTooLarge", InvalidError),
        (422, "Invalid", InvalidError),
        (429, "TooManyRequests", UnavailableError),
        (500, "InternalError", UnavailableError),
        (503, "ServiceUnavailable", UnavailableError),
        (504, "Timeout", UnavailableError),
    ],
)
async def test_a_refusal_becomes_an_error_with_the_servers_sentence(
    server: Server, cluster: KubeCluster, status: int, reason: str, expected: Any
) -> None:
    server.will_answer(status, failure(status, reason, "quota exceeded"))
    with pytest.raises(expected, match="quota exceeded"):
        await cluster.create(CONFIG_MAP)


@pytest.mark.parametrize(
    ("headers", "details", "seconds"),
    [({"Retry-After": "7"}, {}, 7.0), ({}, {"retryAfterSeconds": 3}, 3.0), ({}, {}, None)],
)
async def test_the_wait_that_the_server_asks_for_is_known(
    server: Server, cluster: KubeCluster, headers: dict[str, str], details: dict[str, Any], seconds: float | None
) -> None:
    server.will_answer(429, failure(429, **details), **headers)
    with pytest.raises(UnavailableError) as caught:
        await cluster.get("Pod", "team", "a")
    assert caught.value.retry_after_seconds == seconds


async def test_a_rotated_token_is_read_again_after_401(server: Server, cluster: KubeCluster) -> None:
    kubeconfig(server.kubeconfig, server.url, token="secret-2")
    server.will_answer(401, failure(401, "Unauthorized"))
    server.will_answer(200, {"kind": "Pod"})
    assert await cluster.get("Pod", "team", "a") == {"kind": "Pod"}
    tokens = [headers["Authorization"] for _, _, headers, _ in server.requests]
    assert tokens == ["Bearer secret-1", "Bearer secret-2"]


async def test_credentials_that_stay_refused_are_a_passing_failure(server: Server, cluster: KubeCluster) -> None:
    server.will_answer(401, failure(401, "Unauthorized", "Unauthorized"))
    server.will_answer(401, failure(401, "Unauthorized", "Unauthorized"))
    with pytest.raises(UnavailableError, match="Unauthorized"):
        await cluster.get("Pod", "team", "a")


async def test_an_answer_that_is_no_json_is_a_passing_failure(server: Server, cluster: KubeCluster) -> None:
    server.answers.append(web.Response(status=200, text="<html>proxy</html>"))
    with pytest.raises(UnavailableError, match="not JSON"):
        await cluster.get("Pod", "team", "a")


async def test_a_server_that_is_away_is_a_passing_failure(tmp_path: Path) -> None:
    cluster = await KubeCluster.connect(kubeconfig(tmp_path / "kubeconfig", "http://127.0.0.1:1"))
    with pytest.raises(UnavailableError, match="GET /api/v1/namespaces/team/pods/a"):
        await cluster.get("Pod", "team", "a")
    await cluster.close()


async def test_no_token_appears_in_an_error(server: Server, cluster: KubeCluster) -> None:
    server.will_answer(500, failure(500, message="boom"))
    with pytest.raises(UnavailableError) as caught:
        await cluster.review_token("a-secret-token", "x")
    assert "secret" not in str(caught.value)


async def test_a_missing_kubeconfig_is_told_with_its_path(tmp_path: Path) -> None:
    with pytest.raises(ClusterError, match=r"nowhere.*Set KUBECONFIG"):
        await KubeCluster.connect(tmp_path / "nowhere")


async def test_outside_a_cluster_and_without_kubeconfig_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    with pytest.raises(ClusterError, match="Set KUBECONFIG"):
        await KubeCluster.connect(None)


async def test_credentials_are_handed_out_for_the_watches(server: Server, cluster: KubeCluster) -> None:
    credentials = await cluster.credentials()
    assert (credentials.server, credentials.authorization) == (server.url, "Bearer secret-1")
    assert "secret" not in repr(credentials)


async def test_requests_run_side_by_side(server: Server, cluster: KubeCluster) -> None:
    for _ in range(20):
        server.will_answer(201, CONFIG_MAP)
    answers = await asyncio.gather(*(cluster.create(CONFIG_MAP) for _ in range(20)))
    assert answers == [CONFIG_MAP] * 20


async def test_without_the_lease_nothing_is_written_but_the_lease(server: Server, cluster: KubeCluster) -> None:
    cluster.write_while(lambda: False)
    pod = {"kind": "Pod", "metadata": {"namespace": "team", "name": "p"}}
    for write in (
        cluster.create(pod),
        cluster.replace(pod),
        cluster.delete("Pod", "team", "p", "u"),
        cluster.patch_status("team", "demo", {"status": {}}),
        cluster.review_token("t", "a"),
    ):
        with pytest.raises(UnavailableError, match="does not hold its Lease"):
            await write
    assert server.requests == []
    for _ in range(2):
        server.will_answer(200, {})
    await cluster.replace({"kind": "Lease", "metadata": {"namespace": "ops", "name": "operator"}})
    await cluster.get("Pod", "team", "p")
    assert len(server.requests) == 2
