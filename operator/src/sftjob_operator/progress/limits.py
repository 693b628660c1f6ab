"""How much of the endpoint anybody may use: connections at the same time by address, and requests in a time."""

import asyncio
from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any, Final, cast

from aiohttp import web

MOST_CONNECTIONS: Final = 512
"""A thousand trainers that report every two seconds have a few dozen open."""
MOST_CONNECTIONS_OF_ONE_ADDRESS: Final = 64
"""A trainer opens one at a time. Many may share an address where the network translates addresses."""
SILENT_SECONDS: Final = 10.0
"""Longest time for a TLS handshake, for the headers of a request, and between two requests."""
_UNREAD_SECONDS: Final = 1.0
"""How long the rest of a request that was refused is read, so that its sender gets to see the answer."""


class Connections:
    """Makes the protocol of each connection of `server`, and hangs up on those that are too many."""

    def __init__(self, server: web.Server) -> None:
        self._server = server
        self._open: Counter[str] = Counter()

    def __call__(self) -> asyncio.BaseProtocol:
        """A protocol for a connection that is about to be made."""
        return _Connection(self, self._server)

    def enter(self, address: str) -> bool:
        """Count a connection from `address`, unless it is one too many."""
        if self._open.total() >= MOST_CONNECTIONS or self._open[address] >= MOST_CONNECTIONS_OF_ONE_ADDRESS:
            return False
        self._open[address] += 1
        return True

    def leave(self, address: str) -> None:
        """A connection that was counted has ended."""
        self._open[address] -= 1
        if not self._open[address]:
            del self._open[address]


class _Connection(web.RequestHandler):
    """One connection. Bodies are taken as they are sent: nothing is unpacked, so none is larger than it looks."""

    def __init__(self, connections: Connections, server: web.Server) -> None:
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=SILENT_SECONDS,
            lingering_time=_UNREAD_SECONDS,
            auto_decompress=False,
        )
        self._connections = connections
        self._address: str | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        address = _address(transport.get_extra_info("peername"))
        if not self._connections.enter(address):
            cast("asyncio.Transport", transport).abort()
            return
        self._address = address
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        """See asyncio.Protocol."""
        if self._address is not None:
            self._connections.leave(self._address)
            super().connection_lost(exc)


@dataclass(frozen=True, slots=True)
class _Left:
    requests: float
    at: float


class RateLimit:
    """Allows each of many `burst` requests at once, and then as many as come back `per_second`.

    The `most` of them that asked last are remembered.
    """

    def __init__(self, *, burst: int, per_second: float, most: int, monotonic: Callable[[], float]) -> None:
        self._burst = burst
        self._per_second = per_second
        self._most = most
        self._monotonic = monotonic
        self._left: dict[Hashable, _Left] = {}

    def allows(self, who: Hashable) -> bool:
        """Whether `who` has one left."""
        return self._requests(who) >= 1

    def take(self, who: Hashable) -> None:
        """`who` has used one."""
        requests = max(0.0, self._requests(who) - 1)
        self._left.pop(who, None)
        while len(self._left) >= self._most:
            del self._left[next(iter(self._left))]
        self._left[who] = _Left(requests=requests, at=self._monotonic())

    def _requests(self, who: Hashable) -> float:
        left = self._left.get(who)
        if left is None:
            return self._burst
        return min(self._burst, left.requests + (self._monotonic() - left.at) * self._per_second)


def _address(peer: Any) -> str:
    """The host of a socket's name, or nothing for a socket that has none."""
    return str(peer[0]) if isinstance(peer, tuple) and peer else ""
