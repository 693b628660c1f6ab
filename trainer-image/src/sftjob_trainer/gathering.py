"""The Pods of one attempt wait for one another before any of them loads a model, however long the last is not placed.

PyTorch's own rendezvous gives up after a time. A Pod that queues for its GPU is no failure, so that waiting has no end
but SIGTERM. A Pod that was here and is gone ends the wait at once: it will not come back within this attempt.
"""

import logging
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure

logger = logging.getLogger(__name__)

_HERE: Final = b"here\n"
_GO: Final = b"go\n"
_GREETING_BYTES: Final = 256
_GREETING_SECONDS: Final = 10.0
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6))
"""A peer whose node is lost says nothing; after 90 s without an answer its connection ends."""


@dataclass(frozen=True, kw_only=True)
class Meeting:
    """Where Pod `rank` of `size` meets the others: the Pod of rank 0 listens at `host`:`port`.

    `key` is equal in all Pods of one attempt and different in all others. Seconds: `pause_seconds` between two looks,
    `tell_seconds` between two lines in the log.
    """

    rank: int
    size: int
    host: str
    port: int
    key: str
    pause_seconds: float = 1.0
    tell_seconds: float = 60.0


def gather(meeting: Meeting) -> None:
    """Return once every Pod of the attempt is here.

    Raises:
        Failure: one that was here is gone.
    """
    if meeting.size == 1:
        return
    waiting = _Waiting(meeting)
    if meeting.rank == 0:
        _wait_for_others(meeting, waiting)
    else:
        _wait_for_leader(meeting, waiting)
    logger.info("all %d Pods are here, after %.0f s", meeting.size, waiting.seconds)


@dataclass
class _Waiting:
    """How long a Pod has been waiting, which it logs now and then."""

    meeting: Meeting
    started: float = field(default_factory=time.monotonic)
    told: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def tell(self, whom: str) -> None:
        if time.monotonic() - self.told >= self.meeting.tell_seconds:
            self.told = time.monotonic()
            logger.info("waiting for %s since %.0f s: not all Pods of this attempt are running yet", whom, self.seconds)


def _wait_for_others(meeting: Meeting, waiting: _Waiting) -> None:
    here: dict[int, socket.socket] = {}
    with ExitStack() as open_, _listening(meeting) as server:
        while len(here) < meeting.size - 1:
            arrived = _arrival(server, meeting)
            if arrived is not None:
                rank, connection = arrived
                open_.enter_context(connection)
                here[rank] = connection
                continue
            for rank, connection in here.items():
                if _is_gone(connection):
                    raise _gone(f"of rank {rank}")
            absent = ", ".join(str(rank) for rank in range(1, meeting.size) if rank not in here)
            waiting.tell(f"the Pods of rank {absent}")
        for rank, connection in here.items():
            try:
                connection.sendall(_GO)
            except OSError as error:
                raise _gone(f"of rank {rank}") from error


def _wait_for_leader(meeting: Meeting, waiting: _Waiting) -> None:
    while True:
        with suppress(OSError), _connected(meeting) as connection:
            connection.sendall(f"{meeting.key} {meeting.rank}\n".encode())
            if _line(connection) == _HERE:
                _wait_for_go(connection, meeting, waiting)
                return
        waiting.tell("the Pod of rank 0")
        time.sleep(meeting.pause_seconds)


def _wait_for_go(connection: socket.socket, meeting: Meeting, waiting: _Waiting) -> None:
    connection.settimeout(meeting.pause_seconds)
    while True:
        try:
            said = connection.recv(len(_GO))
        except TimeoutError:
            waiting.tell("the other Pods")
            continue
        except OSError as error:
            raise _gone("of rank 0") from error
        if not said:
            raise _gone("of rank 0")
        return


def _arrival(server: socket.socket, meeting: Meeting) -> tuple[int, socket.socket] | None:
    """A Pod that has just come, and its connection; None if none came for a while, or somebody else did."""
    try:
        connection, _ = server.accept()
    except TimeoutError:
        return None
    with suppress(OSError, ValueError):
        _keep_alive(connection)
        connection.settimeout(_GREETING_SECONDS)
        key, rank = _line(connection).decode("ascii").split()
        if key == meeting.key and 0 < int(rank) < meeting.size:
            connection.sendall(_HERE)
            return int(rank), connection
    connection.close()
    return None


@contextmanager
def _listening(meeting: Meeting) -> Iterator[socket.socket]:
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    with socket.create_server(("", meeting.port), family=family, dualstack_ipv6=both) as server:
        server.settimeout(meeting.pause_seconds)
        yield server


@contextmanager
def _connected(meeting: Meeting) -> Iterator[socket.socket]:
    with socket.create_connection((meeting.host, meeting.port), timeout=_GREETING_SECONDS) as connection:
        _keep_alive(connection)
        yield connection


def _line(connection: socket.socket) -> bytes:
    """One short line.

    Raises:
        OSError: there is none.
    """
    line = b""
    while not line.endswith(b"\n"):
        piece = connection.recv(1)
        if not piece or len(line) >= _GREETING_BYTES:
            raise ConnectionError("no line")
        line += piece
    return line


def _is_gone(connection: socket.socket) -> bool:
    """Whether the peer has closed its connection: it says nothing as long as it waits."""
    connection.setblocking(False)
    try:
        return connection.recv(1) == b""
    except BlockingIOError:
        return False
    except OSError:
        return True
    finally:
        connection.settimeout(_GREETING_SECONDS)


def _keep_alive(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in _KEEPALIVE:
        if (option := getattr(socket, name, None)) is not None:
            connection.setsockopt(socket.IPPROTO_TCP, option, value)


def _gone(whose: str) -> Failure:
    return Failure(
        Reason.INTERNAL_ERROR,
        f"the Pod {whose} was here and is gone before training began, while others were waited for",
        blames_peer=True,
    )
