"""A sandbox that runs beside a test which is not async itself, such as one that calls kubectl."""

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from sftjob_sandbox.sandbox import Sandbox

_SECONDS = 30


@contextmanager
def background_sandbox(sandbox: Sandbox) -> Iterator[Sandbox]:
    """`sandbox`, running in an event loop of its own thread."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, name="sandbox")
    thread.start()
    try:
        asyncio.run_coroutine_threadsafe(sandbox.__aenter__(), loop).result(_SECONDS)
        try:
            yield sandbox
        finally:
            asyncio.run_coroutine_threadsafe(sandbox.__aexit__(None, None, None), loop).result(_SECONDS)
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_SECONDS)
        loop.close()
