"""The Pods of one attempt wait for each other before any of them loads a model, however long scheduling takes.

PyTorch's own rendezvous has a timeout. A Pod that queues for its GPU is not a failure, so this wait has no end but
SIGTERM. A Pod that joined and disappeared ends it at once: it does not return within this attempt.
"""

import logging
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Final

from sftjob_contract.reasons import Reason
from sftjob_trainer.process.errors import StageError

logger = logging.getLogger(__name__)

_JOINED: Final = b"here\n"
_GO: Final = b"go\n"
_GREETING_BYTES: Final = 256
_GREETING_SECONDS: Final = 10.0
_KEEPALIVE: Final = (("TCP_KEEPIDLE", 30), ("TCP_KEEPINTVL", 10), ("TCP_KEEPCNT", 6))
"""A peer on a lost node sends nothing; its connection ends after 90 s without an answer."""


@dataclass(frozen=True, kw_only=True)
class Rendezvous:
    """Where Pod `rank` of `size` meets the others: the Pod of rank 0 listens at `host`:`port`.

    `key` is equal in all Pods of one attempt and different in all others. `poll_seconds` separates two checks,
    `log_seconds` two log lines.
    """

    rank: int
    size: int
    host: str
    port: int
    key: str
    poll_seconds: float = 1.0
    log_seconds: float = 60.0


def wait_for_pods(rendezvous: Rendezvous) -> None:
    """Return once every Pod of the attempt has joined.

    Raises:
        StageError: a Pod that had joined has disappeared.
    """
    if rendezvous.size == 1:
        return
    waiting = _WaitLog(rendezvous)
    if rendezvous.rank == 0:
        _wait_for_others(rendezvous, waiting)
    else:
        _wait_for_leader(rendezvous, waiting)
    logger.info("all %d Pods are here, after %.0f s", rendezvous.size, waiting.seconds)


@dataclass
class _WaitLog:
    """Logs from time to time how long a Pod has been waiting."""

    rendezvous: Rendezvous
    started: float = field(default_factory=time.monotonic)
    logged_at: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.started

    def log(self, peers: str) -> None:
        if time.monotonic() - self.logged_at >= self.rendezvous.log_seconds:
            self.logged_at = time.monotonic()
            logger.info(
                "waiting for %s since %.0f s: not all Pods of this attempt are running yet", peers, self.seconds
            )


def _wait_for_others(rendezvous: Rendezvous, waiting: _WaitLog) -> None:
    joined: dict[int, socket.socket] = {}
    with ExitStack() as stack, _listening(rendezvous) as server:
        while len(joined) < rendezvous.size - 1:
            arrived = _accept_pod(server, rendezvous)
            if arrived is not None:
                rank, connection = arrived
                stack.enter_context(connection)
                joined[rank] = connection
                continue
            for rank, connection in joined.items():
                if _has_disconnected(connection):
                    raise _lost_pod_error(f"of rank {rank}")
            absent = ", ".join(str(rank) for rank in range(1, rendezvous.size) if rank not in joined)
            waiting.log(f"the Pods of rank {absent}")
        for rank, connection in joined.items():
            try:
                connection.sendall(_GO)
            except OSError as error:
                raise _lost_pod_error(f"of rank {rank}") from error


def _wait_for_leader(rendezvous: Rendezvous, waiting: _WaitLog) -> None:
    while True:
        with suppress(OSError), _connected(rendezvous) as connection:
            connection.sendall(f"{rendezvous.key} {rendezvous.rank}\n".encode())
            if _line(connection) == _JOINED:
                _wait_for_go(connection, rendezvous, waiting)
                return
        waiting.log("the Pod of rank 0")
        time.sleep(rendezvous.poll_seconds)


def _wait_for_go(connection: socket.socket, rendezvous: Rendezvous, waiting: _WaitLog) -> None:
    connection.settimeout(rendezvous.poll_seconds)
    while True:
        try:
            message = connection.recv(len(_GO))
        except TimeoutError:
            waiting.log("the other Pods")
            continue
        except OSError as error:
            raise _lost_pod_error("of rank 0") from error
        if not message:
            raise _lost_pod_error("of rank 0")
        return


def _accept_pod(server: socket.socket, rendezvous: Rendezvous) -> tuple[int, socket.socket] | None:
    """A Pod that has just joined, and its connection; None on a timeout or for an unknown client."""
    try:
        connection, _ = server.accept()
    except TimeoutError:
        return None
    with suppress(OSError, ValueError):
        _keep_alive(connection)
        connection.settimeout(_GREETING_SECONDS)
        key, rank = _line(connection).decode("ascii").split()
        if key == rendezvous.key and 0 < int(rank) < rendezvous.size:
            connection.sendall(_JOINED)
            return int(rank), connection
    connection.close()
    return None


@contextmanager
def _listening(rendezvous: Rendezvous) -> Iterator[socket.socket]:
    both = socket.has_dualstack_ipv6()
    family = socket.AF_INET6 if both else socket.AF_INET
    with socket.create_server(("", rendezvous.port), family=family, dualstack_ipv6=both) as server:
        server.settimeout(rendezvous.poll_seconds)
        yield server


@contextmanager
def _connected(rendezvous: Rendezvous) -> Iterator[socket.socket]:
    with socket.create_connection((rendezvous.host, rendezvous.port), timeout=_GREETING_SECONDS) as connection:
        _keep_alive(connection)
        yield connection


def _line(connection: socket.socket) -> bytes:
    """Read one short line.

    Raises:
        OSError: no line arrived.
    """
    line = b""
    while not line.endswith(b"\n"):
        piece = connection.recv(1)
        if not piece or len(line) >= _GREETING_BYTES:
            raise ConnectionError("no line")
        line += piece
    return line


def _has_disconnected(connection: socket.socket) -> bool:
    """Whether the peer has closed its connection; it sends nothing while it waits."""
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


def _lost_pod_error(peer: str) -> StageError:
    return StageError(
        Reason.INTERNAL_ERROR,
        f"the Pod {peer} joined and disappeared before training began, while it waited for the others",
        blames_peer=True,
    )
