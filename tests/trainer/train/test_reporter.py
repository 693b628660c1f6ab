"""Live reports: the latest state, sent when it can be, never in the way."""

import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sftjob_contract.reports.progress import PROGRESS_VERSION, Activity, Progress
from sftjob_trainer.reporting.reporter import Endpoint, OperatorConnection, Reporter, ReportPolicy, backoff
from support.servers.progress_endpoint import ProgressEndpoint, hanging_endpoint, progress_endpoint, write_certificate

QUICK = ReportPolicy(interval=0.01, first_backoff=0.01, max_backoff=0.02, timeout=5, flush=5)


def state(step: int) -> Progress:
    return Progress(
        version=PROGRESS_VERSION,
        attempt=1,
        activity=Activity.TRAINING,
        time="2026-05-04T03:02:01Z",
        step=step,
        max_steps=100,
        resumed_from_step=0,
        tokens=0,
    )


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ProgressEndpoint]:
    with progress_endpoint(tmp_path) as endpoint:
        yield endpoint


@pytest.fixture
def token(tmp_path: Path) -> Path:
    path = tmp_path / "token"
    path.write_text("first\n")
    return path


@pytest.fixture
def endpoint(server: ProgressEndpoint, token: Path) -> Endpoint:
    return Endpoint(url=server.url, ca=server.ca, token=token)


def test_a_state_is_posted_with_the_token(server: ProgressEndpoint, endpoint: Endpoint) -> None:
    with Reporter(endpoint, QUICK) as reporter:
        reporter.offer(state(1))
        report = server.next()

    assert report.path == "/v1/progress"
    assert report.authorization == "Bearer first"
    assert report.progress == state(1)


def test_the_token_is_read_anew_for_every_report(server: ProgressEndpoint, endpoint: Endpoint, token: Path) -> None:
    with Reporter(endpoint, QUICK) as reporter:
        reporter.offer(state(1))
        assert server.next().authorization == "Bearer first"
        token.write_text("second")
        reporter.offer(state(2))
        assert server.next().authorization == "Bearer second"


def test_while_one_report_is_on_its_way_only_the_latest_state_waits(
    server: ProgressEndpoint, endpoint: Endpoint
) -> None:
    go_on = threading.Event()
    server.answer = lambda _number: 204 if go_on.wait(10) else 500
    with Reporter(endpoint, QUICK) as reporter:
        reporter.offer(state(1))
        assert server.next().progress.step == 1
        for step in range(2, 50):
            reporter.offer(state(step))
        go_on.set()
        assert server.next().progress.step == 49

    assert server.received == 2


def test_a_refused_state_is_sent_again_until_it_is_taken(server: ProgressEndpoint, endpoint: Endpoint) -> None:
    server.answer = lambda number: 503 if number < 4 else 204
    with Reporter(endpoint, QUICK) as reporter:
        reporter.offer(state(7))
        steps = [server.next().progress.step for _ in range(4)]

    assert steps == [7, 7, 7, 7]
    assert server.received == 4


def test_a_newer_state_takes_the_place_of_a_refused_one(server: ProgressEndpoint, endpoint: Endpoint) -> None:
    with Reporter(endpoint, QUICK) as reporter:

        def refuse_once(number: int) -> int:
            if number == 1:
                reporter.offer(state(2))
            return 503 if number == 1 else 204

        server.answer = refuse_once
        reporter.offer(state(1))
        steps = [server.next().progress.step for _ in range(2)]

    assert steps == [1, 2]
    assert server.received == 2


def test_the_last_state_is_sent_on_leaving_without_waiting_for_its_turn(
    server: ProgressEndpoint, endpoint: Endpoint
) -> None:
    with Reporter(endpoint, ReportPolicy(interval=3600, flush=20)) as reporter:
        reporter.offer(state(1))
        assert server.next().progress.step == 1
        reporter.offer(state(2))

    assert server.next().progress.step == 2


def test_a_server_that_hangs_holds_up_neither_training_nor_the_end(token: Path, tmp_path: Path) -> None:
    write_certificate(tmp_path)
    with hanging_endpoint() as url:
        began = time.monotonic()
        endpoint = Endpoint(url=url, ca=tmp_path / "ca.crt", token=token)
        with Reporter(endpoint, ReportPolicy(interval=0, timeout=30, flush=0.2)) as reporter:
            for step in range(10_000):
                reporter.offer(state(step))
        took = time.monotonic() - began

    assert took < 5


