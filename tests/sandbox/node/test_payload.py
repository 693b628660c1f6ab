import base64
from typing import Any

import pytest

from sftjob_sandbox.node.containers.environment import PodContext
from sftjob_sandbox.node.containers.volumes import File, MountError, volume_files
from support.fakes.node_api import container, pod

OBJECTS = {
    ("configmaps", "cm"): {"data": {"a": "1", "b": "2"}, "binaryData": {"c": base64.b64encode(b"\xff").decode()}},
}


def files(volume: dict[str, Any]) -> dict[str, File]:
    obj = pod(container(resources={"limits": {"memory": "1Gi"}}))
    obj["metadata"] |= {"namespace": "ns", "uid": "u", "labels": {"b": 'say "x"', "a": "1"}}
    context = PodContext(
        pod=obj,
        lookup=lambda resource, name: OBJECTS.get((resource, name)),
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


def test_a_projection_of_everything() -> None:
    sources = [
        {"serviceAccountToken": {"path": "token", "audience": "me", "expirationSeconds": 600}},
        {"configMap": {"name": "cm", "items": [{"key": "a", "path": "a"}]}},
    ]
    content = {path: file.content for path, file in files({"projected": {"sources": sources}}).items()}
    assert content == {"token": b"token for me", "a": b"1"}


@pytest.mark.parametrize(
    ("volume", "sentence"),
    [
        ({"configMap": {"name": "none"}}, 'configmap "none" not found'),
        (
            {"configMap": {"name": "cm", "items": [{"key": "z", "path": "z"}]}},
            "references non-existent config key: z",
        ),
    ],
)
def test_what_is_missing_is_named(volume: dict[str, Any], sentence: str) -> None:
    with pytest.raises(MountError) as error:
        files(volume)
    assert str(error.value) == sentence


def test_what_is_optional_may_be_missing() -> None:
    assert files({"configMap": {"name": "none", "optional": True}}) == {}
    assert files({"configMap": {"name": "cm", "optional": True, "items": [{"key": "z", "path": "z"}]}}) == {}
