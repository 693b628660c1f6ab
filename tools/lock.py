"""Write the image lock files in the versions of requirements/constraints.txt, with hashes."""

import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements"
PYTHON_VERSION = "3.11"
PLATFORMS = ("x86_64-manylinux_2_28", "aarch64-manylinux_2_28")
"""An image is built for each. aarch64: Grace, Graviton and other Arm servers."""
TORCH = re.compile(r"(torch|triton|nvidia-[\w-]+|cuda-[\w-]+)==")
"""Dependencies of PyTorch for CUDA; other builds of PyTorch install none of them."""


def dependencies(project: str) -> list[str]:
    """Requirements of a project package from its pyproject.toml."""
    text = (ROOT / project / "pyproject.toml").read_text(encoding="utf-8")
    names = [*tomllib.loads(text)["project"]["dependencies"]]
    return [name for name in names if not name.startswith("sftjob-")]


def extras(project: str) -> dict[str, list[str]]:
    """Additional requirements of each extra of a project package."""
    text = (ROOT / project / "pyproject.toml").read_text(encoding="utf-8")
    return dict(tomllib.loads(text)["project"]["optional-dependencies"])


def build_dependencies(project: str) -> list[str]:
    """Requirements for building a wheel of a project package."""
    text = (ROOT / project / "pyproject.toml").read_text(encoding="utf-8")
    return [*tomllib.loads(text)["build-system"]["requires"]]


def resolve(requirements: list[str]) -> list[str]:
    """Every required package with its dependencies: text blocks with one `NAME==VERSION` and its hashes each.

    The hashes are those of every file of a version, so that one lock serves all platforms with the same packages.
    """
    first, *others = (_resolve(requirements, platform) for platform in PLATFORMS)
    for packages in others:
        if different := {*first} ^ {*packages}:
            raise SystemExit(f"one lock cannot serve {' and '.join(PLATFORMS)}: {', '.join(sorted(different))}")
    return first


def _resolve(requirements: list[str], platform: str) -> list[str]:
    command = ["uv", "pip", "compile", "-", "--quiet", "--generate-hashes", "--no-annotate", "--no-header"]
    command += ["--python-version", PYTHON_VERSION, "--python-platform", platform, "--only-binary", ":all:"]
    command += ["--constraint", str(REQUIREMENTS / "constraints.txt")]
    found = subprocess.run(command, input="\n".join(requirements), text=True, capture_output=True, check=False)
    if found.returncode:
        raise SystemExit(f"no lock for {platform}: {found.stderr}")
    return re.split(r"\n(?=\S)", found.stdout.strip())


def write(name: str, packages: list[str]) -> None:
    """Write one lock file."""
    text = "\n".join(["# Written by make lock.", *packages, ""])
    (REQUIREMENTS / f"{name}.txt").write_text(text, encoding="utf-8")


def main() -> None:
    """Resolve the current requirements, and write all lock files."""
    trainer = resolve(dependencies("trainer-image"))
    write("build", resolve(build_dependencies("operator") + build_dependencies("trainer-image")))
    write("operator", resolve(dependencies("operator")))
    write("trainer", [package for package in trainer if not TORCH.match(package)])
    write("torch-cuda", [package for package in trainer if TORCH.match(package)])
    for extra, added in extras("trainer-image").items():
        needed = resolve(dependencies("trainer-image") + added)
        write(f"trainer-{extra}", [package for package in needed if package not in trainer])


if __name__ == "__main__":
    main()
