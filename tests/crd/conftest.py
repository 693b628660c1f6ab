"""A server for the manifests; it needs no node, since nothing is run."""

from collections.abc import Iterator

import pytest

from sftjob_sandbox.sandbox import Sandbox
from support.background import background_sandbox
from support.kubectl import Kubectl


@pytest.fixture(scope="module")
def sandbox_kubectl(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Kubectl]:
    """kubectl on a fresh server."""
    folder = tmp_path_factory.mktemp("server")
    with background_sandbox(Sandbox(data=folder / "data", with_node=False)) as sandbox:
        yield Kubectl(sandbox.kubeconfig, folder / "kubectl-cache")
