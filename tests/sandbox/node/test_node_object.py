from pathlib import Path

from sftjob_sandbox.node.containers.paths import existing_claims
from sftjob_sandbox.node.node_object import node_object
from sftjob_sandbox.node.settings import NodeSettings


def test_the_node_says_what_it_has(tmp_path: Path) -> None:
    settings = NodeSettings(data=tmp_path, gpus=2, cpus=4, memory_bytes=1 << 30, gpu_resource="example.com/gpu")
    node = node_object(settings)
    expected = {"cpu": "4", "memory": "1048576Ki", "pods": "110", "example.com/gpu": "2"}
    assert node["status"]["capacity"] == node["status"]["allocatable"] == expected
    ready = [condition["status"] for condition in node["status"]["conditions"] if condition["type"] == "Ready"]
    assert ready == ["True"]


def test_volumes_of_an_earlier_run_are_listed(tmp_path: Path) -> None:
    (tmp_path / "volumes/ns/b").mkdir(parents=True)
    (tmp_path / "volumes/ns/a").mkdir()
    assert existing_claims(tmp_path) == ["ns/a", "ns/b"]
    assert existing_claims(tmp_path / "none") == []


def test_a_node_without_gpus_does_not_speak_of_them(tmp_path: Path) -> None:
    assert "nvidia.com/gpu" not in node_object(NodeSettings(data=tmp_path))["status"]["capacity"]
