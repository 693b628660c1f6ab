"""The real thing: sandbox, operator and trainer processes, and the real kubectl."""

from collections.abc import Iterator

import pytest

from sftjob_dev.cluster import Cluster
from support.checks.exposure import exposed
from support.checks.rbac import Grant
from support.checks.rights import not_granted
from support.clients.kubectl import Kubectl
from support.jobs.small_jobs import provide_input
from support.stacks.recorded_stack import RecordedStack
from support.stacks.running_stack import Lab
from support.trainer.tiny import write_model


@pytest.fixture(scope="module")
def lab(shared_lab: Lab) -> Iterator[Lab]:
    """The shared one, in which no job of another module runs."""
    yield shared_lab
    shared_lab.make_room()


@pytest.fixture(scope="session")
def shared_lab(tmp_path_factory: pytest.TempPathFactory, granted: set[Grant]) -> Iterator[Lab]:
    """Shared by all tests. After the last of them: the operator kept to its rights, and no secret shows anywhere."""
    directory = tmp_path_factory.mktemp("stack")
    # The stack's proxy is a thread of this process: libraries that are loaded beside it would keep it from answering.
    write_model(tmp_path_factory.mktemp("model"))
    with RecordedStack(directory, progress_interval_seconds=1) as stack:
        kubectl = Kubectl(stack.kubeconfig, directory / "kubectl-cache")
        provide_input(stack, kubectl, rows=400)
        yield Lab(stack, kubectl, Cluster(stack.kubeconfig))
        assert not_granted(stack.api.asked, granted) == set()
        assert exposed(stack, kubectl) == []
