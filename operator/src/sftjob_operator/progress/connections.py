"""Whose connections the endpoint keeps: those of Pods that train have places of their own, others share a few.

Nobody is known before a token was reviewed, so a new connection counts for its address. A place among the strangers is
taken from the one that has had it for the longest time: whoever reports needs it for milliseconds.
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

MOST_STRANGERS: Final = 256
"""Connections whose sender is not known yet, or is no Pod that trains, of all addresses together."""
MOST_STRANGERS_OF_ONE_ADDRESS: Final = 32
MOST_KNOWN: Final = 2048
"""Connections of Pods that train."""
MOST_OF_ONE_POD: Final = 2
"""A trainer keeps one open; a second takes its place after a break that only one side has noticed."""
CONNECTIONS_AT_ONCE: Final = 100
CONNECTIONS_PER_SECOND: Final = 10.0
"""New connections of one address. A TLS handshake costs milliseconds of CPU, whoever asks for it."""
SILENT_SECONDS: Final = 10.0
"""Longest time for a TLS handshake, and then for the headers of the only request of a stranger."""
KEEP_ALIVE_SECONDS: Final = 60.0
"""Longest time between two requests of a Pod that trains, which reports every 2 to 10 seconds."""
_UNREAD_SECONDS: Final = 1.0
"""How long the rest of a request that was refused is read, so that its sender gets to see the answer."""
_REMEMBERED: Final = 4096


class Places:
    """Who may hold connections. Connections are numbers; `hang_up` ends one of them."""

    def __init__(self, hang_up: Callable[[int], None], refused: Callable[[], None], rate: RateLimit) -> None:
        """`refused` is called for every connection that is turned away or ended to make place for another."""
        self._hang_up = hang_up
        self._refused = refused
        self._rate = rate
        self._strangers: dict[int, str] = {}  # in the order in which they came
        self._by_address: Counter[str] = Counter()
        self._known: dict[int, Hashable] = {}
        self._by_pod: dict[Hashable, deque[int]] = {}

    def __len__(self) -> int:
        return len(self._strangers) + len(self._known)

    def enter(self, number: int, address: str) -> bool:
        """Take in a new connection, unless its address has too many, or opens them too often."""
        if self._by_address[address] >= MOST_STRANGERS_OF_ONE_ADDRESS or not self._rate.allows(address):
            self._refused()
            return False
        self._rate.take(address)
        if len(self._strangers) >= MOST_STRANGERS:
            self._end(next(iter(self._strangers)))
        self._strangers[number] = address
        self._by_address[address] += 1
        return True

    def trust(self, number: int, pod: Hashable) -> None:
        """The connection is one of a Pod that trains: it no longer counts for its address."""
        if self._known.get(number) == pod or (number not in self._strangers and number not in self._known):
            return
        self.leave(number)
        mine = self._by_pod.setdefault(pod, deque())
        if len(mine) >= MOST_OF_ONE_POD:
            self._end(mine[0])
        elif len(self._known) >= MOST_KNOWN:
            self._end(next(iter(self._known)))
        self._known[number] = pod
        self._by_pod.setdefault(pod, mine).append(number)

    def leave(self, number: int) -> None:
        """A connection has ended."""
        if (address := self._strangers.pop(number, None)) is not None:
            self._by_address[address] -= 1
            if not self._by_address[address]:
                del self._by_address[address]
        elif (pod := self._known.pop(number, None)) is not None:
            self._by_pod[pod].remove(number)
            if not self._by_pod[pod]:
                del self._by_pod[pod]

    def _end(self, number: int) -> None:
        self.leave(number)
        self._refused()
        self._hang_up(number)


class Listener(socket.socket):
    """A listening socket that counts connections from the moment when they are accepted, before any TLS."""

    places: Places

    @classmethod
    def of(cls, listening: socket.socket, refused: Callable[[], None], rate: RateLimit) -> "Listener":
        """Take over a socket that listens already, and close it when this one is closed."""
        listener = cls(listening.family, listening.type, listening.proto, fileno=os.dup(listening.fileno()))
        accepted: dict[int, _Accepted] = {}
        listener._accepted = accepted
        listener._listening = listening
        listener.places = Places(lambda number: accepted[number].hang_up(), refused, rate)
        return listener

    def close(self) -> None:
        """See socket."""
        self._listening.close()
        super().close()

    def accept(self) -> tuple[socket.socket, Any]:
        """See socket.

        Raises:
            ConnectionAbortedError: the connection was one too many, and is closed. asyncio goes on to the next.
        """
        descriptor, address = self._accept()  # type: ignore[attr-defined]
        connection = _Accepted(self.family, self.type, self.proto, fileno=descriptor)
        connection.settimeout(self.gettimeout())
        number = connection.fileno()
        if not self.places.enter(number, str(address[0])):
            connection.close()
            raise ConnectionAbortedError
        self._accepted[number] = connection
        connection.ended = lambda: self._left(number)
        return connection, address

    def _left(self, number: int) -> None:
        self._accepted.pop(number, None)
        self.places.leave(number)

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

    def hang_up(self) -> None:
        """Let the event loop notice that the connection is over, and close it."""
        try:
            self.shutdown(socket.SHUT_RDWR)
        except OSError:
            return


class Connection(web.RequestHandler):
    """One connection. Bodies are taken as they are sent: nothing is unpacked, so none is larger than it looks.

    The connection of a stranger ends with the answer to its first request, that of a Pod that trains when it is silent.
    aiohttp reads its keep-alive time once, as a connection begins, so the shorter time of strangers is kept here.
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
        """From here on, the endpoint limits the time that a request may take."""
        if self._first_request is not None:
            self._first_request.cancel()

    def trust(self) -> None:
        """Keep the connection open between two reports."""
        self.is_trusted = True


@web.middleware
async def one_request_of_strangers(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Let the answer be the last one on its connection, unless a Pod that trains has sent the request."""
    connection = request.protocol
    if not isinstance(connection, Connection):
        return await handler(request)
    connection.headers_arrived()
    try:
        answer = await handler(request)
    except web.HTTPException as refusal:
        if not connection.is_trusted:
            refusal.force_close()
        raise
    if not connection.is_trusted:
        answer.force_close()
    return answer


def connection_rate(monotonic: Callable[[], float]) -> RateLimit:
    """New connections by address."""
    return RateLimit(
        burst=CONNECTIONS_AT_ONCE, per_second=CONNECTIONS_PER_SECOND, most=_REMEMBERED, monotonic=monotonic
    )
