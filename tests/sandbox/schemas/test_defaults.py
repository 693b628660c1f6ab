"""What a real server makes of a short object, before and after admission."""

from typing import Any

import pytest

from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.builtin.pod_admission import admit_pod
from support.checks.kube_schemas import CLAIM, CONFIG_MAP, POD, SECRET, Object, changed, stored

CONTAINER_DEFAULTS = {
    "imagePullPolicy": "IfNotPresent",
    "resources": {},
    "terminationMessagePath": "/dev/termination-log",
    "terminationMessagePolicy": "File",
}
POD_DEFAULTS = {
    "dnsPolicy": "ClusterFirst",
    "enableServiceLinks": True,
    "restartPolicy": "Always",
    "schedulerName": "default-scheduler",
    "securityContext": {},
    "terminationGracePeriodSeconds": 30,
}


def pod(**spec: Any) -> Object:
    """A Pod of one container, with no more than its spec says."""
    containers = [{"name": "main", "image": "x:1"}]
    spec = {"containers": containers, **spec}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "a", "namespace": "team-a"}, "spec": spec}


def test_a_pod() -> None:
    assert stored(pod()) == {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": "a", "namespace": "team-a"},
        "spec": {**POD_DEFAULTS, "containers": [{"name": "main", "image": "x:1", **CONTAINER_DEFAULTS}]},
    }


@pytest.mark.parametrize(
    ("image", "policy"),
    [
        ("x:1", "IfNotPresent"),
        ("x", "Always"),
        ("x:latest", "Always"),
        ("host:5000/x", "Always"),
        ("host:5000/x:1", "IfNotPresent"),
        ("x@sha256:" + "0" * 64, "IfNotPresent"),
        ("x:latest@sha256:" + "0" * 64, "Always"),
    ],
)
def test_the_pull_policy_follows_the_tag(image: str, policy: str) -> None:
    container = stored(pod(containers=[{"name": "main", "image": image}]))["spec"]["containers"][0]
    assert container["imagePullPolicy"] == policy


@pytest.mark.parametrize(
    ("volume", "read"),
    [
        ({}, {"emptyDir": {}}),
        ({"secret": {"secretName": "s"}}, {"secret": {"secretName": "s", "defaultMode": 420}}),
        ({"configMap": {"name": "c"}}, {"configMap": {"name": "c", "defaultMode": 420}}),
        ({"persistentVolumeClaim": {"claimName": "c"}}, {"persistentVolumeClaim": {"claimName": "c"}}),
        (
            {"projected": {"sources": [{"serviceAccountToken": {"path": "t"}}]}},
            {
                "projected": {
                    "sources": [{"serviceAccountToken": {"path": "t", "expirationSeconds": 3600}}],
                    "defaultMode": 420,
                }
            },
        ),
    ],
)
def test_volumes(volume: Object, read: Object) -> None:
    assert stored(pod(volumes=[{"name": "v", **volume}]))["spec"]["volumes"] == [{"name": "v", **read}]


