"""Connection limits of the endpoint: Pods that train have reserved slots, all others share a few.

No sender is known before its token was reviewed, so a new connection counts against its address. A new connection of an
unknown sender replaces the oldest one: a sender that reports needs it only for milliseconds.
"""

import asyncio
import os
import socket
from collections import Counter, deque
from collections.abc import Callable, Hashable
from typing import Any, Final

from aiohttp import web
from aiohttp.typedefs import Handler

from sftjob_operator.progress.limits import RateLimit

MOST_UNKNOWN: Final = 256
"""Connections of all addresses whose sender is unknown, or is not a Pod that trains."""
MOST_UNKNOWN_OF_ONE_ADDRESS: Final = 32
MOST_KNOWN: Final = 2048
"""Connections of Pods that train."""
MOST_OF_ONE_POD: Final = 2
"""A trainer keeps one open; a second replaces it after a break that only one side has noticed."""
CONNECTIONS_AT_ONCE: Final = 100
CONNECTIONS_PER_SECOND: Final = 10.0
"""New connections of one address. A TLS handshake costs milliseconds of CPU, for any sender."""
SILENT_SECONDS: Final = 10.0
"""Maximum time for a TLS handshake, and then for the headers of the only request of an unknown sender."""
KEEP_ALIVE_SECONDS: Final = 60.0
"""Maximum time between two requests of a Pod that trains, which reports every 2 to 10 seconds."""
_UNREAD_SECONDS: Final = 1.0
"""How long the rest of a rejected request is read, so that its sender receives the response."""
_REMEMBERED: Final = 4096


class ConnectionSlots:
    """Accounting of connections. Connections are numbers; `abort` closes one of them."""

    def __init__(self, abort: Callable[[int], None], rejected: Callable[[], None], rate: RateLimit) -> None:
        """`rejected` is called for every connection that is rejected, or closed to make room for another."""
        self._abort = abort
        self._rejected = rejected
        self._rate = rate
        self._unknown: dict[int, str] = {}  # in order of arrival
        self._by_address: Counter[str] = Counter()
        self._known: dict[int, Hashable] = {}
        self._by_pod: dict[Hashable, deque[int]] = {}

    def __len__(self) -> int:
        return len(self._unknown) + len(self._known)

    def accept(self, number: int, address: str) -> bool:
        """Accept a new connection, unless its address has too many, or opens them too often."""
        if self._by_address[address] >= MOST_UNKNOWN_OF_ONE_ADDRESS or not self._rate.allows(address):
            self._rejected()
            return False
        self._rate.take(address)
        if len(self._unknown) >= MOST_UNKNOWN:
            self._end(next(iter(self._unknown)))
        self._unknown[number] = address
        self._by_address[address] += 1
        return True

    def trust(self, number: int, pod: Hashable) -> None:
        """Mark the connection as one of a Pod that trains: it no longer counts against its address."""
        if self._known.get(number) == pod or (number not in self._unknown and number not in self._known):
            return
        self.release(number)
        mine = self._by_pod.setdefault(pod, deque())
        if len(mine) >= MOST_OF_ONE_POD:
            self._end(mine[0])
        elif len(self._known) >= MOST_KNOWN:
            self._end(next(iter(self._known)))
        self._known[number] = pod
        self._by_pod.setdefault(pod, mine).append(number)

    def release(self, number: int) -> None:
        """Remove a closed connection."""
        if (address := self._unknown.pop(number, None)) is not None:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]
        elif (pod := self._known.pop(number, None)) is not None:
            self._by_pod[pod].remove(number)
            if not self._by_pod[pod]:
                del self._by_pod[pod]

    def _end(self, number: int) -> None:
        self.release(number)
        self._rejected()
        self._abort(number)


class Listener(socket.socket):
    """A listening socket that counts connections from their acceptance, before any TLS."""

    slots: ConnectionSlots

    @classmethod
    def of(cls, listening: socket.socket, rejected: Callable[[], None], rate: RateLimit) -> "Listener":
        """Take over a listening socket, and close it when this one is closed."""
        listener = cls(listening.family, listening.type, listening.proto, fileno=os.dup(listening.fileno()))
        accepted: dict[int, _Accepted] = {}
        listener._accepted = accepted
        listener._listening = listening
        listener.slots = ConnectionSlots(lambda number: accepted[number].abort(), rejected, rate)
        return listener

    def close(self) -> None:
        """See socket."""
        self._listening.close()
        super().close()

    def accept(self) -> tuple[socket.socket, Any]:
        """See socket.

        Raises:
            ConnectionAbortedError: the connection exceeded a limit and is closed. asyncio continues with the next.
        """
        descriptor, address = self._accept()  # type: ignore[attr-defined]
        connection = _Accepted(self.family, self.type, self.proto, fileno=descriptor)
        connection.settimeout(self.gettimeout())
        number = connection.fileno()
        if not self.slots.accept(number, str(address[0])):
            connection.close()
            raise ConnectionAbortedError
        self._accepted[number] = connection
        connection.ended = lambda: self._released(number)
        return connection, address

    def _released(self, number: int) -> None:
        self._accepted.pop(number, None)
        self.slots.release(number)

    _accepted: dict[int, "_Accepted"]
    _listening: socket.socket


class _Accepted(socket.socket):
    """A connection that reports its end."""

    ended: Callable[[], None] | None = None

    def close(self) -> None:
        """See socket."""
        ended, self.ended = self.ended, None
        if ended is not None:
            ended()
        super().close()

    def abort(self) -> None:
        """Close the connection in a way that the event loop notices."""
        try:
            self.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


class Connection(web.RequestHandler):
    """One connection. Bodies are read as sent: nothing is decompressed, so none is larger than it appears.

    The connection of an unknown sender ends with the response to its first request, that of a Pod that trains after a
    silence. aiohttp reads its keep-alive time once, when a connection begins, so this class enforces the shorter time
    of unknown senders.
    """

    def __init__(self, server: web.Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=KEEP_ALIVE_SECONDS,
            lingering_time=_UNREAD_SECONDS,
            auto_decompress=False,
        )
        self.is_trusted = False
        self._first_request: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        super().connection_made(transport)
        self._first_request = asyncio.get_running_loop().call_later(SILENT_SECONDS, self.force_close)

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio.Protocol."""
        self.headers_arrived()
        super().connection_lost(exc)

    def headers_arrived(self) -> None:
        """From here on, the endpoint limits the duration of a request."""
        if self._first_request is not None:
            self._first_request.cancel()

    def trust(self) -> None:
        """Keep the connection open between two reports."""
        self.is_trusted = True


@web.middleware
async def close_unknown_senders(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Close the connection after the response, unless a Pod that trains sent the request."""
    connection = request.protocol
    if not isinstance(connection, Connection):
        return await handler(request)
    connection.headers_arrived()
    try:
        answer = await handler(request)
    except web.HTTPException as error:
        if not connection.is_trusted:
            error.force_close()
        raise
    if not connection.is_trusted:
        answer.force_close()
    return answer


def connection_rate(monotonic: Callable[[], float]) -> RateLimit:
    """Rate limit of new connections by address."""
    return RateLimit(
        burst=CONNECTIONS_AT_ONCE, per_second=CONNECTIONS_PER_SECOND, most=_REMEMBERED, monotonic=monotonic
    )
