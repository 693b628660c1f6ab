import base64
from typing import Any

import pytest

from sftjob_sandbox.node.containers.environment import ConfigError, PodContext, command_line, container_environment
from support.fakes.node_api import container, pod

OBJECTS = {
    ("secrets", "s"): {"data": {"token": base64.b64encode(b"hidden").decode()}},
}


def context(**metadata: Any) -> PodContext:
    obj = pod(container(name="main"), container(name="other", resources={"limits": {"cpu": "1500m"}}))
    obj["metadata"] |= {"namespace": "ns", "uid": "u1"} | metadata
    obj["spec"] |= {"nodeName": "sandbox", "serviceAccountName": "robot"}
    return PodContext(
        pod=obj,
        lookup=lambda resource, name: OBJECTS.get((resource, name)),
        allocatable={"cpu": "4", "memory": "8Gi"},
    )


def value_of(source: dict[str, Any], *, resources: dict[str, Any] | None = None, **metadata: Any) -> str | None:
    spec = {"name": "main", "env": [{"name": "X", "valueFrom": source}], "resources": resources or {}}
    return container_environment(context(**metadata), spec).get("X")


@pytest.mark.parametrize(
    ("reference", "value"),
    [
        ({"resource": "limits.cpu"}, "2"),
        ({"resource": "limits.cpu", "divisor": "1m"}, "1500"),
        ({"resource": "requests.memory", "divisor": "1Mi"}, "512"),
        ({"resource": "requests.cpu"}, "0"),
        ({"resource": "limits.memory"}, str(8 << 30)),
    ],
)
def test_a_resource_is_rounded_up_and_a_missing_limit_is_the_nodes(reference: dict[str, Any], value: str) -> None:
    resources = {"limits": {"cpu": "1500m"}, "requests": {"memory": "512Mi"}}
    assert value_of({"resourceFieldRef": reference}, resources=resources) == value


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        ({"secretKeyRef": {"name": "none", "key": "a"}}, 'secret "none" not found'),
        ({"secretKeyRef": {"name": "s", "key": "z"}}, "couldn't find key z in Secret ns/s"),
        ({"resourceFieldRef": {"resource": "limits.gpu"}}, "unsupported container resource: limits.gpu"),
    ],
)
def test_what_is_missing_is_named(source: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError) as error:
        value_of(source)
    assert str(error.value) == sentence


def test_a_key_of_a_secret() -> None:
    assert value_of({"secretKeyRef": {"name": "s", "key": "token"}}) == "hidden"


def test_an_optional_key_that_is_missing_sets_nothing() -> None:
    assert value_of({"secretKeyRef": {"name": "none", "key": "a", "optional": True}}) is None
    assert value_of({"secretKeyRef": {"name": "s", "key": "z", "optional": True}}) is None


def test_env_overrides_env_from_and_sees_it() -> None:
    spec = {
        "envFrom": [{"secretRef": {"name": "s"}}, {"secretRef": {"name": "none", "optional": True}}],
        "env": [{"name": "A", "value": "[$(token)]"}, {"name": "token", "value": "mine"}, {"name": "EMPTY"}],
    }
    assert container_environment(context(), spec) == {"A": "[hidden]", "token": "mine", "EMPTY": ""}


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
    assert command_line({"args": [text]}, {"A": "1"}) == [expanded]


def test_the_command_line_is_command_then_arguments() -> None:
    assert command_line({"command": ["run", "$(A)"], "args": ["--x=$(A)"]}, {"A": "1"}) == ["run", "1", "--x=1"]
