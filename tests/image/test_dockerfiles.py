"""What can be said of the images without building them."""

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest

from sftjob_trainer.process.image import TRACKERS
from tools import images
from tools.lock import PLATFORMS, PYTHON_VERSION

DOCKERFILES = [f"{folder}/Dockerfile" for folder in images.FOLDERS.values()]
TRACKER_LOCKS = [f"trainer-{tracker}" for tracker in images.TRACKERS]
LOCKS = ["build", "operator", "trainer", "torch-cuda", "trainer-cuda", *TRACKER_LOCKS]
PIN = re.compile(r"^([\w.-]+)==(\S+)", re.MULTILINE)


def read(path: str) -> str:
    return (images.ROOT / path).read_text(encoding="utf-8")


def pins(lock: str) -> dict[str, str]:
    """Version by name."""
    return {name.lower().replace("_", "-"): version for name, version in PIN.findall(read(f"requirements/{lock}.txt"))}


def project(image: str) -> dict[str, Any]:
    return dict(tomllib.loads(read(f"{images.FOLDERS[image]}/pyproject.toml"))["project"])


def names(requirements: list[str]) -> set[str]:
    """Names of packages as pip compares them."""
    return {re.split(r"[^\w.-]", one)[0].lower().replace("_", "-") for one in requirements}


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_hadolint_finds_nothing(dockerfile: str) -> None:
    hadolint = Path(sys.executable).with_name("hadolint")
    found = subprocess.run([hadolint, dockerfile], cwd=images.ROOT, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stdout) == (0, "")


def instructions(dockerfile: str) -> dict[str, list[str]]:
    """First lines of the instructions of each stage, by the words after FROM."""
    stages = [stage.splitlines() for stage in read(dockerfile).split("\nFROM ")[1:]]
    return {stage[0]: [line for line in stage[1:] if re.match(r"[A-Z]+ ", line)] for stage in stages}


@pytest.mark.parametrize(
    ("dockerfile", "stage"), [("operator/Dockerfile", "${BASE}"), ("trainer-image/Dockerfile", "${BASE} AS cpu")]
)
def test_nothing_runs_in_the_final_stage_and_it_ends_as_a_numeric_user(dockerfile: str, stage: str) -> None:
    final = instructions(dockerfile)[stage]
    assert not [line for line in final if line.startswith("RUN ")]
    assert [line for line in final if line.startswith("USER ")] == ["USER 65532:65532"]


def test_the_image_for_cuda_is_the_default_and_adds_a_compiler_and_its_proof_as_the_numeric_user() -> None:
    *_, (stage, added) = instructions("trainer-image/Dockerfile").items()
    assert stage == "cpu AS cuda"
    assert [line.split()[0] for line in added] == ["USER", "RUN", "USER", "ENV", "RUN"]
    assert [line for line in added if line.startswith("USER ")] == ["USER 0", "USER 65532:65532"]
    assert "source=trainer-image/check_triton.py" in added[-1]


@pytest.mark.parametrize(
    ("options", "stage"),
    [
        (images.Options(), "cuda"),
        (images.Options(torch_index_url="https://download.pytorch.org/whl/cpu/"), "cpu"),
        (images.Options(torch_index_url="https://download.pytorch.org/whl/cu126"), "cuda"),
        (images.Options(torch_index_url="file:///wheels/simple", device="cpu"), "cpu"),
    ],
)
def test_the_index_of_pytorch_chooses_the_stage_unless_a_device_is_named(options: images.Options, stage: str) -> None:
    command = images.command("docker", "trainer", options, ("abc", "7"))
    assert command[command.index("--target") + 1] == stage
    assert f"\nFROM {'${BASE}' if stage == 'cpu' else 'cpu'} AS {stage}\n" in read("trainer-image/Dockerfile")
    assert "--target" not in images.command("docker", "operator", options, ("abc", "7"))


@pytest.mark.parametrize("lock", LOCKS)
def test_every_package_of_a_lock_has_a_hash(lock: str) -> None:
    packages = re.split(r"\n(?=\S)", read(f"requirements/{lock}.txt").strip())
    assert [package for package in packages if "--hash=sha256:" not in package] == ["# Written by make lock."]


@pytest.mark.parametrize("lock", LOCKS)
def test_an_image_has_the_versions_that_are_tested(lock: str) -> None:
    tested = pins("constraints")
    assert {name: version for name, version in pins(lock).items() if version != tested.get(name, version)} == {}


@pytest.mark.parametrize("image", images.FOLDERS)
def test_the_locks_hold_all_that_the_package_asks_for(image: str) -> None:
    locked = {name for lock in images.LOCKS[image] for name in pins(lock)}
    assert names(project(image)["dependencies"]) - locked == {"sftjob-contract"}, "run `make lock`"


def test_a_tracker_is_an_extra_with_a_lock_of_what_it_adds() -> None:
    extras = project("trainer")["optional-dependencies"]
    assert images.TRACKERS == TRACKERS == tuple(sorted({*extras} - {"cuda"}))
    copied = re.findall(r" requirements/(trainer-[\w-]+)\.txt", read("trainer-image/Dockerfile"))
    assert copied == ["trainer-cuda", *TRACKER_LOCKS]
    for tracker, lock in zip(TRACKERS, TRACKER_LOCKS, strict=True):
        assert names(extras[tracker]) <= {*pins(lock)}, "run `make lock`"
        assert not {*pins(lock)} & {*pins("trainer"), *pins("torch-cuda")}


