"""How long ago the API server last answered a watch, seen from below kopf, which does not tell.

A watch that has gone deaf looks like a quiet cluster. But each is asked for anew every few minutes, so one that was not
answered for much longer than that is broken, whatever the reason.
"""

from collections.abc import Callable
from typing import Any, Final

import aiohttp

WATCH_SECONDS: Final = 300
"""How long the API server is asked to keep a watch open."""
NAMESPACED: Final = "/namespaces/"
"""In the paths of what belongs to one namespace."""
LONGEST_AGE_SECONDS: Final = 900
"""An operator whose watch is older than this is restarted."""


class WatchAge:
    """The watches by their path, and when each was last answered (or, if never, first asked for)."""

    def __init__(self, monotonic: Callable[[], float]) -> None:
        self._monotonic = monotonic
        self._answered: dict[str, float] = {}

    def seconds(self) -> float:
        """Age of the oldest watch; 0 before the first one."""
        return self._monotonic() - min(self._answered.values(), default=self._monotonic())

    def trace(self) -> aiohttp.TraceConfig:
        """What a session needs to keep this up to date."""
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
        """A refusal is an answer: a deleted namespace is asked about again and again while others are served."""
        path, status = request.url.path, request.response.status
        refused = path in self._answered and NAMESPACED in path and status == 403
        if refused or ("watch" in request.url.query and status == 200):
            self._answered[path] = self._monotonic()
