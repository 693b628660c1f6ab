"""A user's command on one text: with a time limit, in a directory of its own, and without what the Pod knows."""

import os
import shutil
import signal
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from tempfile import TemporaryDirectory, TemporaryFile
from typing import IO, Final

from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure

COMMAND_FIELD: Final = "dataset.validation.command"
_PASSED_ON: Final = ("PATH", "LANG", "LC_ALL")
"""Variables of this process that a command sees. Tokens and keys are in others."""
_TOLD_BYTES: Final = 2000
_TOLD_CHARACTERS: Final = 200


def check_program(program: str) -> None:
    """See that `program` is there.

    Raises:
        Failure: it is not.
    """
    if shutil.which(program) is None:
        raise Failure(
            Reason.CONFIG_INVALID,
            f"{COMMAND_FIELD}: there is no program {program} in the trainer's image; install it there, or write "
            "another one",
        )


def problem_of_command(command: Sequence[str], text: str, timeout_seconds: int) -> str | None:
    """What `command` says against `text`, which it reads from its standard input; None if it ends with exit code 0.

    It and whatever it started are ended after `timeout_seconds`.

    Raises:
        Failure: the program can not be started.
    """
    with TemporaryDirectory() as directory, TemporaryFile() as given, TemporaryFile() as out, TemporaryFile() as err:
        given.write(text.encode())
        given.seek(0)
        process = _started(command, directory, given, out, err)
        try:
            code = process.wait(timeout_seconds)
        except subprocess.TimeoutExpired:
            return f"it did not end within {timeout_seconds} s"
        finally:
            _end(process)
        if code == 0:
            return None
        how = f"exit code {code}" if code > 0 else f"it was ended by signal {-code}"
        last = _last_line(err) or _last_line(out)
        return f"{how}: {last}" if last else how


def _started(
    command: Sequence[str], directory: str, given: IO[bytes], out: IO[bytes], err: IO[bytes]
) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(  # noqa: S603 -- the user's own command, no shell
            command,
            stdin=given,
            stdout=out,
            stderr=err,
            cwd=directory,
            env=_environment(directory),
            start_new_session=True,
        )
    except OSError as error:
        problem = f"{command[0]} can not be started: {error.strerror or error}"
        raise Failure(Reason.CONFIG_INVALID, f"{COMMAND_FIELD}: {problem}") from error


def _environment(directory: str) -> dict[str, str]:
    passed_on = {name: os.environ[name] for name in _PASSED_ON if name in os.environ}
    return {**passed_on, "HOME": directory, "TMPDIR": directory}


def _end(process: "subprocess.Popen[bytes]") -> None:
    """End the whole process group: the command, if it runs still, and what it left running."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_line(written: IO[bytes]) -> str:
    """The last line that is not blank, which of a Python traceback is the one that says what it was."""
    size = written.seek(0, os.SEEK_END)
    written.seek(max(0, size - _TOLD_BYTES))
    lines = written.read().decode(errors="replace").split("\n")
    return next((line.strip() for line in reversed(lines) if line.strip()), "")[:_TOLD_CHARACTERS]
