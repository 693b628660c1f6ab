"""A test bed on the cluster that SFTJOB_TEST_KUBECONFIG names, or on a sandbox of this test run."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from sftjob_dev.stack import Stack, end_on_signals
from support.any_cluster.bed import Bed
from support.any_cluster.server import LONG_SECONDS, Server
from support.any_cluster.setup import UnfitError, a_bed
from support.clients.helm import running_helm
from support.clients.kubectl import Kubectl
from support.faults import python_image

KUBECONFIG = os.environ.get("SFTJOB_TEST_KUBECONFIG", "")
REGISTRY = os.environ.get("SFTJOB_TEST_REGISTRY", "")
STORAGE_CLASS = os.environ.get("SFTJOB_TEST_STORAGE_CLASS") or None
HERE = Path(__file__).parent


class EmptySandbox(Stack):
    """A sandbox without the CRD, which the release installs then. Its trainers are forked."""

    def sandbox_command(self) -> list[str]:
        """See Stack."""
        command = super().sandbox_command()
        at = command.index("--crd")
        return command[:at] + command[at + 2 :]

    def programs(self) -> Path:
        """See Stack."""
        return python_image(self.data / "image")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """A cluster may be slow: a test waits several times for as long as one step may take."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.slow)
            item.add_marker(pytest.mark.timeout(4 * LONG_SECONDS))


@pytest.fixture(scope="session")
def kubeconfig(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Of the cluster to test."""
    if KUBECONFIG:
        end_on_signals()  # so that a terminated run clears up, too
        yield Path(KUBECONFIG).resolve()
        return
    stack = EmptySandbox(tmp_path_factory.mktemp("sandbox"))
    try:
        stack.start_sandbox()
        yield stack.kubeconfig
    finally:
        stack.stop()


@pytest.fixture(scope="session")
def bed(kubeconfig: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bed]:
    """Shared by all tests."""
    scratch = tmp_path_factory.mktemp("bed")
    server = Server(Kubectl(kubeconfig, scratch / "kubectl-cache"))
    try:
        with (
            running_helm(scratch / "helm", home=Path.home() if KUBECONFIG else None) as helm,
            a_bed(server, helm, scratch, registry=REGISTRY, storage_class=STORAGE_CLASS) as made,
        ):
            yield made
    except UnfitError as error:
        pytest.exit(str(error), returncode=2)