def test_nothing_is_told_to_a_server_that_the_ca_did_not_sign(
    server: ProgressEndpoint, token: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    other = tmp_path / "other"
    other.mkdir()
    stranger, _ = write_certificate(other)

    with Reporter(Endpoint(url=server.url, ca=stranger, token=token), QUICK) as reporter:
        reporter.offer(state(1))

    assert server.received == 0
    assert "CERTIFICATE_VERIFY_FAILED" in caplog.text


@pytest.mark.parametrize(
    ("change", "error", "said"),
    [
        ({"url": "http://127.0.0.1/"}, ValueError, "must begin with https://"),
        ({"url": "https://127.0.0.1:1/"}, OSError, "refused"),
        ({"token": Path("/nowhere/token")}, OSError, "No such file"),
        ({"ca": Path("/nowhere/ca.crt")}, OSError, "No such file"),
    ],
)
def test_what_keeps_a_report_from_being_sent_is_an_error_that_the_reporter_expects(
    endpoint: Endpoint, change: dict[str, object], error: type[Exception], said: str
) -> None:
    from dataclasses import replace

    with pytest.raises(error, match=said):
        OperatorConnection(replace(endpoint, **change), timeout=5).post(state(1))  # type: ignore[arg-type]


def test_refusals_are_told_once_until_a_report_gets_through(
    server: ProgressEndpoint, endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    server.answer = lambda number: 403 if number < 4 else 204
    with Reporter(endpoint, QUICK) as reporter:
        reporter.offer(state(1))
        for _ in range(4):
            server.next()

    assert [record.getMessage() for record in caplog.records] == [
        "progress could not be reported, trying again: the response was 403 Forbidden"
    ]


def test_one_connection_carries_all_reports_refused_ones_too(server: ProgressEndpoint, endpoint: Endpoint) -> None:
    server.answer = lambda number: 503 if number == 2 else 204
    with Reporter(endpoint, QUICK) as reporter:
        for step in (1, 2):
            reporter.offer(state(step))
            server.next()
        assert server.next().progress == state(2)
    assert (server.received, server.connections) == (3, 1)


def test_a_connection_that_the_server_has_closed_costs_no_report(
    server: ProgressEndpoint, endpoint: Endpoint, caplog: pytest.LogCaptureFixture
) -> None:
    line = OperatorConnection(endpoint, timeout=5)
    for step in (1, 2, 3):
        line.post(state(step))
        server.close_connections()
    assert [server.next().progress.step for _ in range(3)] == [1, 2, 3]
    assert server.connections == 3
    assert caplog.text == ""
    line.close()


def test_another_ca_is_taken_up_when_it_is_in_the_file(
    server: ProgressEndpoint, token: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """An operator that is installed again has another one, and the kubelet updates the mounted ConfigMap."""
    caplog.set_level("INFO")
    (tmp_path / "old").mkdir()
    mounted, _ = write_certificate(tmp_path / "old")
    with Reporter(Endpoint(url=server.url, ca=mounted, token=token), QUICK) as reporter:
        reporter.offer(state(1))
        for _ in range(1000):
            if "was the operator installed again?" in caplog.text:
                break
            threading.Event().wait(0.01)
        assert server.received == 0
        mounted.write_bytes(server.ca.read_bytes())
        assert server.next().progress == state(1)
    assert f"the CA of the operator in {mounted} has changed" in caplog.text
    assert caplog.text.count("CERTIFICATE_VERIFY_FAILED") == 1


def test_a_connection_that_an_older_ca_vouched_for_is_given_up(
    server: ProgressEndpoint, token: Path, tmp_path: Path
) -> None:
    mounted = tmp_path / "mounted.crt"
    mounted.write_bytes(server.ca.read_bytes())
    line = OperatorConnection(Endpoint(url=server.url, ca=mounted, token=token), timeout=5)
    line.post(state(1))
    (tmp_path / "new").mkdir()
    mounted.write_bytes(write_certificate(tmp_path / "new")[0].read_bytes())
    with pytest.raises(ssl.SSLCertVerificationError):
        line.post(state(2))
    assert server.received == 1


def test_without_an_endpoint_nothing_is_sent() -> None:
    threads = threading.active_count()
    with Reporter(None) as reporter:
        reporter.offer(state(1))
        assert threading.active_count() == threads


def test_the_wait_after_failures_doubles_and_is_bounded() -> None:
    pace = ReportPolicy(first_backoff=1, max_backoff=30)

    assert [backoff(failures, pace) for failures in (1, 2, 3, 5, 6, 1000)] == [1, 2, 4, 16, 30, 30]
