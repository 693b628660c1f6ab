"""A running node with its API, and what tests ask of it."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sftjob_sandbox.node.containers.logs import LogOptions, read_log
from support.clients.wait import eventually
from support.fakes.node_api import FakeNodeApi, Object


@dataclass
class Cluster:
    """The API and the data directory of a running node."""

    api: FakeNodeApi
    data: Path

    async def run(self, pod: Object, phase: str = "Succeeded") -> Object:
        """Run a Pod to its end; its status."""
        self.api.create("pods", pod)
        return await self.api.phase(pod["metadata"]["name"], phase)

    async def output(self, name: str = "p", container: str = "main") -> str:
        """What a container wrote."""
        pieces = [
            piece async for piece in read_log(self.data, self.api.pod(name), container, LogOptions(), lambda: False)
        ]
        return b"".join(pieces).decode()

    async def run_script(self, pod: Object) -> list[str]:
        """Run a Pod to its good end; the lines that it wrote."""
        await self.run(pod)
        return (await self.output(pod["metadata"]["name"])).splitlines()

    async def eventually(self, condition: Callable[[], Any]) -> None:
        """Wait for something outside of the API: processes and files tell nobody."""

        async def holds() -> bool:
            return bool(condition())

        await eventually(holds, "it did not happen in time")

    def tree(self, name: str = "p", container: str = "main") -> Path:
        """A container's private tree."""
        return next((self.data / "pods").glob(f"default_{name}_*")) / container / "root"


StartCluster = Callable[..., Awaitable[Cluster]]
Processes = Callable[[], list[int]]
"""Tells which descendants this process has beside those from before the test."""
