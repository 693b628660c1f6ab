"""What a training Pod that does its worst reaches: its own job's progress, and its share of the operator."""

import asyncio
import gzip
import io
import json
import logging
import ssl
import tracemalloc
import warnings
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import PROGRESS_BODY_LIMIT_BYTES, Stage, progress_path
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.outcome import Outcome
from sftjob_contract.reports.progress import Checkpoint, HistoryPoint, Progress, SkippedCheckpoint
from sftjob_operator.api.v1alpha1.status import CHECKPOINTS_LIMIT
from sftjob_operator.progress import connections, endpoint, limits
from sftjob_operator.progress.connections import ConnectionSlots, connection_rate
from sftjob_operator.reconcile.reports.status_parts import HISTORY_SHOWN
from sftjob_operator.runtime.logs import configure_logging
from support.fakes.fake_cluster import World, an_outcome, ended, running
from support.jobs.builders import a_job
from support.servers.reporting import (
    BEARERS,
    PATH,
    PROGRESS,
    TRAINER,
    Reporting,
    hung_up,
    report,
    reporting,
    request,
    status_of,
)
from support.servers.tokens import token_of

TIME = "2026-03-01T12:00:00Z"
ESCAPE = "\x1b[2J\x1b[31m"


@pytest.fixture
async def operator(tmp_path: Path) -> AsyncIterator[Reporting]:
    async with reporting(tmp_path) as running_endpoint:
        yield running_endpoint


@pytest.fixture
def written() -> Any:
    """What the operator's log has, as it is written."""
    root, stream = logging.getLogger(), io.StringIO()
    before, levels = root.handlers[:], (root.level, logging.getLogger("sftjob_operator").level)
    configure_logging()
    handler = logging.StreamHandler(stream)
    handler.setFormatter(root.handlers[0].formatter)
    root.handlers[:] = [handler]
    yield stream
    root.handlers[:] = before
    root.setLevel(levels[0])
    logging.getLogger("sftjob_operator").setLevel(levels[1])


# Whose report it is


async def test_nobody_is_believed_without_the_token_of_the_pod_that_trains(operator: Reporting) -> None:
    answers = {
        token: await operator.post(report(), token) for token in (None, "made-up", "forged", "account", "neighbour")
    }
    assert answers == {None: 401, "made-up": 401, "forged": 401, "account": 401, "neighbour": 403}
    assert await operator.post(report(), path=progress_path("team", "other")) == 403
    assert await operator.post(report(), path=progress_path("kube-system", "demo")) == 403
    assert operator.received == []


async def test_a_report_of_another_attempt_is_not_believed(operator: Reporting) -> None:
    assert await operator.post(report(attempt=2)) == 400
    assert operator.received == []


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_tls_older_than_1_2_is_not_spoken(operator: Reporting, version: ssl.TLSVersion) -> None:
    context = ssl.create_default_context(cadata=operator.ca)
    context.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = context.maximum_version = version
    with pytest.raises((ssl.SSLError, ConnectionError)):
        await operator.connect(context)


async def test_without_tls_nothing_is_answered(operator: Reporting) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", operator.port)
    writer.write(request(report()))
    assert await hung_up(reader)
    assert operator.received == []
    writer.transport.abort()


# How much


async def test_a_pod_that_reports_without_end_is_slowed_down_and_its_neighbours_are_not(operator: Reporting) -> None:
    flood = [await operator.post(report()) for _ in range(endpoint.REPORTS_AT_ONCE + 5)]
    assert flood == [204] * endpoint.REPORTS_AT_ONCE + [429] * 5
    assert await operator.post(report(), "neighbour") == 403
    operator.now += 1 / endpoint.REPORTS_PER_SECOND
    assert [await operator.post(report()) for _ in range(2)] == [204, 429]


async def test_bad_reports_count_as_reports(operator: Reporting) -> None:
    flood = [await operator.post(b"nonsense") for _ in range(endpoint.REPORTS_AT_ONCE + 1)]
    assert flood == [400] * endpoint.REPORTS_AT_ONCE + [429]


async def test_a_body_over_the_limit_is_not_read(operator: Reporting) -> None:
    assert await operator.post(report() + b" " * PROGRESS_BODY_LIMIT_BYTES) == 413
    reader, writer = await operator.connect()
    bearer = f"Authorization: Bearer {BEARERS['trainer']}"
    head = f"POST {PATH} HTTP/1.1\r\nHost: x\r\n{bearer}\r\nContent-Length: {2**40}\r\n\r\n"
    writer.write(head.encode())
    assert await status_of(reader) == 413
    assert operator.received == []
    writer.transport.abort()


