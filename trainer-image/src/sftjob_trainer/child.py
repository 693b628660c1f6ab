"""A module of ours run as a program of its own, for what needs PyTorch in a stage that does without it."""

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
"""Importing the libraries takes 0.6 GB, and a model of 70B without weights adds a tenth of that."""
_NEEDED_BYTES: Final = 2**30
"""Where a container has less left, the kernel might end it as a whole."""
_CGROUP: Final = Path("/sys/fs/cgroup")
_TOLD_CHARACTERS: Final = 300


class NoAnswerError(Exception):
    """Why a process gave no answer: it was too slow or too large, or ended by an error."""


def answer_of(module: str, arguments: Sequence[str], *, seconds: float, given: str = "") -> Any:
    """What `python -m module` prints as its last line, which is JSON. It reads `given`, and no network is used.

    Raises:
        NoAnswerError: there is no such line, or no memory for such a process.
    """
    room = room_bytes()
    if room is not None and room < _NEEDED_BYTES:
        raise NoAnswerError(f"of the container's memory only {room // 2**20} MiB are left; raise resources.memory")
    command = [sys.executable, "-m", module, *arguments]
    options: dict[str, Any] = {
        "input": given,
        "capture_output": True,
        "text": True,
        "timeout": seconds,
        "env": {**os.environ, "HF_HUB_OFFLINE": "1"},
    }
    try:
        done = subprocess.run(command, check=False, **options)  # noqa: S603 -- ourselves
    except subprocess.TimeoutExpired as error:
        raise NoAnswerError(f"no answer within {seconds:g} s") from error
    except OSError as error:
        raise NoAnswerError(str(error)) from error
    if done.returncode:
        last = (done.stderr.strip().splitlines() or ["it printed nothing"])[-1]
        raise NoAnswerError(f"exit code {done.returncode}: {last[:_TOLD_CHARACTERS]}")
    try:
        return json.loads(done.stdout.splitlines()[-1])
    except (ValueError, IndexError) as error:
        raise NoAnswerError("its last line is no JSON") from error


def room_bytes(cgroup: Path = _CGROUP) -> int | None:
    """Memory that this container may still take; None: it has no limit, or none that can be read.

    What the page cache holds is given back when memory is short, so it does not count. Cgroup v2:
    https://docs.kernel.org/admin-guide/cgroup-v2.html, memory.max and memory.stat.
    """
    try:
        limit = int((cgroup / "memory.max").read_text())
        stat = dict(line.split() for line in (cgroup / "memory.stat").read_text().splitlines())
        return limit - int(stat["anon"])
    except (OSError, ValueError, KeyError):
        return None


def limit_memory() -> None:
    """Bound the memory of this process, which is one that `answer_of` started. An allocation beyond it fails."""
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_DATA, (_MEMORY_BYTES, _MEMORY_BYTES))


def print_answer(answer: Any) -> None:
    """Leave the last line that `answer_of` reads."""
    sys.stdout.write(f"\n{json.dumps(answer)}\n")
