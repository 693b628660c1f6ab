"""A server that has the definition, for the manifests; it needs no node, since nothing is run.

One for all modules: each has its own namespaces or names of jobs.
"""

from collections.abc import AsyncIterator, Iterator

import pytest

from sftjob_sandbox.sandbox import Sandbox
from support.clients.background import background_sandbox
from support.clients.http_api import HttpApi, http_api
from support.clients.kubectl import Kubectl
from support.jobs.manifests import DEFINITION


@pytest.fixture(scope="session")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sandbox]:
    """A running server."""
    with background_sandbox(Sandbox(data=tmp_path_factory.mktemp("server") / "data", with_node=False)) as running:
        yield running


@pytest.fixture(scope="session")
def kubectl(sandbox: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    """kubectl on the server."""
    kubectl = Kubectl(sandbox.kubeconfig, tmp_path_factory.mktemp("kubectl-cache"))
    kubectl("apply", "-f", str(DEFINITION))
    kubectl("wait", "--for=condition=Established", "crd/sftjobs.sftjob.dev", "--timeout=30s")
    return kubectl


@pytest.fixture
async def api(sandbox: Sandbox, kubectl: Kubectl) -> AsyncIterator[HttpApi]:
    """Requests to the server without kubectl."""
    async with http_api(sandbox) as client:
        yield client
