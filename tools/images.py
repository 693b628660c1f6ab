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
LOCKS: Final = {"operator": ("build", "operator"), "trainer": ("build", "trainer", "torch-cuda", "trainer-cuda")}
"""Inputs of every image build: files in requirements/."""
FOLDERS: Final = {"operator": "operator", "trainer": "trainer-image"}
DEVICES: Final = ("cpu", "cuda")
"""Variants of the trainer's image: stages of its Dockerfile. That for CUDA has a C compiler."""
TRACKERS: Final = ("mlflow", "wandb")
"""Extras of the trainer, each with a lock file of its additional packages. The extra cuda is not a choice."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """Build options. None: the Dockerfile's default."""

    base: str | None = None
    torch_index_url: str | None = None
    device: str | None = None
    """One of DEVICES. None: cpu if the index of PyTorch is that of builds for a CPU, else cuda."""
    wheels: Path | None = None
    """Directory with every required package: the build then needs no index."""
    registry: str | None = None
    trackers: tuple[str, ...] = ()
    """Trackers of the trainer in addition to TensorBoard."""

    @property
    def trainer_stage(self) -> str:
        """The stage of the trainer's Dockerfile to build. The last part of an index's URL is its device."""
        index = (self.torch_index_url or "").rstrip("/")
        return self.device or ("cpu" if index.endswith("/cpu") else "cuda")


def chosen_trackers(text: str) -> tuple[str, ...]:
    """Trackers from the command line, in the Dockerfile's format: names separated by commas."""
    names = tuple(sorted({name.strip() for name in text.split(",")} - {""}))
    if unknown := [name for name in names if name not in TRACKERS]:
        raise argparse.ArgumentTypeError(
            f"{text!r} names {unknown[0]}: write {' or '.join(TRACKERS)}, or both: {','.join(TRACKERS)}"
        )
    return names


def locks(image: str, options: Options) -> tuple[str, ...]:
    """Inputs of an image: files in requirements/, without `.txt`. PyTorch from another index has no lock."""
    if image != "trainer":
        return LOCKS[image]
    absent = {"torch-cuda"} if options.torch_index_url else set()
    if options.trainer_stage == "cpu":
        absent |= {"torch-cuda", "trainer-cuda"}
    return (
        *(lock for lock in LOCKS[image] if lock not in absent),
        *(f"trainer-{tracker}" for tracker in options.trackers),
    )


def version() -> str:
    """The version of this repository, which is the images' tag."""
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
    """The command that builds `image`. `commit` is (revision, seconds since 1970), the time of every file."""
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
    # Disable layer caching of buildah and podman: only then does every file have the requested time.
    plain = ["--layers=false", "--pull=false", "--timestamp", epoch]
    return [
        builder,
        "build",
        *([] if builder == "docker" else plain),
        *(["--target", options.trainer_stage] if image == "trainer" else []),
        *(["--build-context", f"wheels={options.wheels}"] if options.wheels else []),
        *(word for name, value in arguments.items() for word in ("--build-arg", f"{name}={value}")),
        *("--tag", image_name(image, options.registry)),
        *("--file", f"{FOLDERS[image]}/Dockerfile", "."),
    ]


def commit() -> tuple[str, str]:
    """The commit and its time, unless SOURCE_DATE_EPOCH sets another time."""
    said = _git("log", "-1", "--format=%H %ct").split() or ["unknown", "0"]
    changed = "-dirty" if _git("status", "--porcelain") else ""
    return said[0] + changed, os.environ.get("SOURCE_DATE_EPOCH") or said[1]


def _git(*words: str) -> str:
    try:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return ""  # an unpacked archive


def build(image: str, options: Options) -> None:
    """Build one image locally, under `image_name`."""
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
    """Download every package of an image into `directory`, with this Python's pip as configured here."""
    requirements = ROOT / "requirements"
    for lock in locks(image, options):
        download_lock(requirements / f"{lock}.txt", directory)
    if image == "trainer" and options.torch_index_url:
        constraints = ("--constraint", str(requirements / "constraints.txt"))
        _download(directory, "--extra-index-url", options.torch_index_url, *constraints, "torch")


def download_lock(lock: Path, directory: Path) -> None:
    """Download every package of a lock file into `directory`, and check the hashes."""
    _download(directory, "--require-hashes", "-r", str(lock))


def _download(directory: Path, *requirements: str) -> None:
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--dest", str(directory), *requirements], check=True)


def main() -> None:
    """Build the images named on the command line, or only download their packages."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("images", nargs="*", choices=[[], *FOLDERS], help="default: both")
    parser.add_argument("--base", help="base image with Python 3.11")
    parser.add_argument("--torch-index-url", help="where PyTorch comes from; default: the CUDA build with hashes")
    parser.add_argument("--device", choices=DEVICES, help="what the trainer runs on; default: by --torch-index-url")
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
        device=chosen.device,
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
