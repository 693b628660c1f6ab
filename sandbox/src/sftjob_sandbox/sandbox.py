"""The whole sandbox in one event loop: store, API server and node. `python -m sftjob_sandbox up` and tests use it."""

import asyncio
import secrets
from collections.abc import Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

import yaml

from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.apimachinery.objects import Object, name_of
from sftjob_sandbox.cluster.store import Store
from sftjob_sandbox.http.auth import Authenticator
from sftjob_sandbox.http.server import ApiServer, ServerSettings
from sftjob_sandbox.kubeconfig import kubeconfig, remove_own, write_private
from sftjob_sandbox.node.node import Node
from sftjob_sandbox.node.settings import NodeSettings
from sftjob_sandbox.storage.bodies import GoLoader
from sftjob_sandbox.storage.resources import DEFINITIONS
from sftjob_sandbox.tls import make_tls


class SandboxError(Exception):
    """The sandbox cannot start; the message names what to change."""


@dataclass(kw_only=True, eq=False)
class Sandbox:
    """An async context manager: the sandbox is up inside, and at the end every Pod is stopped.

    The kubeconfig appears last, so that whoever waits for it finds a sandbox that is ready.
    """

    data: Path
    """Directory of volumes, logs and, by default, the kubeconfig."""
    kubeconfig: Path = Path()
    images: Mapping[str, Path] = field(default_factory=dict)
    """Images that the node has: reference to the directory that comes first on PATH."""
    gpus: int = 0
    gpu_resource: str = "nvidia.com/gpu"
    definitions: Sequence[Path] = ()
    """Files with CustomResourceDefinitions to begin with."""
    with_node: bool = True
    """Without a node, Pods wait for one: for tests and benchmarks that play the node themselves."""
    server: ServerSettings = field(default_factory=ServerSettings)

    store: Store = field(init=False)
    """The cluster's state; set inside the context, as are the rest."""
    url: str = field(init=False)
    token: str = field(init=False, repr=False)
    """The administrator's bearer token."""
    ca: str = field(init=False, repr=False)
    """The server's certificate authority, PEM."""
    _stack: AsyncExitStack = field(init=False, repr=False)

    def __post_init__(self) -> None:
        default = self.data / "kubeconfig"
        self.kubeconfig = (default if self.kubeconfig == Path() else self.kubeconfig).absolute()

    async def __aenter__(self) -> Self:
        """Start. Raises SandboxError for a definition that cannot be served."""
        self.kubeconfig.unlink(missing_ok=True)
        self.data.mkdir(parents=True, exist_ok=True)
        tls = make_tls()
        self.ca, self.token = tls.ca, secrets.token_urlsafe(32)
        self.store = Store(ca=tls.ca)
        for path in self.definitions:
            for document in _documents(path):
                await self._define(path, document)
        authenticator = Authenticator(self.token, self.store.tokens)
        server = ApiServer(self.store, authenticator, self.data, self.server)
        async with AsyncExitStack() as stack:
            stack.push_async_callback(server.stop)
            await server.start(tls.context)
            if self.with_node:
                await stack.enter_async_context(Node(self.store, self._node_settings()))
            self.url = f"https://{server.address}"
            config = kubeconfig(self.url, self.ca, self.token)
            write_private(self.kubeconfig, config)
            stack.callback(remove_own, self.kubeconfig, config)
            self._stack = stack.pop_all()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop Pods, then the server; take the kubeconfig away."""
        await self._stack.aclose()

    def _node_settings(self) -> NodeSettings:
        return NodeSettings(data=self.data, images=self.images, gpus=self.gpus, gpu_resource=self.gpu_resource)

    async def _define(self, path: Path, definition: Object) -> None:
        """Create a definition and wait until it is served."""
        try:
            self.store.create(definition)
        except ApiError as error:
            raise SandboxError(f"{path}: {error.message}") from error
        await self._served(path, name_of(definition))

    async def _served(self, path: Path, name: str) -> None:
        conditions: dict[str, Object] = {}
        while "Established" not in conditions:
            await asyncio.sleep(0)  # the definition's controller has its turn
            definition = self.store.get(DEFINITIONS, None, name)
            conditions = {c["type"]: c for c in definition.get("status", {}).get("conditions") or ()}
        if conditions["Established"]["status"] != "True":
            raise SandboxError(f"{path}: {conditions['NamesAccepted']['message']}")


def _documents(path: Path) -> list[Object]:
    documents = yaml.load_all(path.read_text(encoding="utf-8"), Loader=GoLoader)
    return [document for document in documents if document]
