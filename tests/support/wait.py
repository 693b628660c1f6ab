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
