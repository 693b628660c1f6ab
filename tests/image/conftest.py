"""Both images are built here, each twice, from packages fetched beforehand, on a Debian that stands in for the usual
base.
"""

import os
import re
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from support.clients.containers import BASE, CPU_INDEX, CUDA_REGISTRY, REGISTRIES, Containers, obstacle
from tools import images


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
def operator_builds(containers: Containers, base: str, wheels: Path) -> list[str]:
    """Names of two builds of the operator's image."""
    return built_twice(containers, "operator", wheels)


@pytest.fixture(scope="session")
def trainer_builds(containers: Containers, base: str, wheels: Path) -> list[str]:
    """Names of two builds of the trainer's image."""
    return built_twice(containers, "trainer", wheels)


@pytest.fixture(scope="session")
def operator(operator_builds: list[str]) -> str:
    """Name of the operator's image."""
    return operator_builds[0]


@pytest.fixture(scope="session")
def trainer(trainer_builds: list[str]) -> str:
    """Name of the trainer's image."""
    return trainer_builds[0]


@pytest.fixture(scope="session")
def with_triton(containers: Containers, trainer: str, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The trainer's image for a CPU, plus Triton and its kernels. PyTorch for CUDA is too large for a test."""
    directory = tmp_path_factory.mktemp("triton")
    lock = (images.ROOT / "requirements/torch-cuda.txt").read_text()
    (directory / "triton.txt").write_text(
        next(one for one in re.split(r"\n(?=\S)", lock) if one.startswith("triton=="))
    )
    wheels = directory / "wheels"
    for locked in (directory / "triton.txt", images.ROOT / "requirements/trainer-cuda.txt"):
        images.download_lock(locked, wheels)
    name = f"{CUDA_REGISTRY}/with-triton"
    containers.call(
        *("buildah", "build", "--layers=false", "--pull=false", "--build-arg", f"BASE={trainer}"),
        *("--build-context", f"triton={wheels}", "--tag", name),
        *("--file", str(Path(__file__).with_name("triton.Dockerfile")), str(directory)),
    )
    return name


@pytest.fixture(scope="session")
def cuda(containers: Containers, with_triton: str) -> str:
    """Name of the trainer's image for CUDA, without PyTorch for CUDA."""
    return containers.build_for_cuda(with_triton)


def built_twice(containers: Containers, image: str, wheels: Path) -> list[str]:
    """Build an image twice at the same time: one build computes while the other waits for the disk."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda registry: containers.build(image, wheels, registry), REGISTRIES))
