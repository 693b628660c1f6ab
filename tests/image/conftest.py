"""Both images are built here from packages fetched beforehand, on a Debian that stands in for the usual base."""

import os
from pathlib import Path

import images
import pytest

from support.containers import BASE, CPU_INDEX, Containers, obstacle


@pytest.fixture(scope="session")
def containers() -> Containers:
    """This machine's buildah and podman. Without them CI fails; elsewhere the tests say what they lack."""
    reason = obstacle()
    if reason and os.environ.get("CI"):
        pytest.fail(reason)
    if reason:
        pytest.skip(reason)
    return Containers()


@pytest.fixture(scope="session")
def base(containers: Containers, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A Debian with the Python of the usual base, made of Debian's packages; kept for the next time."""
    if containers.attempt("podman", "image", "exists", BASE).returncode != 0:
        tar = tmp_path_factory.mktemp("base") / "base.tar"
        containers.call("mmdebstrap", "--variant=minbase", "--include=python3,python3-venv", "bookworm", str(tar))
        path = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
        containers.call("podman", "import", "--change", path, str(tar), BASE)
        tar.unlink()
    return BASE


@pytest.fixture(scope="session")
def wheels(containers: Containers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every package of both images, hashes checked, with PyTorch for the CPU."""
    directory = tmp_path_factory.mktemp("wheels")
    for image in images.FOLDERS:
        images.download(image, directory, images.Options(torch_index_url=CPU_INDEX))
    return directory


@pytest.fixture(scope="session")
def operator(containers: Containers, base: str, wheels: Path) -> str:
    """Name of the operator's image, just built."""
    return containers.build("operator", wheels)


@pytest.fixture(scope="session")
def trainer(containers: Containers, base: str, wheels: Path) -> str:
    """Name of the trainer's image, just built."""
    return containers.build("trainer", wheels)
