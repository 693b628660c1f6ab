"""Waiting for a condition, with a deadline."""

import asyncio
import time
from collections.abc import Awaitable, Callable

DEADLINE_SECONDS = 20.0
_POLL_SECONDS = 0.005


async def eventually(condition: Callable[[], Awaitable[bool]], otherwise: str) -> None:
    """Return as soon as `condition` holds; fail with `otherwise` if it does not in time."""
    deadline = time.monotonic() + DEADLINE_SECONDS
    while not await condition():
        assert time.monotonic() < deadline, otherwise
        await asyncio.sleep(_POLL_SECONDS)


def wait_until(condition: Callable[[], bool], otherwise: str, seconds: float = 60) -> None:
    """The same outside of an event loop, with a deadline of its own."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, otherwise
        time.sleep(10 * _POLL_SECONDS)
