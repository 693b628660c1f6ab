from pathlib import Path

import pytest

from sftjob_sandbox.node.containers.mounts import PathMap, build_tree
from sftjob_sandbox.node.containers.volumes import MountError

PLACES = PathMap(Path("/tree"), ["/data", "/mnt/claims/a", "/dev/shm/", "/tmp"], files=["/dev/termination-log"])


@pytest.mark.parametrize(
    ("text", "rewritten"),
    [
        ("/data", "/tree/data"),
        ("/data/", "/tree/data/"),
        ("/data/x/y.txt", "/tree/data/x/y.txt"),
        ("/mnt/claims", "/tree/mnt/claims"),
        ("/mnt/claims/a/f", "/tree/mnt/claims/a/f"),
        ("/dev/termination-log", "/tree/dev/termination-log"),
        ("/usr/bin:/data/bin:/bin", "/usr/bin:/tree/data/bin:/bin"),
        ("--dir=/data,other=/tmp/x", "--dir=/tree/data,other=/tree/tmp/x"),
        ("cat /data/a>/tmp/b;echo '/data' \"/tmp\"", "cat /tree/data/a>/tree/tmp/b;echo '/tree/data' \"/tree/tmp\""),
        ("echo x >/dev/termination-log", "echo x >/tree/dev/termination-log"),
        ("ls /data/* $(cat /data/f)", "ls /tree/data/* $(cat /tree/data/f)"),
        ('["/data"]', '["/tree/data"]'),
    ],
)
def test_a_mount_what_lies_below_it_and_its_parent_are_rewritten(text: str, rewritten: str) -> None:
    assert PLACES.rewrite(text) == rewritten


@pytest.mark.parametrize(
    "text",
    [
        "/database",
        "/mnt",
        "/mnt/claims/b",
        "/dev/null",
        "/dev/termination-logs",
        "/",
        "data",
        "https://host/data/x",
        "pvc://claim/data",
        "${X}/data",
        '$(pwd)/data and "$X"data',
        "/var/data",
        "",
    ],
)
def test_other_text_stays_as_it_is(text: str) -> None:
    assert PLACES.rewrite(text) == text


def test_the_tree_itself_may_lie_below_a_mounted_path() -> None:
    places = PathMap(Path("/tmp/pods/x/root"), ["/tmp"])
    assert places.rewrite("/tmp/a") == "/tmp/pods/x/root/tmp/a"


def test_without_mounts_nothing_is_rewritten() -> None:
    assert PathMap(Path("/tree"), []).rewrite("/data") == "/data"


def test_a_sub_path_is_created_and_linked(tmp_path: Path) -> None:
    mounts = [{"name": "v", "mountPath": "/a", "subPath": "deep/er"}, {"name": "v", "mountPath": "/b"}]
    (tmp_path / "v").mkdir()
    build_tree(tmp_path / "root", {"name": "c", "volumeMounts": mounts}, {"v": tmp_path / "v"})
    (tmp_path / "root/a/file").write_text("x")
    assert (tmp_path / "root/b/deep/er/file").read_text() == "x"


@pytest.mark.parametrize("sub_path", ["../other", "link/x"])
def test_a_sub_path_may_not_leave_its_volume(tmp_path: Path, sub_path: str) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v/link").symlink_to("/etc")
    mounts = [{"name": "v", "mountPath": "/a", "subPath": sub_path}]
    with pytest.raises(MountError, match='failed to prepare subPath for volumeMount "v" of container "c"'):
        build_tree(tmp_path / "root", {"name": "c", "volumeMounts": mounts}, {"v": tmp_path / "v"})
