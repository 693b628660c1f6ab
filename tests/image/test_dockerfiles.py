"""What can be said of the images without building them."""

import argparse
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import images
import pytest

from sftjob_trainer.image import TRACKERS

DOCKERFILES = [f"{folder}/Dockerfile" for folder in images.FOLDERS.values()]
TRACKER_LOCKS = [f"trainer-{tracker}" for tracker in images.TRACKERS]
LOCKS = ["build", "operator", "trainer", "torch-cuda", *TRACKER_LOCKS]
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


@pytest.mark.parametrize("dockerfile", DOCKERFILES)
def test_nothing_runs_in_the_final_stage_and_it_ends_as_a_numeric_user(dockerfile: str) -> None:
    final = read(dockerfile).split("\nFROM ")[-1].splitlines()
    instructions = [line.split()[0] for line in final[1:] if re.match(r"[A-Z]+ ", line)]
    assert "RUN" not in instructions
    assert [line for line in final if line.startswith("USER ")] == ["USER 65532:65532"]


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
    assert images.TRACKERS == TRACKERS == tuple(sorted(extras))
    copied = re.findall(r"requirements/(trainer-[\w-]+)\.txt", read("trainer-image/Dockerfile"))
    assert copied == TRACKER_LOCKS
    for tracker, lock in zip(TRACKERS, TRACKER_LOCKS, strict=True):
        assert names(extras[tracker]) <= {*pins(lock)}, "run `make lock`"
        assert not {*pins(lock)} & {*pins("trainer"), *pins("torch-cuda")}


def test_an_image_without_trackers_has_nothing_that_only_trackers_need() -> None:
    only = {"wandb", "mlflow-skinny", "fastapi", "uvicorn", "gitpython", "databricks-sdk"}
    assert only <= {name for lock in TRACKER_LOCKS for name in pins(lock)}
    assert not only & {*pins("trainer")}
    assert "tensorboard" in pins("trainer")
    unreleased = {name: version for name, version in pins("trainer").items() if re.search("a|b|rc|dev", version)}
    assert unreleased == {}


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
