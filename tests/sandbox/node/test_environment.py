import base64
from typing import Any

import pytest

from sftjob_sandbox.node.environment import ConfigError, PodContext, command_line, container_environment, expand
from support.node_api import container, pod

OBJECTS = {
    ("configmaps", "cm"): {"data": {"a": "1", "b": "2"}},
    ("secrets", "s"): {"data": {"token": base64.b64encode(b"hidden").decode()}},
}


def context(**metadata: Any) -> PodContext:
    obj = pod(container(name="main"), container(name="other", resources={"limits": {"cpu": "1500m"}}))
    obj["metadata"] |= {"namespace": "ns", "uid": "u1"} | metadata
    obj["spec"] |= {"nodeName": "sandbox", "serviceAccountName": "robot"}
    return PodContext(
        pod=obj,
        lookup=lambda resource, name: OBJECTS.get((resource, name)),
        address="127.0.0.1",
        allocatable={"cpu": "4", "memory": "8Gi"},
    )


def value_of(source: dict[str, Any], *, resources: dict[str, Any] | None = None, **metadata: Any) -> str | None:
    spec = {"name": "main", "env": [{"name": "X", "valueFrom": source}], "resources": resources or {}}
    return container_environment(context(**metadata), spec).get("X")


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("metadata.name", "p"),
        ("metadata.namespace", "ns"),
        ("metadata.uid", "u1"),
        ("metadata.labels['team']", "nlp"),
        ("metadata.annotations['absent']", ""),
        ("spec.nodeName", "sandbox"),
        ("spec.serviceAccountName", "robot"),
        ("status.podIP", "127.0.0.1"),
        ("status.hostIP", "127.0.0.1"),
    ],
)
def test_a_field_of_the_pod(path: str, value: str) -> None:
    assert value_of({"fieldRef": {"fieldPath": path}}, labels={"team": "nlp"}) == value


@pytest.mark.parametrize(
    ("reference", "value"),
    [
        ({"resource": "limits.cpu"}, "2"),
        ({"resource": "limits.cpu", "divisor": "1m"}, "1500"),
        ({"resource": "requests.memory", "divisor": "1Mi"}, "512"),
        ({"resource": "requests.cpu"}, "0"),
        ({"resource": "limits.memory"}, str(8 << 30)),
        ({"resource": "limits.cpu", "containerName": "other", "divisor": "1m"}, "1500"),
    ],
)
def test_a_resource_is_rounded_up_and_a_missing_limit_is_the_nodes(reference: dict[str, Any], value: str) -> None:
    resources = {"limits": {"cpu": "1500m"}, "requests": {"memory": "512Mi"}}
    assert value_of({"resourceFieldRef": reference}, resources=resources) == value


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ({"configMapKeyRef": {"name": "none", "key": "a"}}, 'configmap "none" not found'),
        ({"configMapKeyRef": {"name": "cm", "key": "z"}}, "couldn't find key z in ConfigMap ns/cm"),
        ({"secretKeyRef": {"name": "none", "key": "a"}}, 'secret "none" not found'),
        ({"secretKeyRef": {"name": "s", "key": "z"}}, "couldn't find key z in Secret ns/s"),
        ({"fieldRef": {"fieldPath": "spec.hostname"}}, "unsupported fieldPath: spec.hostname"),
        ({"resourceFieldRef": {"resource": "limits.gpu"}}, "unsupported container resource: limits.gpu"),
    ],
)
def test_what_is_missing_is_named(source: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        value_of(source)
    assert str(error.value) == sentence


def test_keys_of_config_maps_and_secrets() -> None:
    assert value_of({"configMapKeyRef": {"name": "cm", "key": "a"}}) == "1"
    assert value_of({"secretKeyRef": {"name": "s", "key": "token"}}) == "hidden"


def test_an_optional_key_that_is_missing_sets_nothing() -> None:
    assert value_of({"secretKeyRef": {"name": "none", "key": "a", "optional": True}}) is None
    assert value_of({"configMapKeyRef": {"name": "cm", "key": "z", "optional": True}}) is None


def test_env_overrides_env_from_and_sees_it() -> None:
    spec = {
        "envFrom": [
            {"prefix": "CM_", "configMapRef": {"name": "cm"}},
            {"secretRef": {"name": "s"}},
            {"secretRef": {"name": "none", "optional": True}},
        ],
        "env": [{"name": "CM_b", "value": "[$(CM_a)$(token)]"}, {"name": "EMPTY"}],
    }
    environment = container_environment(context(), spec)
    assert environment == {"CM_a": "1", "CM_b": "[1hidden]", "token": "hidden", "EMPTY": ""}


@pytest.mark.parametrize(
    ("text", "expanded"),
    [
        ("$(A)-$(B)", "1-$(B)"),
        ("$$(A)", "$(A)"),
        ("$A ${A} $", "$A ${A} $"),
        ("$(A", "$(A"),
        ("100$$", "100$"),
    ],
)
def test_references_are_expanded_as_kubernetes_does(text: str, expanded: str) -> None:
    assert expand(text, {"A": "1"}) == expanded


def test_the_command_line_is_command_then_arguments() -> None:
    assert command_line({"command": ["run", "$(A)"], "args": ["--x=$(A)"]}, {"A": "1"}) == ["run", "1", "--x=1"]