async def test_a_compressed_body_is_not_unpacked(operator: Reporting) -> None:
    bomb = gzip.compress(b" " * 10_000_000)
    assert len(bomb) < PROGRESS_BODY_LIMIT_BYTES
    assert await operator.post(bomb, headers=("Content-Encoding: gzip",)) == 400


async def test_headers_without_end_are_refused(operator: Reporting) -> None:
    assert await operator.post(report(), headers=("X-Large: " + "x" * 20_000,)) == 400
    assert await operator.post(report(), headers=tuple(f"X-{number}: 1" for number in range(1000))) == 400


async def test_a_token_that_was_refused_is_not_reviewed_again_at_once(operator: Reporting) -> None:
    for _ in range(5):
        await operator.post(report(), "forged")
    assert operator.reviews == 1


async def test_what_a_token_claims_is_looked_at_before_anybody_is_asked(operator: Reporting) -> None:
    for token in ("made-up", "a.b.c", token_of(TRAINER, exp=1), token_of(TRAINER, aud="other"), "neighbour"):
        assert await operator.post(report(), token) in (401, 403)
    assert operator.reviews == 0


async def test_one_address_causes_a_bounded_number_of_reviews(operator: Reporting) -> None:
    tokens = [token_of(TRAINER, f"forged-{number}") for number in range(endpoint.REVIEWS_AT_ONCE + 10)]
    answers = [await operator.post(report(), token) for token in tokens]
    assert answers == [401] * endpoint.REVIEWS_AT_ONCE + [429] * 10
    assert operator.reviews == endpoint.REVIEWS_AT_ONCE
    operator.now += 10
    assert await operator.post(report(), "forged") == 401
    assert operator.reviews == endpoint.REVIEWS_AT_ONCE + 1


# How slowly


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """An endpoint that waits for hundredths of seconds."""
    monkeypatch.setattr(connections, "SILENT_SECONDS", 0.05)
    monkeypatch.setattr(endpoint, "SILENT_SECONDS", 0.05)
    monkeypatch.setattr(endpoint, "BODY_TIMEOUT_SECONDS", 0.05)


async def test_a_connection_on_which_nothing_comes_is_ended(impatient: None, operator: Reporting) -> None:
    reader, writer = await operator.connect()
    assert await hung_up(reader)
    writer.transport.abort()


async def test_headers_that_do_not_end_are_not_waited_for(impatient: None, operator: Reporting) -> None:
    reader, writer = await operator.connect()
    writer.write(b"POST /v1 HTTP/1.1\r\nX-Slow: ")
    assert await hung_up(reader)
    writer.transport.abort()


async def test_a_handshake_that_does_not_end_is_not_waited_for(impatient: None, operator: Reporting) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", operator.port)
    assert await hung_up(reader)
    writer.transport.abort()


async def test_a_body_that_does_not_end_is_not_waited_for(impatient: None, operator: Reporting) -> None:
    reader, writer = await operator.connect()
    writer.write(request(report())[:-1])
    assert await status_of(reader) == 408
    assert operator.received == []
    writer.transport.abort()


async def test_connections_of_one_address_are_limited_and_those_that_are_there_stay(
    monkeypatch: pytest.MonkeyPatch, operator: Reporting
) -> None:
    monkeypatch.setattr(connections, "MOST_UNKNOWN_OF_ONE_ADDRESS", 2)
    before = operator.availability.available_since
    kept = [await operator.connect() for _ in range(2)]
    with pytest.raises((ConnectionError, ssl.SSLError)):
        await operator.connect()
    assert operator.availability.available_since > before
    for reader_of_kept, writer_of_kept in kept:
        writer_of_kept.write(request(report()))
        assert await status_of(reader_of_kept) == 204
    others = [await operator.connect() for _ in range(2)]  # who trains no longer counts for the address
    for _, opened in (*kept, *others):
        opened.transport.abort()


async def is_kept(reader: asyncio.StreamReader) -> bool:
    """Read the rest of an answer, and see that the connection outlives the time that strangers have."""
    await reader.readuntil(b"\r\n\r\n")
    try:
        async with asyncio.timeout(4 * connections.SILENT_SECONDS):
            return not await hung_up(reader)
    except TimeoutError:
        return True


async def test_the_connection_of_a_pod_that_trains_is_kept_for_several_reports(
    impatient: None, operator: Reporting
) -> None:
    reader, writer = await operator.connect()
    for _ in range(2):
        writer.write(request(report()))
        assert await status_of(reader) == 204
        assert await is_kept(reader)
    writer.write(request(b"not a report"))
    assert await status_of(reader) == 400
    assert b"Connection: close" not in await reader.readuntil(b"\r\n\r\n"), "a refusal ends no trainer's connection"
    writer.transport.abort()


