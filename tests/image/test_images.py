"""Both images, built, and run as on a strict cluster: read-only, no capability, no network, a user without a name.

The image for CUDA runs on a machine without a GPU: a stub takes the place of the driver's library. All of it is in one
file, since a process that tests one file builds the images once.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from sftjob_contract import names
from sftjob_contract.codec import from_json, to_json
from sftjob_contract.layout import OUTPUT_ADAPTER, node_kernels
from sftjob_contract.names import MOUNT_VOLUME
from sftjob_contract.reports.outcome import Outcome
from support.clients.containers import REVISION, USER, Containers
from support.trainer.tiny import lora, run_config, write_model
from tools import images

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

KERNELS = Path(__file__).with_name("interpreted_kernels.py")
CHECK = images.ROOT / "trainer-image/check_triton.py"
LIBRARIES = "/usr/lib/x86_64-linux-gnu"
GKE = "/usr/local/nvidia/lib64"
TOOLCHAIN_BYTES = 300 << 20
"""More than a C compiler and the headers take."""
CLAIM = "inputs"
ROWS = 12
STEPS = 3


@pytest.fixture(params=[*images.FOLDERS])
def image(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def name(image: str, request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(image))


def test_the_same_source_makes_the_same_image(
    image: str, containers: Containers, request: pytest.FixtureRequest
) -> None:
    first, second = map(containers.image_id, request.getfixturevalue(f"{image}_builds"))
    assert first == second


def test_an_image_says_what_it_is_and_runs_as_a_numeric_user(image: str, name: str, containers: Containers) -> None:
    config = json.loads(containers.call("podman", "image", "inspect", name))[0]["Config"]
    prefix = "org.opencontainers.image."
    told = {key.removeprefix(prefix): value for key, value in config["Labels"].items() if key.startswith(prefix)}
    assert told.pop("description")
    assert told == {
        "title": f"sftjob-{image}",
        "licenses": "Apache-2.0",
        "version": images.version(),
        "revision": REVISION,
    }
    assert config["User"] == "65532:65532"


def test_an_image_has_one_program_compiled_and_read_only_and_no_file_of_the_build(
    image: str, name: str, containers: Containers
) -> None:
    packages = "/opt/venv/lib/python3*/site-packages"
    looks = (
        "for tool in cc gcc c++ make pip pip3; do command -v $tool; done; ls -d /src /dist /tools /wheels 2> /dev/null",
        "find /opt/venv ! -type l -writable",
        f"find {packages}/sftjob_{image} -name '*.py' | wc -l",
        f"find {packages}/sftjob_{image} -name '*.cpython-*.pyc' | wc -l",
        f"ls {packages}",
    )
    found = containers.shell(name, "; echo =; ".join(looks)).split("=\n")
    left_of_the_build, writable, modules, compiled, installed = found
    assert (left_of_the_build, writable) == ("", "")
    assert int(modules) == int(compiled) > 10
    others = {"operator": "sftjob_trainer torch transformers", "trainer": "sftjob_operator kopf kubernetes"}[image]
    assert {"sftjob_contract", f"sftjob_{image}"} < {*installed.split()}
    assert not {*others.split()} & {*installed.split()}


def test_the_operator_says_its_version(operator: str, containers: Containers) -> None:
    ended = containers.run(operator, "--version")
    assert (ended.returncode, ended.stdout.strip(), ended.stderr) == (0, images.version(), "")


def test_the_operator_says_in_a_sentence_what_it_lacks(operator: str, containers: Containers) -> None:
    ended = containers.run(operator)
    assert ended.returncode == 2
    assert "SFTJOB_TRAINER_IMAGE" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_operator_says_in_a_sentence_that_there_is_no_cluster(operator: str, containers: Containers) -> None:
    given = {"SFTJOB_TRAINER_IMAGE": "trainer:1", "SFTJOB_PROGRESS_TLS_DIR": "/tmp/tls"}
    ended = containers.run(operator, options=variables(given))
    assert ended.returncode == 2
    assert "Set KUBECONFIG to a kubeconfig file" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_trainer_says_in_a_sentence_what_it_lacks(trainer: str, containers: Containers) -> None:
    ended = containers.run(trainer, names.Stage.TRAIN)
    assert ended.returncode == 65
    assert f"the environment variable {names.ENV_VOLUME} is not set" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_the_trainer_prepares_and_trains_with_lora(trainer: str, containers: Containers, tmp_path: Path) -> None:
    volume = write_inputs(tmp_path)
    for stage in (names.Stage.PREPARE, names.Stage.TRAIN):
        ended = containers.run(trainer, stage, options=pod(tmp_path, volume))
        assert ended.returncode == 0, ended.stdout + ended.stderr
    outcome = from_json(Outcome, (volume / "termination-log").read_text(), ignore_unknown=False)
    assert outcome.stage is names.Stage.TRAIN
    assert outcome.progress is not None
    assert outcome.progress.step == STEPS
    assert (volume / OUTPUT_ADAPTER / "adapter_model.safetensors").stat().st_size > 0


def write_inputs(directory: Path) -> Path:
    """A model and a data set on a claim, the run config, and an empty volume, which is returned."""
    claim = directory / CLAIM
    claim.mkdir()
    write_model(claim / "model")
    rows = [{"prompt": f"what is {number}?", "completion": f"{number} is a number"} for number in range(ROWS)]
    (claim / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = run_config(
        model=f"pvc://{CLAIM}/model", dataset=f"pvc://{CLAIM}/rows.jsonl", method=lora(), max_steps=STEPS
    )
    (directory / names.CONFIG_KEY).write_text(to_json(config))
    volume = directory / "volume"
    volume.mkdir()
    for path in (volume, *claim.rglob("*")):
        os.chown(path, USER, USER)
    return volume


def pod(directory: Path, volume: Path) -> list[str]:
    """Mounts and environment as the operator renders them."""
    mounts = {
        directory / CLAIM: f"{names.MOUNT_CLAIMS}/{CLAIM}:ro",
        directory / names.CONFIG_KEY: f"{names.MOUNT_CONFIG}/{names.CONFIG_KEY}:ro",
        volume: names.MOUNT_VOLUME,
    }
    given = {
        names.ENV_CLAIMS: names.MOUNT_CLAIMS,
        names.ENV_RUN_CONFIG: f"{names.MOUNT_CONFIG}/{names.CONFIG_KEY}",
        names.ENV_VOLUME: names.MOUNT_VOLUME,
        names.ENV_TERMINATION_LOG: f"{names.MOUNT_VOLUME}/termination-log",
    }
    return [*variables(given), *(f"--volume={source}:{target}" for source, target in mounts.items())]


def variables(given: Mapping[str, str]) -> list[str]:
    return [f"--env={name}={value}" for name, value in given.items()]


@pytest.fixture(scope="module")
def stub(cuda: str, containers: Containers, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Directory of a libcuda.so.1, and of the cache that ldconfig writes when the driver is mounted into LIBRARIES."""
    directory = tmp_path_factory.mktemp("driver")
    os.chown(directory, USER, USER)
    mounts = (f"--volume={CHECK}:/check.py:ro", f"--volume={directory}:/out")
    ended = containers.run(cuda, "/check.py", "stub", "/out", options=[*mounts, "--entrypoint=python"])
    assert ended.returncode == 0, ended.stderr
    library = f"--volume={directory}/libcuda.so.1:{LIBRARIES}/libcuda.so.1:ro"
    runtime = ("podman", "run", "--rm", "--pull=never", "--network=none", "--user=0", "--entrypoint=/sbin/ldconfig")
    containers.call(*runtime, library, mounts[1], cuda, "-C", "/out/ld.so.cache")
    return directory


