"""The progress endpoint over real TLS: who may report what, and that a refused report changes nothing."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from sftjob_contract.codec import encode
from sftjob_contract.names import PROGRESS_BODY_LIMIT_BYTES, progress_path, trainer_status_path
from sftjob_contract.reports.progress import Progress
from sftjob_operator.progress import endpoint as module
from sftjob_operator.progress.availability import EndpointAvailability
from sftjob_operator.progress.endpoint import ProgressEndpoint
from sftjob_operator.progress.identity import Claims, PodIdentity
from sftjob_operator.progress.tls import server_context, tls_material
from support.servers.reporting import PROGRESS

PATH = progress_path("team", "demo")
KUBEFLOW_PATH = trainer_status_path("team", "demo")
TRAINER = PodIdentity(namespace="team", name="demo-train-1", uid="u1")
GOOD = json.dumps(encode(PROGRESS))


def trainer_status(second: int, **metrics: int) -> str:
    """What transformers' Kubeflow callback sends, at 12:00 and so many seconds."""
    told = [{"name": name, "value": str(value)} for name, value in metrics.items()]
    return json.dumps({"trainerStatus": {"lastUpdatedTime": f"2026-03-01T12:00:{second:02}+00:00", "metrics": told}})


@dataclass
class Operator:
    """What the endpoint asks and tells, and how to reach it."""

    received: list[tuple[tuple[str, str], Progress]] = field(default_factory=list)
    complaint: str | None = None
    trainer: PodIdentity = TRAINER
    asked: asyncio.Event = field(default_factory=asyncio.Event)
    url: str = ""
    session: aiohttp.ClientSession | None = None

    def plausible_claims(self, token: str) -> Claims | None:
        return None if token == "unknown" else Claims(expires=0, for_this_endpoint=True, pod=None)

    def is_known(self, token: str) -> bool:
        return token == "trainer"

    async def pod_of(self, token: str) -> PodIdentity | None:
        if token == "trouble":
            raise RuntimeError("API server is away")
        return {"trainer": TRAINER, "another": replace(TRAINER, uid="u2")}.get(token)

    def accepts(self, key: tuple[str, str], pod: PodIdentity) -> int | None:
        self.asked.set()
        return 1 if (key, pod) == (("team", "demo"), self.trainer) else None

    def known(self, key: tuple[str, str]) -> Progress | None:
        return next((progress for of, progress in reversed(self.received) if of == key), None)

    def receive(self, key: tuple[str, str], progress: Progress) -> None:
        if self.complaint:
            raise ValueError(self.complaint)
        self.received.append((key, progress))

    async def post(self, data: Any, token: str | None = "trainer", path: str = PATH) -> tuple[int, str]:
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        async with self.session.post(self.url + path, data=data, headers=headers) as response:
            return response.status, await response.text()


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Any:
    directory: Path = tmp_path_factory.mktemp("tls")
    return tls_material(directory, ("127.0.0.1",), datetime.now(UTC))


@pytest.fixture
async def operator(material: Any) -> AsyncIterator[Operator]:
    asked = Operator()
    endpoint = ProgressEndpoint(
        asked, asked.accepts, asked.receive, asked.known, EndpointAvailability(lambda: datetime.now(UTC))
    )
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await endpoint.serve(listener, server_context(material))
        asked.url = f"https://127.0.0.1:{listener.getsockname()[1]}"
        connector = aiohttp.TCPConnector(ssl=ssl.create_default_context(cadata=material.ca))
        async with aiohttp.ClientSession(connector=connector) as session:
            asked.session = session
            yield asked
        await endpoint.close()


async def test_a_report_of_the_training_pod_is_taken(operator: Operator) -> None:
    assert await operator.post(GOOD) == (204, "")
    assert operator.received == [(("team", "demo"), PROGRESS)]


