"""The operator's progress endpoint on a loopback port, asked by tests in raw bytes over TLS."""

import asyncio
import json
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from sftjob_contract.codec import encode
from sftjob_contract.names import progress_path
from sftjob_contract.reports.progress import Progress
from sftjob_operator.progress.availability import EndpointAvailability
from sftjob_operator.progress.endpoint import ProgressEndpoint
from sftjob_operator.progress.identity import PodIdentity, TokenReviewer
from sftjob_operator.progress.tls import server_context, tls_material
from support.fakes.progress import a_progress
from support.servers.tokens import token_of

KEY = ("team", "demo")
PATH = progress_path(*KEY)
TRAINER = PodIdentity(namespace="team", name="demo-train-1", uid="u1")
NEIGHBOUR = PodIdentity(namespace="team", name="other-train-1", uid="u2")
BEARERS = {
    "trainer": token_of(TRAINER),
    "neighbour": token_of(NEIGHBOUR),
    "account": token_of(None),
    "forged": token_of(TRAINER, "forged"),
}
"""Tokens by what tests call them."""
ACCOUNT = "system:serviceaccount:team:default"
ANSWER_SECONDS = 30.0
PROGRESS = a_progress(1, max_steps=2, tokens=3)


def report(**changes: Any) -> bytes:
    """A good report, but for `changes`."""
    return json.dumps({**encode(PROGRESS), **changes}).encode()


@dataclass
class Reporting:
    """The endpoint, with what it took in; `reviews` counts what the API server was asked. `now` is its clock."""

    received: list[Progress] = field(default_factory=list)
    reviews: int = 0
    now: float = 0.0
    port: int = 0
    ca: str = ""
    availability: EndpointAvailability = field(default_factory=lambda: EndpointAvailability(lambda: datetime.now(UTC)))

    async def review(self, token: str, audience: str) -> dict[str, Any]:
        """Status of a TokenReview: `trainer` and `neighbour` are tokens of Pods, `account` one of no Pod."""
        self.reviews += 1
        bound = {BEARERS["trainer"]: TRAINER, BEARERS["neighbour"]: NEIGHBOUR}.get(token)
        if bound is None and token != BEARERS["account"]:
            return {"authenticated": False}
        extra = {} if bound is None else _bound(bound)
        return {"authenticated": True, "audiences": [audience], "user": {"username": ACCOUNT, "extra": extra}}

    def accepts(self, key: tuple[str, str], pod: PodIdentity) -> int | None:
        """See endpoint.Accepts: one Pod trains."""
        return 1 if (key, pod) == (KEY, TRAINER) else None

    def receive(self, _key: tuple[str, str], progress: Progress) -> None:
        """See endpoint.Receive."""
        self.received.append(progress)

    async def connect(self, context: ssl.SSLContext | None = None) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """A connection that nothing was sent on yet."""
        tls = context or ssl.create_default_context(cadata=self.ca)
        return await asyncio.open_connection("127.0.0.1", self.port, ssl=tls, server_hostname="127.0.0.1")

    async def post(
        self, body: bytes, token: str | None = "trainer", path: str = PATH, headers: tuple[str, ...] = ()
    ) -> int:
        """HTTP status of a report on a connection of its own."""
        reader, writer = await self.connect()
        writer.write(request(body, token, path, headers))
        status = await status_of(reader)
        writer.transport.abort()
        return status


def request(body: bytes, token: str | None = "trainer", path: str = PATH, headers: tuple[str, ...] = ()) -> bytes:
    """A whole HTTP request."""
    lines = [f"POST {path} HTTP/1.1", "Host: 127.0.0.1", f"Content-Length: {len(body)}", *headers]
    lines += [] if token is None else [f"Authorization: Bearer {BEARERS.get(token, token)}"]
    return "\r\n".join([*lines, "", ""]).encode() + body


async def status_of(reader: asyncio.StreamReader) -> int:
    """The status of the next answer."""
    async with asyncio.timeout(ANSWER_SECONDS):
        return int((await reader.readline()).split()[1])


async def hung_up(reader: asyncio.StreamReader) -> bool:
    """Wait for the server to end the connection without a word."""
    async with asyncio.timeout(ANSWER_SECONDS):
        try:
            return await reader.read() == b""
        except (ConnectionError, ssl.SSLError):
            return True


@asynccontextmanager
async def reporting(directory: Path) -> AsyncIterator[Reporting]:
    """A running endpoint; its certificate lies in `directory`."""
    ours = Reporting()
    reviewer = TokenReviewer(ours.review, lambda: datetime.now(UTC))
    endpoint = ProgressEndpoint(
        reviewer, ours.accepts, ours.receive, lambda _: None, ours.availability, lambda: ours.now
    )
    material = tls_material(directory, ("127.0.0.1",), datetime.now(UTC))
    with socket.create_server(("127.0.0.1", 0)) as listener:
        await endpoint.serve(listener, server_context(material))
        ours.port, ours.ca = listener.getsockname()[1], material.ca
        try:
            yield ours
        finally:
            await endpoint.close()


def _bound(pod: PodIdentity) -> dict[str, list[str]]:
    prefix = "authentication.kubernetes.io/pod-"
    return {f"{prefix}name": [pod.name], f"{prefix}uid": [pod.uid]}
