"""A small HTTP client for the sandbox's API server, and the objects that its tests use."""

import io
import json
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from sftjob_sandbox.sandbox import Sandbox

Object = dict[str, Any]
WIDGETS_FILE = Path(__file__).parents[2] / "sandbox" / "widgets.yaml"
WIDGETS = "/apis/example.dev/v1/namespaces/default/widgets"
PODS = "/api/v1/namespaces/default/pods"
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
TABLE = {"Accept": "application/json;as=Table;v=v1;g=meta.k8s.io,application/json"}
MERGE = {"Content-Type": "application/merge-patch+json"}
JSON_PATCH = {"Content-Type": "application/json-patch+json"}
STRATEGIC = {"Content-Type": "application/strategic-merge-patch+json"}
APPLY = {"Content-Type": "application/apply-patch+yaml"}
RUNS_ONCE = {"restartPolicy": "Never", "automountServiceAccountToken": False}
"""What the sandbox requires of every Pod."""


@dataclass(frozen=True)
class Answer:
    """What came back. `body` is None where it is not JSON."""

    status: int
    body: Any
    text: str
    headers: Mapping[str, str]
    warnings: list[str]

    @property
    def refusal(self) -> tuple[int, str, str]:
        """Code, reason and message of a Status."""
        return self.body["code"], self.body.get("reason", ""), self.body["message"]


@dataclass
class HttpApi:
    """Requests to one server, with the administrator's token unless another is given."""

    session: aiohttp.ClientSession
    url: str
    token: str

    async def __call__(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] = {}, token: str | None = None
    ) -> Answer:
        """One request; `body` goes as JSON, unless it is bytes."""
        async with self._request(method, path, body, headers, token) as response:
            text = await response.text()
            is_json = response.content_type == "application/json" and text
            parsed = json.loads(text) if is_json else None
            return Answer(response.status, parsed, text, response.headers, response.headers.getall("Warning", []))

    async def ok(self, method: str, path: str, body: Any = None, headers: Mapping[str, str] = {}) -> Any:
        """The body of a request that must succeed."""
        answer = await self(method, path, body, headers)
        assert answer.status < 300, answer.text
        return answer.body

    @asynccontextmanager
    async def watch(self, path: str, headers: Mapping[str, str] = {}) -> AsyncIterator["Events"]:
        """A watch; `path` has its query."""
        async with self._request("GET", path, None, headers, None) as response:
            yield Events(response)

    @asynccontextmanager
    async def stream(self, path: str) -> AsyncIterator[aiohttp.ClientResponse]:
        """An answer that is read piece by piece."""
        async with self._request("GET", path, None, {}, None) as response:
            yield response

    def _request(self, method: str, path: str, body: Any, headers: Mapping[str, str], token: str | None) -> Any:
        raw = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
        data = None if raw is None else io.BytesIO(raw)
        known = {"Authorization": f"Bearer {token or self.token}"} if token != "" else {}
        if raw is not None:
            known["Content-Type"] = "application/json"
        return self.session.request(method, self.url + path, data=data, headers={**known, **headers})


@dataclass
class Events:
    """The lines of a watch."""

    response: aiohttp.ClientResponse

    async def next(self) -> tuple[str, Object]:
        """Type and object of the next event."""
        line = await self.response.content.readline()
        assert line, "the watch has ended"
        event = json.loads(line)
        return event["type"], event["object"]

    async def names(self, count: int) -> list[tuple[str, str]]:
        """Type and name of the next events."""
        events = [await self.next() for _ in range(count)]
        return [(kind, obj["metadata"]["name"]) for kind, obj in events]

    async def rest(self) -> list[tuple[str, Object]]:
        """All events until the watch ends."""
        lines = (await self.response.content.read()).splitlines()
        return [(event["type"], event["object"]) for event in map(json.loads, lines)]


@asynccontextmanager
async def http_api(sandbox: Sandbox) -> AsyncIterator[HttpApi]:
    """A client for a running sandbox."""
    context = ssl.create_default_context(cadata=sandbox.ca)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context)) as session:
        yield HttpApi(session, sandbox.url, sandbox.token)


def widget(name: str = "one", **spec: Any) -> Object:
    """A valid Widget."""
    return {"apiVersion": "example.dev/v1", "kind": "Widget", "metadata": {"name": name}, "spec": {"size": 3, **spec}}


def config_map(name: str = "one", **data: str) -> Object:
    """A ConfigMap."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def pod(name: str = "one", **spec: Any) -> Object:
    """A valid Pod."""
    containers = [{"name": "main", "image": "image:1"}]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {**RUNS_ONCE, "containers": containers, **spec},
    }


def owned_by(owner: Object, obj: Object, *, block: bool = False) -> Object:
    """`obj` with a reference to a stored owner."""
    reference = {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": block,
    }
    return {**obj, "metadata": {**obj["metadata"], "ownerReferences": [reference]}}
