"""Install what the Makefile's targets need into a virtual environment, with uv where it is found, else with pip.

PyTorch comes from the index of its CPU builds, which need far less disk than a CUDA build. Where that index cannot be
reached, it comes from the default index. Standard library only: this runs before anything is installed.
"""

import contextlib
import http.client
import shutil
import subprocess
import sys
import threading
import urllib.request
import venv
from collections.abc import Sequence
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]
REQUIREMENTS: Final = ROOT / "requirements"
CPU_INDEX: Final = "https://download.pytorch.org/whl/cpu"
REACH_SECONDS: Final = 5
"""How long the CPU index may take to answer."""
PIP_SOURCES: Final = ("index-url", "find-links", "no-index")
"""Settings of pip that change where packages come from; index-url is also part of extra-index-url. uv reads none."""


def torch_requirement() -> str:
    """The pinned version of PyTorch, such as torch==2.13.0; a CPU build of that version satisfies it."""
    lines = (REQUIREMENTS / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return next(line for line in lines if line.startswith("torch=="))


def is_reachable(index: str) -> bool:
    """Whether a package index answers in time. A thread asks, since looking up a name has no time limit of its own."""
    answers: list[int] = []

    def ask() -> None:
        with (
            contextlib.suppress(OSError, http.client.HTTPException),
            urllib.request.urlopen(f"{index}/torch/", timeout=REACH_SECONDS) as response,  # noqa: S310 -- a fixed URL
        ):
            answers.append(response.status)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(REACH_SECONDS)
    return answers == [200]


def installers(python: Path) -> list[list[str]]:
    """Commands that install packages for `python`, best first.

    uv is left out if pip has package sources of its own, such as a mirror, since uv does not read them.
    """
    pip = [str(python), "-m", "pip"]
    found = [[*pip, "install", "--disable-pip-version-check"]]
    uv = shutil.which("uv")
    if uv is not None:
        settings = subprocess.run([*pip, "config", "list"], capture_output=True, text=True, check=False).stdout
        if not any(source in settings for source in PIP_SOURCES):
            found.insert(0, [uv, "pip", "install", "--python", str(python)])
    return found


def install(commands: Sequence[Sequence[str]], *arguments: str) -> bool:
    """Install `arguments` with the first command that succeeds; returns whether one did."""
    constrained = ["--quiet", "--constraint", str(REQUIREMENTS / "constraints.txt"), *arguments]
    return any(subprocess.run([*command, *constrained], check=False).returncode == 0 for command in commands)


def install_torch(commands: Sequence[Sequence[str]]) -> bool:
    """Install the CPU build of PyTorch, or else the default index's build; returns whether one was installed.

    Its dependencies follow with the packages that need it: the CPU index does not have all their versions.
    """
    torch = torch_requirement()
    if is_reachable(CPU_INDEX):
        print(f"Installing {torch} from {CPU_INDEX} ...", flush=True)
        if install(commands, "--no-deps", "--index-url", CPU_INDEX, torch):
            return True
    print(
        f"Installing {torch} from the default index, since {CPU_INDEX} cannot be reached. If that is a build for CUDA, "
        "it needs several GB more disk ...",
        flush=True,
    )
    return install(commands, torch)


def main() -> int:
    """Create the virtual environment named first on the command line, and install the packages named after it."""
    directory, packages = Path(sys.argv[1]), sys.argv[2:]
    venv.create(directory, with_pip=True, symlinks=True)
    commands = installers(directory.absolute() / "bin" / "python")
    editable = [argument for package in packages for argument in ("--editable", f"./{package}")]
    installed = (
        install_torch(commands)
        and install(commands, "--requirement", str(REQUIREMENTS / "dev.txt"), *editable)
        and install(commands, "--no-deps", "--requirement", str(REQUIREMENTS / "dev-no-deps.txt"))
    )
    return 0 if installed else 1


if __name__ == "__main__":
    sys.exit(main())