def test_an_image_without_trackers_has_nothing_that_only_trackers_need() -> None:
    only = {"wandb", "mlflow-skinny", "fastapi", "uvicorn", "gitpython", "databricks-sdk"}
    assert only <= {name for lock in TRACKER_LOCKS for name in pins(lock)}
    assert not only & {*pins("trainer")}
    assert "tensorboard" in pins("trainer")
    assert pre_releases("trainer") == set()


def test_the_pre_releases_that_wandb_asks_for_are_those_of_the_docs() -> None:
    client = {name for name in pre_releases("trainer-wandb") if not name.startswith("opentelemetry-")}
    assert client == {"cwevals"}
    assert f"cwevals=={pins('trainer-wandb')['cwevals']}" in read("docs/images.md")


def pre_releases(lock: str) -> set[str]:
    return {name for name, version in pins(lock).items() if re.search("a|b|rc|dev", version)}


def test_only_the_image_for_cuda_has_kernels_written_in_triton() -> None:
    kernels = {"liger-kernel", "torchao"}
    assert {*pins("trainer-cuda")} == kernels == names(project("trainer")["optional-dependencies"]["cuda"])
    assert not kernels & {*pins("trainer")}
    for options, locked in (
        (images.Options(), {"torch-cuda", "trainer-cuda"}),
        (images.Options(torch_index_url="https://example.com/cu126"), {"trainer-cuda"}),
        (images.Options(torch_index_url="https://example.com/cpu"), set()),
    ):
        assert {*images.locks("trainer", options)} & {"torch-cuda", "trainer-cuda"} == locked


def test_pytorch_is_in_a_lock_of_its_own() -> None:
    assert "torch" in pins("torch-cuda")
    assert not [name for name in pins("trainer") if name in pins("torch-cuda")]
    assert not [name for name in pins("trainer") if name.startswith("nvidia-")]


@pytest.mark.parametrize("builder", images.BUILDERS)
def test_arguments_reach_the_builder(builder: str) -> None:
    options = images.Options(
        base="base:1", torch_index_url="https://example.com/cpu", registry="registry.example.com/x/"
    )
    command = images.command(builder, "trainer", options, ("abc", "7"))
    assert command[:2] == [builder, "build"]
    assert {"SOURCE_DATE_EPOCH=7", "REVISION=abc", "BASE=base:1", "TORCH_INDEX_URL=https://example.com/cpu"} < {
        *command
    }
    assert f"registry.example.com/x/sftjob-trainer:{images.version()}" in command
    assert ("--timestamp" in command) == (builder != "docker")


@pytest.mark.parametrize(
    ("text", "trackers"),
    [("", ()), ("wandb", ("wandb",)), ("wandb,mlflow", ("mlflow", "wandb")), (" wandb,", ("wandb",))],
)
def test_trackers_reach_the_build_of_the_trainer_only(text: str, trackers: tuple[str, ...]) -> None:
    options = images.Options(trackers=images.chosen_trackers(text))
    built = images.command("podman", "trainer", options, ("abc", "7"))
    assert [word for word in built if word.startswith("TRACKERS=")] == (
        [f"TRACKERS={','.join(trackers)}"] if trackers else []
    )
    assert not [word for word in images.command("podman", "operator", options, ("abc", "7")) if "TRACKERS" in word]
    assert images.locks("trainer", options) == (*images.LOCKS["trainer"], *(f"trainer-{name}" for name in trackers))
    assert images.locks("operator", options) == images.LOCKS["operator"]


def test_an_unknown_tracker_is_refused_with_those_there_are() -> None:
    with pytest.raises(
        argparse.ArgumentTypeError, match=r"'wandb,comet' names comet: write mlflow or wandb, or both: m"
    ):
        images.chosen_trackers("wandb,comet")


def test_packages_that_lie_ready_make_a_build_without_an_index() -> None:
    command = images.command("buildah", "operator", images.Options(wheels=Path("/w")), ("abc", "7"))
    assert {"wheels=/w", "PIP_NO_INDEX=1"} < {*command}


def test_a_build_that_fails_ends_with_a_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    builder = tmp_path / "buildah"
    builder.write_text("#!/bin/sh\necho no certificate >&2\nexit 125\n")
    builder.chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")

    with pytest.raises(SystemExit, match=r"buildah could not build sftjob-operator:.*; why stands above"):
        images.build("operator", images.Options())


def test_the_context_is_only_what_an_image_is_made_of() -> None:
    copied = re.findall(r"^COPY (?!--)(.+?)(?: \\\n +)?(?: /\S+)$", "\n".join(map(read, DOCKERFILES)), re.MULTILINE)
    sources = {source.split("/")[0] for line in copied for source in line.replace("\\", "").split()}
    let_in = {line[1:] for line in read(".dockerignore").splitlines() if line.startswith("!")}
    assert sources == let_in


@pytest.mark.slow
@pytest.mark.parametrize("lock", ["build", "trainer", "torch-cuda", "trainer-cuda"])
@pytest.mark.parametrize("platform", PLATFORMS)
def test_every_package_of_the_image_has_a_wheel_for_both_architectures(
    lock: str, platform: str, tmp_path: Path
) -> None:
    uv = Path(sys.executable).with_name("uv")
    command = [uv, "pip", "install", "--dry-run", "--no-deps", "--only-binary", ":all:", "--target", str(tmp_path)]
    options = ["--python-platform", platform, "--python-version", PYTHON_VERSION, "--require-hashes"]
    requirements = images.ROOT / f"requirements/{lock}.txt"
    ended = subprocess.run([*command, *options, "-r", requirements], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr.count("\n + ") == requirements.read_text().count("==")
