import base64
from typing import Any

import pytest

from sftjob_sandbox.node.environment import PodContext
from sftjob_sandbox.node.payload import File, MountError, volume_files
from support.node_api import container, pod

OBJECTS = {
    ("configmaps", "cm"): {"data": {"a": "1", "b": "2"}, "binaryData": {"c": base64.b64encode(b"\xff").decode()}},
    ("secrets", "s"): {"data": {"key": base64.b64encode(b"hidden").decode()}},
}


def files(volume: dict[str, Any]) -> dict[str, File]:
    obj = pod(container(resources={"limits": {"memory": "1Gi"}}))
    obj["metadata"] |= {"namespace": "ns", "uid": "u", "labels": {"b": 'say "x"', "a": "1"}}
    context = PodContext(
        pod=obj,
        lookup=lambda resource, name: OBJECTS.get((resource, name)),
        address="127.0.0.1",
        allocatable={"cpu": "4", "memory": "8Gi"},
    )
    return volume_files(volume, context, lambda source: f"token for {source['audience']}")


def test_every_key_of_a_config_map_is_a_file() -> None:
    modes = {"a": File(b"1", 0o644), "b": File(b"2", 0o644), "c": File(b"\xff", 0o644)}
    assert files({"configMap": {"name": "cm"}}) == modes


def test_items_choose_keys_paths_and_modes() -> None:
    items = [{"key": "a", "path": "deep/a.txt", "mode": 0o600}, {"key": "b", "path": "b"}]
    source = {"name": "cm", "defaultMode": 0o440, "items": items}
    assert files({"configMap": source}) == {"deep/a.txt": File(b"1", 0o600), "b": File(b"2", 0o440)}


def test_a_secret() -> None:
    assert files({"secret": {"secretName": "s", "defaultMode": 0o400}}) == {"key": File(b"hidden", 0o400)}


def test_the_downward_api() -> None:
    items = [
        {"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}},
        {
            "path": "memory",
            "resourceFieldRef": {"containerName": "main", "resource": "limits.memory", "divisor": "1Mi"},
        },
    ]
    expected = {"labels": b'a="1"\nb="say \\"x\\""', "memory": b"1024"}
    assert {path: file.content for path, file in files({"downwardAPI": {"items": items}}).items()} == expected


def test_a_projection_of_everything() -> None:
    sources = [
        {"serviceAccountToken": {"path": "token", "audience": "me", "expirationSeconds": 600}},
        {"configMap": {"name": "cm", "items": [{"key": "a", "path": "a"}]}},
        {"secret": {"name": "s"}},
        {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
    ]
    content = {path: file.content for path, file in files({"projected": {"sources": sources}}).items()}
    assert content == {"token": b"token for me", "a": b"1", "key": b"hidden", "name": b"p"}


@pytest.mark.parametrize(
    ("volume", "sentence"),
    [
        ({"configMap": {"name": "none"}}, 'configmap "none" not found'),
        ({"secret": {"secretName": "none"}}, 'secret "none" not found'),
        (
            {"configMap": {"name": "cm", "items": [{"key": "z", "path": "z"}]}},
            "references non-existent config key: z",
        ),
        (
            {"secret": {"secretName": "s", "items": [{"key": "z", "path": "z"}]}},
            "references non-existent secret key: z",
        ),
        (
            {"configMap": {"name": "cm", "items": [{"key": "a", "path": "../z"}]}},
            "invalid path: must be relative and contain no '..': ../z",
        ),
    ],
)
def test_what_is_missing_is_named(volume: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MountError) as error:
        files(volume)
    assert str(error.value) == sentence


def test_what_is_optional_may_be_missing() -> None:
    assert files({"configMap": {"name": "none", "optional": True}}) == {}
    assert files({"secret": {"secretName": "s", "optional": True, "items": [{"key": "z", "path": "z"}]}}) == {}
