"""Run a user's command on one text: with a time limit, in its own directory, and without the Pod's secrets."""

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Final

from sftjob_contract.reasons import Reason
from sftjob_trainer.process.errors import StageError

COMMAND_FIELD: Final = "dataset.validation.command"
_INHERITED_VARIABLES: Final = ("PATH", "LANG", "LC_ALL")
"""Variables of this process that a command sees. Tokens and keys are in others."""
_TAIL_BYTES: Final = 2000
_MAX_MESSAGE_CHARACTERS: Final = 200


def check_program(program: str) -> None:
    """Check that `program` exists.

    Raises:
        StageError: `program` is not found.
    """
    if shutil.which(program) is None:
        raise StageError(
            Reason.CONFIG_INVALID,
            f"{COMMAND_FIELD}: there is no program {program} in the trainer's image; install it there, or write "
            "another one",
        )


def command_problem(command: Sequence[str], text: str, timeout_seconds: int) -> str | None:
    """What `command` reports about `text`, which it reads from standard input; None if it exits with code 0.

    The command and its child processes are killed after `timeout_seconds`.

    Raises:
        StageError: the program cannot be started.
    """
    with (
        TemporaryDirectory() as directory,
        TemporaryFile() as stdin,
        TemporaryFile() as stdout,
        TemporaryFile() as stderr,
    ):
        stdin.write(text.encode())
        stdin.seek(0)
        process = _start(command, directory, stdin, stdout, stderr)
        try:
            code = process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return f"it did not end within {timeout_seconds} s"
        finally:
            _kill(process)
        if code == 0:
            return None
        status = f"exit code {code}" if code > 0 else f"it was ended by signal {-code}"
        last = _last_line(stderr) or _last_line(stdout)
        return f"{status}: {last}" if last else status


def _start(
    command: Sequence[str], directory: str, stdin: IO[bytes], stdout: IO[bytes], stderr: IO[bytes]
) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(  # noqa: S603 -- the user's own command, no shell
            command,
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            cwd=directory,
            env=_environment(directory),
            start_new_session=True,
        )
    except OSError as error:
        problem = f"{command[0]} cannot be started: {error.strerror or error}"
        raise StageError(Reason.CONFIG_INVALID, f"{COMMAND_FIELD}: {problem}") from error


def _environment(directory: str) -> dict[str, str]:
    inherited = {name: os.environ[name] for name in _INHERITED_VARIABLES if name in os.environ}
    return {**inherited, "HOME": directory, "TMPDIR": directory}


def _kill(process: "subprocess.Popen[bytes]") -> None:
    """Kill the whole process group: the command, if it is still running, and its child processes."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(written: IO[bytes]) -> str:
    """The last non-blank line, which in a Python traceback is the error message."""
    size = written.seek(0, os.SEEK_END)
    written.seek(max(0, size - _TAIL_BYTES))
    lines = written.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:_MAX_MESSAGE_CHARACTERS]
