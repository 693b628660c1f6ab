from pathlib import Path

import pytest

from sftjob_sandbox.node.containers.launch import find_image, pull_error


@pytest.mark.parametrize(
    ("known", "asked", "found"),
    [
        ("trainer", "trainer", True),
        ("trainer", "trainer:latest", True),
        ("trainer:latest", "trainer", True),
        ("trainer:1", "trainer", False),
        ("host:5000/trainer", "host:5000/trainer:latest", True),
        ("host/trainer@sha256:0", "host/trainer@sha256:0", True),
        ("trainer", "other", False),
    ],
)
def test_a_missing_tag_means_latest(known: str, asked: str, found: bool) -> None:
    assert (find_image({known: Path("/bin")}, asked) is not None) == found


def test_a_missing_image_is_explained() -> None:
    assert pull_error({"b": Path("/b"), "a": Path("/a")}, "c:1") == (
        'the sandbox has no registry and no image "c:1" (it has: a, b); '
        "start it with --image c:1=DIRECTORY to run the programs of DIRECTORY under this name"
    )
