"""Build the images with buildah, podman or docker, whichever is there; see docs/images.md."""

import argparse
import os
import shutil
import subprocess
import sys
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
BUILDERS: Final = ("buildah", "podman", "docker")
LOCKS: Final = {"operator": ("build", "operator"), "trainer": ("build", "trainer", "torch-cuda")}
"""What every build of an image is made of: files in requirements/."""
FOLDERS: Final = {"operator": "operator", "trainer": "trainer-image"}
TRACKERS: Final = ("mlflow", "wandb")
"""Extras of the trainer, each with a lock of what it adds."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to build. None: as the Dockerfile says."""

    base: str | None = None
    torch_index_url: str | None = None
    wheels: Path | None = None
    """Directory with every package that is needed: the build then asks no index."""
    registry: str | None = None
    trackers: tuple[str, ...] = ()
    """What the trainer can report to besides TensorBoard."""


def chosen_trackers(text: str) -> tuple[str, ...]:
    """Trackers as the command line and the Dockerfile have them: names separated by commas."""
    names = tuple(sorted({name.strip() for name in text.split(",")} - {""}))
    if unknown := [name for name in names if name not in TRACKERS]:
        raise argparse.ArgumentTypeError(
            f"{text!r} names {unknown[0]}: write {' or '.join(TRACKERS)}, or both: {','.join(TRACKERS)}"
        )
    return names


def locks(image: str, options: Options) -> tuple[str, ...]:
    """What an image is made of: files in requirements/, without `.txt`. PyTorch of another index has no lock."""
    if image != "trainer":
        return LOCKS[image]
    of_torch = {"torch-cuda"} if options.torch_index_url else set()
    return (
        *(lock for lock in LOCKS[image] if lock not in of_torch),
        *(f"trainer-{tracker}" for tracker in options.trackers),
    )


def version() -> str:
    """The version of this repository, which images have as their tag."""
    text = (ROOT / "operator/pyproject.toml").read_text(encoding="utf-8")
    return str(tomllib.loads(text)["project"]["version"])


def image_name(image: str, registry: str | None = None) -> str:
    """Name and tag of an image, such as `registry.example.com/team/sftjob-operator:0.1.0`."""
    prefix = f"{registry.rstrip('/')}/" if registry else ""
    return f"{prefix}sftjob-{image}:{version()}"


def find_builder() -> str | None:
    """The first program on this machine that can build an image."""
    return next((name for name in BUILDERS if shutil.which(name)), None)


def command(builder: str, image: str, options: Options, commit: tuple[str, str]) -> list[str]:
    """The command that builds `image`. `commit` is (revision, seconds since 1970); every file has that time."""
    revision, epoch = commit
    arguments = {"SOURCE_DATE_EPOCH": epoch, "VERSION": version(), "REVISION": revision}
    if options.base:
        arguments["BASE"] = options.base
    if options.torch_index_url and image == "trainer":
        arguments["TORCH_INDEX_URL"] = options.torch_index_url
    if options.trackers and image == "trainer":
        arguments["TRACKERS"] = ",".join(options.trackers)
    if options.wheels:
        arguments["PIP_NO_INDEX"] = "1"
    # Layers are not kept by buildah and podman: only then has every file of an image the time that is asked for.
    plain = ["--layers=false", "--pull=false", "--timestamp", epoch]
    return [
        builder,
        "build",
        *([] if builder == "docker" else plain),
        *(["--build-context", f"wheels={options.wheels}"] if options.wheels else []),
        *(word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")),
        *("--tag", image_name(image, options.registry)),
        *("--file", f"{FOLDERS[image]}/Dockerfile", "."),
    ]


def commit() -> tuple[str, str]:
    """What is built: the commit and its time, unless SOURCE_DATE_EPOCH says another."""
    said = _git("log", "-1", "--format=%H %ct").split() or ["unknown", "0"]
    changed = "-dirty" if _git("status", "--porcelain") else ""
    return said[0] + changed, os.environ.get("SOURCE_DATE_EPOCH") or said[1]


def _git(*words: str) -> str:
    try:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""  # an unpacked archive


def build(image: str, options: Options) -> None:
    """Build one image here, under `image_name`."""
    builder = find_builder()
    if builder is None:
        sys.exit(
            f"no image can be built: none of {', '.join(BUILDERS)} is installed; `make image-tools` does on Debian"
        )
    name = image_name(image, options.registry)
    print(f"Building {name} with {builder} ...", flush=True)
    if subprocess.run(command(builder, image, options, commit()), cwd=ROOT, check=False).returncode:
        sys.exit(
            f"{builder} could not build {name}; why stands above. Where a build does not reach an index, or not its "
            "certificate, fetch the packages before: docs/images.md"
        )


def download(image: str, directory: Path, options: Options) -> None:
    """Fetch every package of an image into `directory`, with this Python's pip as it is set up here."""
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    pip += ["--dest", str(directory)]
    requirements = ROOT / "requirements"
    for lock in locks(image, options):
        subprocess.run([*pip, "--require-hashes", "-r", str(requirements / f"{lock}.txt")], check=True)
    if image == "trainer" and options.torch_index_url:
        constraints = ("--constraint", str(requirements / "constraints.txt"))
        subprocess.run([*pip, "--extra-index-url", options.torch_index_url, *constraints, "torch"], check=True)


def main() -> None:
    """Build what the command line asks for, or only fetch its packages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="*", choices=[[], *FOLDERS], help="default: both")
    parser.add_argument("--base", help="base image with Python 3.11")
    parser.add_argument("--torch-index-url", help="where PyTorch comes from; default: the CUDA build with hashes")
    parser.add_argument("--wheels", type=Path, help="directory with all packages; the build then asks no index")
    parser.add_argument("--registry", help="what comes before the images' names")
    parser.add_argument(
        "--trackers",
        type=chosen_trackers,
        default=(),
        help=f"what the trainer can report to besides TensorBoard, separated by commas: {', '.join(TRACKERS)}",
    )
    parser.add_argument("--download", type=Path, help="fetch all packages into this directory and build nothing")
    chosen = parser.parse_args()
    options = Options(
        base=chosen.base,
        torch_index_url=chosen.torch_index_url,
        wheels=chosen.wheels and chosen.wheels.resolve(),
        registry=chosen.registry,
        trackers=chosen.trackers,
    )
    for image in chosen.images or FOLDERS:
        if chosen.download:
            download(image, chosen.download, options)
        else:
            build(image, options)


if __name__ == "__main__":
    main()