def test_the_divisor_of_a_reference() -> None:
    container = {
        "name": "main",
        "image": "x:1",
        "env": [{"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}}],
    }
    read = stored(pod(containers=[container]))["spec"]["containers"][0]
    assert read["env"][0]["valueFrom"]["resourceFieldRef"] == {"resource": "requests.cpu", "divisor": "0"}


def test_limits_stand_for_requests_that_are_not_given() -> None:
    resources = {"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "1"}}
    read = stored(pod(containers=[{"name": "main", "image": "x:1", "resources": resources}]))
    assert read["spec"]["containers"][0]["resources"]["requests"] == {"cpu": "1", "memory": "1Gi"}


@pytest.mark.parametrize(
    ("obj", "path", "value"),
    [
        (CLAIM, ("spec", "volumeMode"), "Filesystem"),
        (CLAIM, ("status", "phase"), "Pending"),
        (SECRET, ("type",), "Opaque"),
        (changed(SECRET, {"stringData": {"token": "other"}}), ("data",), {"token": "b3RoZXI="}),
    ],
)
def test_claims_and_secrets(obj: Object, path: tuple[str, ...], value: Any) -> None:
    read: Any = stored(obj)
    for step in path:
        read = read[step]
    assert read == value


def test_a_config_map_gets_nothing() -> None:
    assert stored(CONFIG_MAP) == CONFIG_MAP


def test_a_namespace_is_labelled_with_its_name() -> None:
    namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "team-a"}}
    read = stored(namespace)
    assert read["metadata"]["labels"] == {"kubernetes.io/metadata.name": "team-a"}
    assert read["status"] == {"phase": "Active"}


def test_a_deployment_and_a_service() -> None:
    template = {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "main", "image": "x:1"}]}}
    deployment = stored({
        "apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "a", "namespace": "b"},
        "spec": {"selector": {"matchLabels": {"a": "b"}}, "template": template},
    })["spec"]  # fmt: skip
    assert deployment["replicas"] == 1
    assert deployment["strategy"] == {
        "type": "RollingUpdate",
        "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"},
    }
    assert deployment["template"]["spec"] == {
        **{key: value for key, value in POD_DEFAULTS.items() if key != "enableServiceLinks"},
        "containers": [{"name": "main", "image": "x:1", **CONTAINER_DEFAULTS}],
    }
    service = stored({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": "a", "namespace": "b"},
        "spec": {"ports": [{"port": 80}]},
    })["spec"]  # fmt: skip
    assert service["type"] == "ClusterIP"
    assert service["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]


def admitted(pod: Object, **account: Any) -> Object:
    spec: Object = admit_pod(stored(pod), account)["spec"]
    return spec


def test_admission_gives_a_pod_an_account_a_priority_and_tolerations() -> None:
    spec = admitted(pod())
    assert (spec["serviceAccount"], spec["serviceAccountName"]) == ("default", "default")
    assert (spec["priority"], spec["preemptionPolicy"]) == (0, "PreemptLowerPriority")
    assert spec["tolerations"] == [
        {
            "key": f"node.kubernetes.io/{problem}",
            "operator": "Exists",
            "effect": "NoExecute",
            "tolerationSeconds": 300,
        }
        for problem in ("not-ready", "unreachable")
    ]


def test_own_tolerations_of_node_problems_are_kept() -> None:
    own = {"key": "node.kubernetes.io/not-ready", "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 9}
    tolerations = admitted(pod(tolerations=[own]))["tolerations"]
    assert tolerations[0] == own
    assert [toleration["key"] for toleration in tolerations[1:]] == ["node.kubernetes.io/unreachable"]
    assert admitted(pod(tolerations=[{"operator": "Exists"}]))["tolerations"] == [{"operator": "Exists"}]


def test_pull_secrets_come_from_the_account() -> None:
    account = {"imagePullSecrets": [{"name": "registry"}]}
    assert admitted(pod(), **account)["imagePullSecrets"] == [{"name": "registry"}]
    assert admitted(pod(imagePullSecrets=[{"name": "own"}]), **account)["imagePullSecrets"] == [{"name": "own"}]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ({"priorityClassName": "urgent"}, 'pods "a" is forbidden: no PriorityClass with name urgent was found'),
        (
            {"priority": 7},
            (
                'pods "a" is forbidden: the integer value of priority (7) must not be provided in pod spec;'
                " priority admission controller computed 0 from the given PriorityClass name"
            ),
        ),
        ({"runtimeClassName": "nvidia"}, 'pods "a" is forbidden: pod rejected: RuntimeClass "nvidia" not found'),
    ],
)
def test_admission_refuses_classes_that_do_not_exist(spec: Object, message: str) -> None:
    with pytest.raises(ApiError) as refused:
        admitted(pod(**spec))
    assert (refused.value.code, refused.value.reason, refused.value.message) == (403, "Forbidden", message)


def test_defaulting_twice_changes_nothing() -> None:
    for obj in (POD, CLAIM, SECRET, pod(volumes=[{"name": "v"}])):
        assert stored(stored(obj)) == stored(obj)
