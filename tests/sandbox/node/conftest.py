"""A node with fast waits over an in-memory API."""

import os
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import pytest

from sftjob_sandbox.node.containers import shim
from sftjob_sandbox.node.node import Node
from sftjob_sandbox.node.settings import NodeSettings
from support.fakes.node_api import FakeNodeApi
from support.fakes.node_cluster import Cluster, Processes, StartCluster


@pytest.fixture
def processes() -> Processes:
    others = set(shim.descendants(os.getpid()))
    return lambda: [pid for pid in shim.descendants(os.getpid()) if pid not in others]


@pytest.fixture
async def start_cluster(tmp_path: Path, processes: Processes) -> AsyncIterator[StartCluster]:
    """Starts nodes with given settings; at the end each is stopped and no process may be left."""
    images = tmp_path / "images"
    images.mkdir()
    async with AsyncExitStack() as stack:

        async def start(api: FakeNodeApi | None = None, **settings: Any) -> Cluster:
            api = api or FakeNodeApi()
            defaults: dict[str, Any] = {
                "data": tmp_path / "data",
                "images": {"shell": images},
                "backoff_seconds": 0.05,
                "max_backoff_seconds": 0.2,
                "retry_seconds": 0.05,
                "memory_poll_seconds": 0.05,
                "shutdown_grace_seconds": 0.2,
            }
            await stack.enter_async_context(Node(api, NodeSettings(**defaults | settings)))
            return Cluster(api, tmp_path / "data")

        yield start
    assert processes() == []


@pytest.fixture
async def cluster(start_cluster: StartCluster) -> Cluster:
    """A node with four CPUs and no GPU."""
    return await start_cluster(cpus=4, memory_bytes=8 << 30)
