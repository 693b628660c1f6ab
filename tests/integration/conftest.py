"""The real thing: sandbox, operator and trainer processes, and the real kubectl."""

from collections.abc import Iterator

import pytest

from cluster import Cluster
from support.exposure import exposed
from support.jobs import provide_input
from support.kubectl import Kubectl
from support.lab import Lab
from support.rbac import Grant
from support.recorded_stack import RecordedStack
from support.rights import not_granted


@pytest.fixture(scope="module")
def lab(shared_lab: Lab) -> Iterator[Lab]:
    """The shared one, in which no job of another module runs."""
    yield shared_lab
    shared_lab.make_room()


@pytest.fixture(scope="session")
def shared_lab(tmp_path_factory: pytest.TempPathFactory, granted: set[Grant]) -> Iterator[Lab]:
    """Shared by all tests. After the last of them: the operator kept to its rights, and no secret shows anywhere."""
    directory = tmp_path_factory.mktemp("stack")
    with RecordedStack(directory, progress_interval_seconds=1) as stack:
        kubectl = Kubectl(stack.kubeconfig, directory / "kubectl-cache")
        provide_input(stack, kubectl, rows=400)
        yield Lab(stack, kubectl, Cluster(stack.kubeconfig))
        assert not_granted(stack.api.asked, granted) == set()
        assert exposed(stack, kubectl) == []
