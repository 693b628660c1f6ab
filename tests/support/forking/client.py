"""A process that a fork server runs for this one: `python -I -S client.py DIRECTORY NEVER NOT_FULL SCRIPT PYTHON ...`.

NEVER and NOT_FULL are names of variables: with the first the process is one of its own, with the second it is not
forked from the server that has the libraries of Hugging Face. SCRIPT is what the process takes for its interpreter,
PYTHON the real one, which runs whatever is no module of the trainer or of the tests, and everything once the server is
gone. See server.py.
"""

import array
import json
import os
import signal
import socket
import sys
from contextlib import suppress

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
OURS = ("sftjob_trainer", "support")
LIGHT = ["-m", "sftjob_trainer", "prepare"]


def main() -> None:
    """Be that process, as far as whoever started it can see."""
    directory, never, not_full, script, python, *arguments = sys.argv[1:]
    is_ours = len(arguments) > 1 and arguments[0] == "-m" and arguments[1].partition(".")[0] in OURS
    is_light = arguments == LIGHT
    is_forked = is_ours and never not in os.environ and (is_light or not_full not in os.environ)
    connection = socket.socket(socket.AF_UNIX)
    try:
        if not is_forked:
            raise ConnectionRefusedError
        connection.connect(f"{directory}/{'light' if is_light else 'full'}")
    except OSError:
        os.execv(python, [python, *arguments])
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: _pass_on(connection, number))
    # Importing pathlib would take longer than everything else here.
    order = {
        "cwd": os.getcwd(),  # noqa: PTH109
        "env": dict(os.environ),
        "parent": os.getppid(),
        "executable": script,
        "argv": arguments[1:],
    }
    text = json.dumps(order).encode()
    streams = array.array("i", [0, 1, 2])
    connection.sendmsg([len(text).to_bytes(8, "big")], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, streams)])
    connection.sendall(text)
    _end_as(int(connection.recv(16) or signal.SIGKILL))


def _pass_on(connection: socket.socket, number: int) -> None:
    with suppress(OSError):
        connection.send(bytes([number]))


def _end_as(status: int) -> None:
    """End with a status as of os.waitpid."""
    code = os.waitstatus_to_exitcode(status)
    if code < 0:
        signal.signal(-code, signal.SIG_DFL) if -code != signal.SIGKILL else None
        os.kill(os.getpid(), -code)
    os._exit(code)


main()
