"""Trainer processes without the seconds that importing takes: forked from a process that has the libraries.

One server serves a test process, from its first use on. Memory limits of a container do not see a forked trainer: where
that matters, set NOT_FORKED.
"""

import atexit
import os
import shlex
import subprocess
import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

NOT_FORKED: Final = "TRAINER_IS_NOT_FORKED"
"""Environment variable of a process that is to be one of its own."""
_READ_ON_IMPORT: Final = "HF_ENDPOINT"
"""Variable of processes that are not forked from one that has the libraries of Hugging Face."""
_HERE: Final = Path(__file__).parent


def write_python(script: Path, *import_paths: str) -> None:
    """Write the program `script`: Python with these import paths first, whose trainers are forked."""
    client = [sys.executable, "-I", "-S", str(_HERE / "client.py")]
    command = [*client, str(_server()), NOT_FORKED, _READ_ON_IMPORT, str(script), sys.executable]
    path = os.pathsep.join(import_paths)
    script.write_text(
        f'#!/bin/sh\nexport PYTHONPATH="{path}${{PYTHONPATH:+{os.pathsep}$PYTHONPATH}}"\n'
        f'exec {shlex.join(command)} "$@"\n',
        encoding="utf-8",
    )
    script.chmod(0o755)


@cache
def python() -> Path:
    """A Python whose trainers are forked."""
    script = _server() / "python"
    write_python(script)
    return script


def is_ready() -> bool:
    """Whether the server listens already: a process that starts before is one of its own."""
    return (_server() / "full").exists()


def processes_of(pid: int) -> list[int]:
    """A process that was started, and the one that the server runs for it, if it does."""
    forked = _server() / str(pid)
    return [pid, int(forked.read_text())] if forked.exists() else [pid]


@cache
def _server() -> Path:
    """Directory of the sockets of a running server, which ends with this process."""
    directory = Path(tempfile.mkdtemp(prefix="forking-"))
    environ = {**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
    server = subprocess.Popen(
        [sys.executable, "-I", str(_HERE / "server.py"), str(directory)], stdin=subprocess.PIPE, env=environ
    )
    atexit.register(server.wait)
    assert server.stdin is not None
    atexit.register(server.stdin.close)
    return directory
