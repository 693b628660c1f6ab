"""Run a trainer module in a separate process, for work that needs PyTorch in a stage that does not load it."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

_MEMORY_BYTES: Final = 6 * 2**30
"""Importing the libraries takes 0.6 GB. A 70B model without weights adds a tenth of that."""
_NEEDED_BYTES: Final = 2**30
"""If a container has less memory left, the kernel might kill the whole container."""
_CGROUP: Final = Path("/sys/fs/cgroup")
_MAX_MESSAGE_CHARACTERS: Final = 300


class NoResultError(Exception):
    """Why a process gave no answer: too slow, too large, or ended by an error."""


def run_check(module: str, arguments: Sequence[str], *, timeout_seconds: float, stdin: str = "") -> Any:
    """The JSON in the last line that `python -m module` prints. The module reads `stdin` and uses no network.

    Raises:
        NoAnswerError: there is no such line, or not enough memory for the process.
    """
    available = available_memory_bytes()
    if available is not None and available < _NEEDED_BYTES:
        raise NoResultError(f"of the container's memory only {available // 2**20} MiB are left; raise resources.memory")
    command = [sys.executable, "-m", module, *arguments]
    options: dict[str, Any] = {
        "input": stdin,
        "capture_output": True,
        "text": True,
        "timeout": timeout_seconds,
        "env": {**os.environ, "HF_HUB_OFFLINE": "1"},
    }
    try:
        completed = subprocess.run(command, check=False, **options)  # noqa: S603 -- this program itself
    except subprocess.TimeoutExpired as error:
        raise NoResultError(f"no answer within {timeout_seconds:g} s") from error
    except OSError as error:
        raise NoResultError(str(error)) from error
    if completed.returncode:
        last = (completed.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise NoResultError(f"exit code {completed.returncode}: {last[:_MAX_MESSAGE_CHARACTERS]}")
    try:
        return json.loads(completed.stdout.splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise NoResultError("its last line is not JSON") from error


def available_memory_bytes(cgroup: Path = _CGROUP) -> int | None:
    """Memory that this container may still use; None if there is no limit or it cannot be read.

    The page cache does not count, because it is reclaimed when memory is short. Cgroup v2:
    https://docs.kernel.org/admin-guide/cgroup-v2.html, memory.max and memory.stat.
    """
    try:
        limit = int((cgroup / "memory.max").read_text())
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        return limit - int(stat["anon"])
    except (OSError, ValueError, KeyError):
        return None


def limit_memory() -> None:
    """Limit the memory of this process, which `run_check` started. Allocations beyond the limit fail."""
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))


def print_result(result: Any) -> None:
    """Print the last line, which `run_check` reads."""
    sys.stdout.write(f"\n{json.dumps(result)}\n")