async def test_the_connection_of_a_pod_that_trains_ends_when_it_is_silent(
    monkeypatch: pytest.MonkeyPatch, operator: Reporting
) -> None:
    monkeypatch.setattr(connections, "KEEP_ALIVE_SECONDS", 0.05)
    reader, writer = await operator.connect()
    writer.write(request(report()))
    assert await status_of(reader) == 204
    await reader.readuntil(b"\r\n\r\n")
    assert await hung_up(reader)
    writer.transport.abort()


@pytest.mark.parametrize(
    ("token", "path", "status"), [(None, PATH, 401), ("neighbour", PATH, 403), ("trainer", "/no-such-path", 404)]
)
async def test_the_answer_to_a_stranger_ends_its_connection(
    operator: Reporting, token: str | None, path: str, status: int
) -> None:
    reader, writer = await operator.connect()
    writer.write(request(report(), token, path) * 2)
    assert await status_of(reader) == status
    rest = await asyncio.wait_for(reader.read(), timeout=connections.SILENT_SECONDS)
    assert b"Connection: close" in rest
    assert b"HTTP/1.1" not in rest, "its second request is not answered"
    writer.transport.abort()


async def test_a_third_connection_of_one_pod_ends_its_oldest(operator: Reporting) -> None:
    opened = []
    for _ in range(3):
        reader, writer = await operator.connect()
        writer.write(request(report()))
        assert await status_of(reader) == 204
        opened.append((reader, writer))
    await opened[0][0].readuntil(b"\r\n\r\n")
    assert await hung_up(opened[0][0])
    opened[1][1].write(request(report()))
    await opened[1][0].readuntil(b"\r\n\r\n")
    assert await status_of(opened[1][0]) == 204
    for _, writer in opened:
        writer.transport.abort()


def some_slots(ended: list[int]) -> ConnectionSlots:
    return ConnectionSlots(ended.append, lambda: None, connection_rate(lambda: 0.0))


def test_strangers_make_place_for_one_another_and_never_take_that_of_a_pod_that_trains() -> None:
    ended: list[int] = []
    slots = some_slots(ended)
    assert slots.accept(0, "10.1.0.1")
    slots.trust(0, "pod")
    for number in range(1, 4 * connections.MOST_UNKNOWN + 1):
        assert slots.accept(number, f"10.0.0.{number}")
    assert ended == list(range(1, 3 * connections.MOST_UNKNOWN + 1))
    assert len(slots) == connections.MOST_UNKNOWN + 1


def test_a_thousand_trainers_have_places_beside_any_number_of_strangers() -> None:
    ended: list[int] = []
    slots = some_slots(ended)
    for number in range(2000):
        assert slots.accept(number, f"10.0.{number // 250}.{number % 250}")
        slots.trust(number, f"pod-{number}")
    assert (ended, len(slots)) == ([], 2000)
    slots.release(0)
    assert len(slots) == 1999


def test_an_address_opens_connections_at_a_bounded_rate() -> None:
    slots = some_slots([])
    taken = 0
    for number in range(connections.CONNECTIONS_AT_ONCE + 50):
        taken += slots.accept(number, "10.0.0.1")
        slots.release(number)
    assert taken == connections.CONNECTIONS_AT_ONCE


def test_those_who_are_counted_are_forgotten_in_the_order_of_their_last_request() -> None:
    rate = limits.RateLimit(burst=1, per_second=1, most=2, monotonic=lambda: 0.0)
    for who in ("first", "second", "third"):
        rate.take(who)
    assert [rate.allows(who) for who in ("first", "second", "third")] == [True, False, False]


# What is kept


async def training() -> tuple[World, tuple[str, str]]:
    world = World()
    key = await world.apply(a_job())
    await world.pod("demo-prepare-1", running())
    await world.pod("demo-prepare-1", ended(0, an_outcome(Stage.PREPARE)))
    await world.pod("demo-train-1", running())
    return world, key


def large(number: int) -> Progress:
    """As much as fits into a body."""
    names = [f"checkpoints/checkpoint-{step}" for step in range(number, number + 300)]
    checkpoints = tuple(Checkpoint(step=1, path=name, bytes=1, time=TIME) for name in names)
    history = tuple(HistoryPoint(step=step, loss=1.0) for step in range(300))
    return replace(PROGRESS, checkpoints=checkpoints, history=history)


async def test_many_reports_take_the_memory_of_one_and_make_no_more_writes_than_the_interval_allows() -> None:
    world, key = await training()
    world.controller.report(key, large(0))
    await world.settle()
    writes, events = len(world.requests("patch")), len(world.requests("create", "Event"))
    tracemalloc.start()
    for number in range(200):
        world.controller.report(key, large(number))
        while len(world.controller.queue):
            await world.controller.work()
    kept, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert kept < 2_000_000
    assert len(world.requests("patch")) <= writes + 1
    assert len(world.requests("create", "Event")) == events