def mounted(stub: Path, where: str) -> list[str]:
    """Mount the stub like NVIDIA's container runtime, which runs ldconfig, or like GKE, which does not."""
    library = f"--volume={stub}/libcuda.so.1:{where}/libcuda.so.1:ro"
    return [library] if where == GKE else [library, f"--volume={stub}/ld.so.cache:/etc/ld.so.cache:ro"]


@pytest.mark.parametrize("where", [LIBRARIES, GKE])
def test_triton_compiles_its_driver_once_for_all_attempts_of_a_job(
    where: str, cuda: str, stub: Path, containers: Containers, tmp_path: Path
) -> None:
    os.chown(tmp_path, USER, USER)
    cache = f"{MOUNT_VOLUME}/{node_kernels(0)}/triton"
    options = [
        *mounted(stub, where),
        *(f"--volume={CHECK}:/check.py:ro", f"--volume={tmp_path}:{MOUNT_VOLUME}"),
        *(f"--env=TRITON_CACHE_DIR={cache}", "--entrypoint=python"),
    ]
    first = containers.run(cuda, "/check.py", options=options)
    assert first.returncode == 0, first.stdout + first.stderr
    assert f"driver: {cache}/" in first.stdout
    assert first.stdout.endswith("interpreter: ok\n")

    second = containers.run(cuda, "/check.py", options=["--env=CC=/bin/false", *options])
    assert (second.returncode, second.stdout) == (0, first.stdout)


def test_without_a_compiler_the_check_fails(cuda: str, stub: Path, containers: Containers) -> None:
    options = [*mounted(stub, GKE), f"--volume={CHECK}:/check.py:ro", "--env=CC=/bin/false", "--entrypoint=python"]
    ended = containers.run(cuda, "/check.py", options=options)
    assert ended.returncode != 0
    assert "/bin/false" in ended.stderr


def test_the_kernels_of_trl_and_liger_agree_with_pytorch_and_torchao_is_importable(
    cuda: str, containers: Containers
) -> None:
    options = [f"--volume={KERNELS}:/compare_kernels.py:ro", "--env=TRITON_INTERPRET=1", "--entrypoint=python"]
    ended = containers.run(cuda, "/compare_kernels.py", options=options)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert [line.split(":")[0].split()[0] for line in ended.stdout.splitlines()] == ["torchao", "liger", "trl"]


def test_a_compiler_is_all_that_the_image_for_cuda_adds(cuda: str, with_triton: str, containers: Containers) -> None:
    def size(name: str) -> int:
        return int(containers.call("podman", "image", "inspect", "--format", "{{.Size}}", name))

    assert size(cuda) - size(with_triton) < TOOLCHAIN_BYTES
    left = "command -v gcc; find /tmp /var/lib/apt/lists /var/cache/apt /var/log -type f -size +0 2> /dev/null || true"
    assert containers.shell(cuda, left) == "/usr/bin/gcc\n"
