"""One run of one container: its shim, its output, its end."""

import asyncio
import json
import os
import shutil
import socket
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final

from sftjob_sandbox.node.containers import shim

_KILLED: Final = 137
_RUNC: Final = (
    "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: "
    "unable to start container process: exec: {program}: {why}: unknown"
)


class StartError(Exception):
    """The program cannot be run; the text is what a container runtime reports."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """What to run. `label` names the container in the process list."""

    argv: list[str]
    env: Mapping[str, str]
    cwd: Path
    memory_limit_bytes: int | None
    poll_seconds: float
    label: str


@dataclass(frozen=True)
class Exit:
    """How a container ended; the code is 128 + N after signal N."""

    code: int
    out_of_memory: bool


class Container:
    """A running container. `terminate` and `kill` return at once; `wait` returns when nothing of it is left."""

    def __init__(
        self, process: asyncio.subprocess.Process, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        self._process = process
        self._reader = reader
        self._writer = writer

    @classmethod
    async def start(cls, command: Command, log: Path) -> "Container":
        """Start `command`; its output goes to the file `log`. Raises StartError: there is no such program."""
        path = find_program(command.argv, command.env, command.cwd)
        ours, theirs = socket.socketpair()
        log.parent.mkdir(parents=True, exist_ok=True)
        with theirs, log.open("ab") as output:
            process = await _start_shim(theirs.fileno(), output, command.label)
        container = cls(process, *await asyncio.open_unix_connection(sock=ours))
        order = {
            "path": path,
            "argv": command.argv,
            "env": dict(command.env),
            "cwd": str(command.cwd),
            "memoryLimitBytes": command.memory_limit_bytes,
            "pollSeconds": command.poll_seconds,
        }
        container._writer.write(json.dumps(order).encode() + b"\n")
        await container._reader.readline()
        return container

    async def wait(self) -> Exit:
        """Wait until no process of the container is left. When cancelled, its processes are killed."""
        try:
            line = await self._reader.readline()
            await self._process.wait()
        finally:
            self._writer.close()
        if not line:
            return Exit(_KILLED, out_of_memory=False)  # the shim itself was killed, and the first process with it
        report = json.loads(line)
        return Exit(report["exitCode"], report["outOfMemory"])

    def terminate(self) -> None:
        """Send SIGTERM to the first process."""
        self._command(shim.TERMINATE)

    def kill(self) -> None:
        """Send SIGKILL to all processes."""
        self._command(shim.KILL)

    def _command(self, word: bytes) -> None:
        if not self._writer.is_closing():
            self._writer.write(word)


async def _start_shim(control: int, output: BinaryIO, label: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-I", "-S", shim.__file__, str(control), label),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=[control],
        start_new_session=True,
        cwd="/",
        env={},
    )


def find_program(argv: list[str], env: Mapping[str, str], cwd: Path) -> str:
    """Path of the program that `argv` names, looked up as a container runtime does.

    Raises StartError: none, or not executable.
    """
    if not argv:
        raise StartError("failed to generate container spec: failed to generate spec: no command specified")
    program = argv[0]
    if "/" not in program:
        found = shutil.which(program, path=env.get("PATH", ""))
        if not found:
            raise StartError(_RUNC.format(program=json.dumps(program), why="executable file not found in $PATH"))
        return found
    path = cwd / program
    if not path.exists():
        raise StartError(_RUNC.format(program=json.dumps(program), why=f"stat {program}: no such file or directory"))
    if path.is_dir():
        raise StartError(_RUNC.format(program=json.dumps(program), why="is a directory"))
    if not os.access(path, os.X_OK):
        raise StartError(_RUNC.format(program=json.dumps(program), why="permission denied"))
    return str(path)