async def test_whatever_a_report_holds_its_status_is_bounded() -> None:
    world, key = await training()
    world.controller.report(key, large(0))
    await world.settle()
    status = world.status(key)
    assert len(status["checkpoints"]) == CHECKPOINTS_LIMIT
    assert len(status["history"]) == HISTORY_SHOWN
    assert len(json.dumps(status)) < 64_000


NOT_TAKEN: dict[str, Callable[[Progress], Progress]] = {
    "more steps than there are": lambda good: replace(good, step=3),
    "a negative step": lambda good: replace(good, step=-1),
    "a number that JSON readers cannot keep": lambda good: replace(good, tokens=2**60),
    "a time that is none": lambda good: with_checkpoint(good, "checkpoints/checkpoint-1", time="now"),
    "a path without end": lambda good: with_checkpoint(good, "x" * 2000),
    "a path that climbs": lambda good: with_checkpoint(good, "../../other/checkpoint-1"),
    "a path with commands to a terminal": lambda good: with_checkpoint(good, f"checkpoints/{ESCAPE}"),
    "a path of two lines": lambda good: with_checkpoint(good, "checkpoints/a\nb"),
}


def with_checkpoint(good: Progress, path: str, time: str = TIME) -> Progress:
    return replace(good, checkpoints=(Checkpoint(step=1, path=path, bytes=1, time=time),))


@pytest.mark.parametrize("change", NOT_TAKEN.values(), ids=NOT_TAKEN)
async def test_values_that_are_none_are_refused(change: Callable[[Progress], Progress]) -> None:
    world, key = await training()
    before = world.status(key)
    with pytest.raises(ValueError, match=r"must be|not a path|at most|time"):
        world.controller.report(key, change(PROGRESS))
    await world.settle()
    assert world.status(key) == before


# What others read


@pytest.mark.parametrize(
    "path",
    [
        progress_path("team%0Alevel=error%20msg=forged", "demo"),
        progress_path("team", "demo%0d%0atime=2026"),
        progress_path("team", "%1b%5b2J"),
        "/%0aforged",
    ],
)
async def test_no_path_writes_lines_of_its_own_into_the_log(
    operator: Reporting, written: io.StringIO, path: str
) -> None:
    assert await operator.post(report(), None, path) == 404
    assert written.getvalue() == ""


@pytest.mark.parametrize(
    "body",
    [
        report(time=f"x\n{ESCAPE}level=error", attempt="\n"),
        report(loss=f"1\r\n{ESCAPE}"),
        report(checkpoints=[{"step": 1, "path": f"a\n{ESCAPE}", "bytes": 1, "time": f"\n{ESCAPE}"}], attempt="\n"),
    ],
)
async def test_no_value_writes_lines_of_its_own_into_the_log(
    operator: Reporting, written: io.StringIO, body: bytes
) -> None:
    assert await operator.post(body) == 400
    assert len(written.getvalue().splitlines()) == 1
    assert "\x1b" not in written.getvalue()


async def test_an_activity_that_no_release_has_is_passed_over_and_reaches_neither_log_nor_status(
    operator: Reporting, written: io.StringIO
) -> None:
    assert await operator.post(report(activity=f"x\n{ESCAPE}level=error")) == 204
    assert [progress.activity for progress in operator.received] == [None]
    assert written.getvalue() == ""


async def test_refusals_without_end_do_not_fill_the_log(operator: Reporting, written: io.StringIO) -> None:
    for _ in range(endpoint.REJECTION_LOGS_AT_ONCE + 30):
        await operator.post(report(), None)
    assert len(written.getvalue().splitlines()) == endpoint.REJECTION_LOGS_AT_ONCE


async def test_a_last_word_has_no_commands_to_a_terminal_in_status_and_events() -> None:
    world, key = await training()
    said = f"look here{ESCAPE}\u202e and there\x00\x9b" + "x" * 1000
    last = Outcome(version=1, stage=Stage.TRAIN, exit_code=ExitCode.INVALID, reason=Reason.DATA_INVALID, message=said)
    await world.pod("demo-train-1", ended(65, last))
    told = json.dumps([world.status(key), *(asked.body for asked in world.requests("create", "Event"))])
    assert "look here" in told
    assert not any(escape in told for escape in ("\\u001b", "\\u202e", "\\u0000", "\\u009b"))


async def test_a_note_that_changes_all_the_time_makes_one_event() -> None:
    world, key = await training()
    for number in range(10):
        skipped = SkippedCheckpoint(path=f"checkpoints/checkpoint-{number}", why="it is broken")
        world.controller.report(key, replace(PROGRESS, skipped_checkpoints=(skipped,)))
        await world.pass_time(60)
    reasons = [asked.body["reason"] for asked in world.requests("create", "Event")]
    assert reasons.count("CheckpointSkipped") == 1