async def test_a_report_whose_job_was_created_again_while_its_body_arrived_is_refused(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield GOOD[:10].encode()
        await answer.wait()
        yield GOOD[10:].encode()

    post = asyncio.create_task(operator.post(body()))
    await operator.asked.wait()
    monkeypatch.setattr(operator, "trainer", replace(TRAINER, uid="u3"))
    answer.set()
    assert (await post)[0] == 403
    assert operator.received == []


async def test_a_report_of_a_newer_trainer_is_taken(operator: Operator) -> None:
    assert (await operator.post(json.dumps({**encode(PROGRESS), "new": 1})))[0] == 204


async def test_a_trainer_status_of_kubeflow_is_taken_on_top_of_the_one_before(operator: Operator) -> None:
    for second, step in ((0, 10), (5, 20)):
        sent = trainer_status(second, current_step=step, total_steps=100)
        assert await operator.post(sent, path=KUBEFLOW_PATH) == (200, "")
    (_, first), (key, second_report) = operator.received
    assert (key, first.step, first.eta_seconds) == (("team", "demo"), 10, None)
    assert (second_report.step, second_report.step_seconds, second_report.eta_seconds) == (20, 0.5, 40)


@pytest.mark.parametrize(
    ("request_", "status", "text"),
    [
        ({"data": trainer_status(0), "token": None}, 401, "bearer token is required"),
        ({"data": trainer_status(0), "token": "another"}, 403, "not the one that trains this job"),
        ({"data": trainer_status(0), "path": trainer_status_path("team", "other")}, 403, "not the one that trains"),
        ({"data": b" " * (PROGRESS_BODY_LIMIT_BYTES + 1)}, 413, "exceeded"),
        ({"data": trainer_status(0, current_step=1)}, 400, "lacks total_steps"),
        ({"data": GOOD}, 400, "trainerStatus is missing"),
    ],
)
async def test_any_other_trainer_status_is_refused_and_changes_nothing(
    operator: Operator, request_: dict[str, Any], status: int, text: str
) -> None:
    answered, said = await operator.post(**{"path": KUBEFLOW_PATH, **request_})
    assert (answered, text in said) == (status, True), said
    assert operator.received == []


async def chunks(total: int) -> AsyncIterator[bytes]:
    for _ in range(total // 1024):
        yield b" " * 1024


@pytest.mark.parametrize(
    ("request_", "status", "text"),
    [
        ({"data": GOOD, "token": None}, 401, "bearer token is required"),
        ({"data": GOOD, "token": "x" * 20_000}, 400, ""),
        ({"data": GOOD, "token": "unknown"}, 401, "not valid for this endpoint"),
        ({"data": GOOD, "token": "another"}, 403, "not the one that trains this job"),
        ({"data": GOOD, "path": progress_path("team", "other")}, 403, "not the one that trains this job"),
        ({"data": GOOD, "path": progress_path("other", "demo")}, 403, "not the one that trains this job"),
        ({"data": GOOD, "token": "trouble"}, 503, "cannot be reviewed now"),
        ({"data": b" " * (PROGRESS_BODY_LIMIT_BYTES + 1)}, 413, "exceeded"),
        ({"data": "", "path": "/elsewhere"}, 404, "Not Found"),
        ({"data": "nonsense"}, 400, "not valid JSON"),
        ({"data": b"\xff\xfe"}, 400, "invalid report"),
        ({"data": "[" * 30_000}, 400, "invalid report"),
        ({"data": "{}"}, 400, "version is missing"),
        ({"data": json.dumps({**encode(PROGRESS), "loss": "low"})}, 400, "loss must be a finite number"),
        ({"data": json.dumps({**encode(PROGRESS), "loss": float("nan")})}, 400, "loss must be a finite number"),
        ({"data": json.dumps({**encode(PROGRESS), "loss": 10**400})}, 400, "invalid report"),
        ({"data": json.dumps({**encode(PROGRESS), "version": 2})}, 400, "version must be 1, not 2"),
        ({"data": json.dumps({**encode(PROGRESS), "attempt": 7})}, 400, "attempt must be 1, the one of this Pod"),
    ],
)
async def test_anything_else_is_refused_and_changes_nothing(
    operator: Operator, request_: dict[str, Any], status: int, text: str
) -> None:
    answered, said = await operator.post(**request_)
    assert (answered, text in said) == (status, True), said
    assert operator.received == []


async def test_a_long_body_without_a_length_is_refused(operator: Operator) -> None:
    status, _ = await operator.post(chunks(PROGRESS_BODY_LIMIT_BYTES * 2))
    assert (status, operator.received) == (413, [])


async def test_a_body_of_just_the_limit_is_read(operator: Operator) -> None:
    assert (await operator.post(GOOD.ljust(PROGRESS_BODY_LIMIT_BYTES)))[0] == 204


async def test_a_body_that_does_not_arrive_is_not_waited_for(
    operator: Operator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "BODY_TIMEOUT_SECONDS", 0.05)
    blocked = asyncio.Event()

    async def stalled() -> AsyncIterator[bytes]:
        yield b"{"
        await blocked.wait()

    status, _ = await operator.post(stalled())
    assert (status, operator.received) == (408, [])


async def test_what_can_not_be_stored_is_refused_with_the_reason(operator: Operator) -> None:
    operator.complaint = "step must be at most maxSteps 2, not 3"
    assert await operator.post(GOOD) == (400, "invalid report: step must be at most maxSteps 2, not 3")


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_only_post_is_served(operator: Operator, method: str) -> None:
    async with operator.session.request(method, operator.url + PATH) as response:
        assert response.status == 405


async def test_no_token_reaches_the_log(operator: Operator, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    await operator.post(GOOD, token="a-very-secret-token")
    assert "401" in caplog.text
    assert "a-very-secret-token" not in caplog.text
    (record,) = [record for record in caplog.records if record.name.startswith("sftjob_operator")]
    assert record.job == "team/demo"
