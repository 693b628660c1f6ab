"""Time since the API server last answered a watch, measured below kopf, which does not expose it.

A dead watch looks like a quiet cluster. But each watch is renewed every few minutes, so one without a response for much
longer than that is broken, whatever the reason.
"""

from collections.abc import Callable
from typing import Any, Final

import aiohttp

WATCH_SECONDS: Final = 300
"""How long the API server is asked to keep a watch open."""
NAMESPACED: Final = "/namespaces/"
"""Part of the paths of namespaced resources."""
LONGEST_AGE_SECONDS: Final = 900
"""An operator with a watch older than this is restarted."""


class WatchAge:
    """Watches by path, and when each was last answered (or, before its first answer, requested)."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._answered: dict[str, float] = {}

    def seconds(self) -> float:
        """Return the age of the oldest watch; 0 before the first one."""
        return self._monotonic() - min(self._answered.values(), default=self._monotonic())

    def trace(self) -> aiohttp.TraceConfig:
        """Return the trace configuration with which a session updates this."""
        config = aiohttp.TraceConfig()
        config.on_request_start.append(self._asked)
        config.on_request_end.append(self._ended)
        return config

    async def _asked(
        self, _session: aiohttp.ClientSession, _context: Any, request: aiohttp.TraceRequestStartParams
    ) -> None:
        if "watch" in request.url.query:
            self._answered.setdefault(request.url.path, self._monotonic())

    async def _ended(
        self, _session: aiohttp.ClientSession, _context: Any, request: aiohttp.TraceRequestEndParams
    ) -> None:
        """A rejection is an answer: a deleted namespace is requested repeatedly while others are served."""
        path, status = request.url.path, request.response.status
        refused = path in self._answered and NAMESPACED in path and status == 403
        if refused or ("watch" in request.url.query and status == 200):
            self._answered[path] = self._monotonic()
