"""The real thing: sandbox, operator and trainer processes, and the real kubectl."""

from collections.abc import Iterator

import pytest
import yaml

from cluster import Cluster
from support.exposure import exposed
from support.jobs import INPUT, sentences, write_rows
from support.kubectl import Kubectl
from support.lab import Lab
from support.rbac import Grant
from support.recorded_stack import RecordedStack
from support.rights import not_granted
from support.tiny import write_model

CLAIM = {
    "apiVersion": "v1",
    "kind": "PersistentVolumeClaim",
    "metadata": {"name": INPUT},
    "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
}


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory, granted: set[Grant]) -> Iterator[Lab]:
    """Shared by all tests. After the last of them: the operator kept to its rights, and no secret shows anywhere."""
    directory = tmp_path_factory.mktemp("stack")
    with RecordedStack(directory, progress_interval_seconds=1) as stack:
        kubectl = Kubectl(stack.kubeconfig, directory / "kubectl-cache")
        kubectl("apply", "-f", "-", text=yaml.safe_dump(CLAIM))
        lab = Lab(stack, kubectl, Cluster(stack.kubeconfig))
        write_model(lab.input / "model")
        write_rows(lab.input / "train.jsonl", [{"text": text} for text in sentences(400)])
        yield lab
        assert not_granted(stack.api.asked, granted) == set()
        assert exposed(stack, kubectl) == []
