from typing import Any

import pytest

from sftjob_sandbox.node.admission import unsupported
from support.fakes.node_api import container, pod

PREFIX = "the sandbox's node does not support "
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"


@pytest.mark.parametrize(
    ("obj", "sentence"),
    [
        (
            pod(container(volumeMounts=[{"name": "a", "mountPath": "/a"}, {"name": "b", "mountPath": "/a/b"}])),
            "spec.containers[0].volumeMounts: /a/b inside /a; mount both side by side; there are no mount namespaces",
        ),
        (
            pod(affinity={"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{}]}}}),
            f"spec.affinity.nodeAffinity.{REQUIRED}; use nodeSelector, there is only one node",
        ),
    ],
)
def test_what_the_node_can_not_do_is_refused_with_a_remedy(obj: dict[str, Any], sentence: str) -> None:
    assert unsupported(obj) == PREFIX + sentence


def test_what_the_node_can_do_is_accepted() -> None:
    mounts = [{"name": "a", "mountPath": "/a"}, {"name": "b", "mountPath": "/ab"}]
    volumes = [{"name": "a", "emptyDir": {"medium": "Memory"}}, {"name": "b", "configMap": {"name": "c"}}]
    assert unsupported(pod(container(volumeMounts=mounts), volumes=volumes)) is None
