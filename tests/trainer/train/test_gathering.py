"""Pods of one attempt wait for one another without a limit, end when told to, and notice who is gone."""

import logging
import signal
import socket
import threading
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import pytest

from sftjob_contract import names
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import Reason
from sftjob_trainer.distributed.rendezvous import Rendezvous, wait_for_pods
from sftjob_trainer.process.errors import StageError
from support.trainer.processes import started
from support.trainer.tiny import run_config

PAUSE_SECONDS = 0.02
LIMIT_SECONDS = 30


@pytest.fixture
def meeting() -> Rendezvous:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    return Rendezvous(
        rank=0,
        size=3,
        host="127.0.0.1",
        port=port,
        key="uid/1",
        poll_seconds=PAUSE_SECONDS,
        log_seconds=3 * PAUSE_SECONDS,
    )


def start(meeting: Rendezvous) -> "Future[None]":
    """A Pod that comes now, as a thread that does not outlive the tests."""
    future: Future[None] = Future()

    def come() -> None:
        try:
            wait_for_pods(meeting)
        except StageError as failure:
            future.set_exception(failure)
        else:
            future.set_result(None)

    threading.Thread(target=come, daemon=True).start()
    return future


def told(caplog: pytest.LogCaptureFixture, words: str) -> None:
    """Wait until this is logged."""
    until = threading.Event()
    for _ in range(int(LIMIT_SECONDS / PAUSE_SECONDS)):
        if words in caplog.text:
            return
        until.wait(PAUSE_SECONDS)
    raise AssertionError(f"{words!r} was not logged: {caplog.text}")


def greet(meeting: Rendezvous, line: str) -> socket.socket:
    for _ in range(int(LIMIT_SECONDS / PAUSE_SECONDS)):
        with suppress(ConnectionRefusedError):
            connection = socket.create_connection((meeting.host, meeting.port), timeout=LIMIT_SECONDS)
            connection.sendall(line.encode())
            return connection
        threading.Event().wait(PAUSE_SECONDS)
    raise AssertionError("nobody listens")


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0), (1, 0, 2)])
def test_pods_that_come_one_after_the_other_go_on_together(
    meeting: Rendezvous,
    caplog: pytest.LogCaptureFixture,
    order: tuple[int, ...],
) -> None:
    caplog.set_level(logging.INFO)
    *first, last = order
    waiting = [start(replace(meeting, rank=rank)) for rank in first]
    told(caplog, "not all Pods of this attempt are running yet")
    assert not any(each.done() for each in waiting)
    waiting.append(start(replace(meeting, rank=last)))
    for each in waiting:
        each.result(timeout=LIMIT_SECONDS)
    assert caplog.text.count("all 3 Pods are here") == 3


def test_a_pod_that_was_here_and_is_gone_ends_the_wait_of_all(meeting: Rendezvous) -> None:
    four = replace(meeting, size=4)
    leader, other = start(four), start(replace(four, rank=1))
    gone = greet(meeting, "uid/1 2\n")
    assert gone.recv(5) == b"here\n"
    gone.close()
    for each, whose in ((leader, "of rank 2"), (other, "of rank 0")):
        with pytest.raises(StageError, match=rf"^the Pod {whose} joined and disappeared") as raised:
            each.result(timeout=LIMIT_SECONDS)
        assert (raised.value.reason, raised.value.blames_peer) == (Reason.INTERNAL_ERROR, True)


@pytest.mark.parametrize(
    "line", ["uid/2 1\n", "uid/1 3\n", "uid/1 0\n", "uid/1 one\n", "\n", "x" * 1000, "uid/1 1", "GET / HTTP/1.1\r\n"]
)
def test_who_is_none_of_the_attempt_is_sent_away_and_not_counted(meeting: Rendezvous, line: str) -> None:
    two = replace(meeting, size=2)
    leader = start(two)
    with greet(meeting, line) as stranger, suppress(OSError):  # the connection may be reset by now
        if not line.endswith("\n"):
            stranger.shutdown(socket.SHUT_WR)
        assert stranger.recv(5) == b""
    assert not leader.done()
    start(replace(two, rank=1)).result(timeout=LIMIT_SECONDS)
    leader.result(timeout=LIMIT_SECONDS)


def test_one_pod_waits_for_nobody(meeting: Rendezvous) -> None:
    wait_for_pods(replace(meeting, size=1))


@pytest.mark.parametrize("rank", [0, 1])
def test_a_pod_that_waits_ends_at_once_when_asked_to(tmp_path: Path, meeting: Rendezvous, rank: int) -> None:
    """Without an import of PyTorch, and with the reason of an interruption, which costs no retry."""
    config = replace(run_config(model="/none", dataset="/none"), nodes=2)
    place = {
        names.ENV_NODES: "2",
        names.ENV_NODE_RANK: str(rank),
        names.ENV_RENDEZVOUS: f"127.0.0.1:{meeting.port}",
    }
    with socket.socket() as listening:
        if rank == 1:
            listening.bind(("127.0.0.1", meeting.port))
            listening.listen()
        with started(tmp_path / "pod", tmp_path / "volume", config, place, ()) as pod:
            if rank == 0:
                greet(meeting, "another 1\n").close()
            else:
                listening.accept()[0].close()
            pod.process.send_signal(signal.SIGTERM)
            ended = pod.end()
    assert ended.code == ExitCode.RETRY
    assert ended.outcome is not None
    assert ended.outcome.reason is Reason.INTERRUPTED
