"""Write the locks that the images are built from, in the versions of requirements/constraints.txt, with hashes."""

import re
import subprocess
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
REQUIREMENTS = ROOT / "requirements"
PYTHON_VERSION = "3.11"
PLATFORM = "x86_64-manylinux_2_28"
TORCH = re.compile(r"(torch|triton|nvidia-[\w-]+|cuda-[\w-]+)==")
"""What PyTorch for CUDA brings; with another build of PyTorch none of it is installed."""


def dependencies(project: str) -> list[str]:
    """What a package of ours needs from others, as its pyproject.toml says."""
    text = (ROOT / project / "pyproject.toml").read_text(encoding="utf-8")
    names = [*tomllib.loads(text)["project"]["dependencies"]]
    return [name for name in names if not name.startswith("sftjob-")]


def extras(project: str) -> dict[str, list[str]]:
    """Requirements that each extra of one of our packages adds."""
    text = (ROOT / project / "pyproject.toml").read_text(encoding="utf-8")
    return dict(tomllib.loads(text)["project"]["optional-dependencies"])


def build_dependencies(project: str) -> list[str]:
    """What it takes to make a wheel of a package of ours."""
    text = (ROOT / project / "pyproject.toml").read_text(encoding="utf-8")
    return [*tomllib.loads(text)["build-system"]["requires"]]


def resolve(requirements: list[str]) -> list[str]:
    """Every package needed, with its dependencies: blocks of text with one `NAME==VERSION` and its hashes each."""
    command = ["uv", "pip", "compile", "-", "--quiet", "--generate-hashes", "--no-annotate", "--no-header"]
    command += ["--python-version", PYTHON_VERSION, "--python-platform", PLATFORM]
    command += ["--constraint", str(REQUIREMENTS / "constraints.txt")]
    found = subprocess.run(command, input="\n".join(requirements), text=True, capture_output=True, check=True)
    return re.split(r"\n(?=\S)", found.stdout.strip())


def write(name: str, packages: list[str]) -> None:
    """One lock."""
    text = "\n".join(["# Written by make lock.", *packages, ""])
    (REQUIREMENTS / f"{name}.txt").write_text(text, encoding="utf-8")


def main() -> None:
    """Resolve what the packages say now, and write all locks."""
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
