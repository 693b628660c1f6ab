"""An API server without a node, with the Widget resource, for each test."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from sftjob_sandbox.http.server import ServerSettings
from sftjob_sandbox.sandbox import Sandbox
from support.clients.http_api import WIDGETS_FILE, HttpApi, http_api


@pytest.fixture
async def sandbox(tmp_path: Path) -> AsyncIterator[Sandbox]:
    settings = ServerSettings(bookmark_seconds=0.05)
    async with Sandbox(data=tmp_path, with_node=False, definitions=[WIDGETS_FILE], server=settings) as sandbox:
        yield sandbox


@pytest.fixture
async def api(sandbox: Sandbox) -> AsyncIterator[HttpApi]:
    async with http_api(sandbox) as api:
        yield api
