from typing import Any

import pytest

from sftjob_sandbox.node.admission import unsupported
from support.node_api import container, pod

PREFIX = "the sandbox's node does not support "
VOLUMES = "emptyDir, persistentVolumeClaim, configMap, secret, downwardAPI, projected"
PROJECTIONS = "configMap, secret, downwardAPI, serviceAccountToken"
REQUIRED = "requiredDuringSchedulingIgnoredDuringExecution"
SOURCES = "fieldRef, resourceFieldRef, configMapKeyRef, secretKeyRef"


@pytest.mark.parametrize(
    ("obj", "sentence"),
    [
        (
            pod(volumes=[{"name": "v", "hostPath": {"path": "/"}}]),
            f"spec.volumes[0].hostPath; use one of {VOLUMES}",
        ),
        (
            pod(volumes=[{"name": "v", "projected": {"sources": [{"clusterTrustBundle": {}}]}}]),
            f"spec.volumes[0].projected.sources[0].clusterTrustBundle; use one of {PROJECTIONS}",
        ),
        (
            pod(initContainers=[container(restartPolicy="Always")]),
            "spec.initContainers[0].restartPolicy; make it an ordinary container",
        ),
        (pod(container(lifecycle={"preStop": {}})), "spec.containers[0].lifecycle; leave it out"),
        (
            pod(container(readinessProbe={"grpc": {"port": 1}})),
            "spec.containers[0].readinessProbe; use one of exec, httpGet, tcpSocket",
        ),
        (
            pod(container(env=[{"name": "X", "valueFrom": {"fileKeyRef": {}}}])),
            f"spec.containers[0].env[0].valueFrom.fileKeyRef; use one of {SOURCES}",
        ),
        (
            pod(container(volumeMounts=[{"name": "a", "mountPath": "/a"}, {"name": "b", "mountPath": "/a/b"}])),
            "spec.containers[0].volumeMounts: /a/b inside /a; mount both side by side; there are no mount namespaces",
        ),
        (
            pod(affinity={"nodeAffinity": {REQUIRED: {"nodeSelectorTerms": [{}]}}}),
            f"spec.affinity.nodeAffinity.{REQUIRED}; use nodeSelector, there is only one node",
        ),
        (pod(os={"name": "windows"}), "spec.os.name; write linux or leave it out"),
        (pod(readinessGates=[{"conditionType": "x"}]), "spec.readinessGates; leave it out"),
    ],
)
def test_what_the_node_can_not_do_is_refused_with_a_remedy(obj: dict[str, Any], sentence: str) -> None:
    assert unsupported(obj) == PREFIX + sentence


def test_what_the_node_can_do_is_accepted() -> None:
    mounts = [{"name": "a", "mountPath": "/a"}, {"name": "b", "mountPath": "/ab"}]
    volumes = [{"name": "a", "emptyDir": {"medium": "Memory"}}, {"name": "b", "configMap": {"name": "c"}}]
    probe = {"httpGet": {"port": 80}, "periodSeconds": 1}
    assert unsupported(pod(container(volumeMounts=mounts, livenessProbe=probe), volumes=volumes)) is None
