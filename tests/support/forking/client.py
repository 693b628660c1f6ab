"""A process that a fork server runs for this one: `python -I -S client.py DIRECTORY UNLESS SCRIPT PYTHON ARGUMENT...`.

UNLESS are names of variables, with commas between: with one of them the process is one of its own. SCRIPT is what the
process takes for its interpreter, PYTHON the real one, which runs whatever is no module of the trainer, and everything
once the server is gone. See server.py.
"""

import array
import json
import os
import signal
import socket
import sys
from contextlib import suppress

PASSED_ON = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1, signal.SIGUSR2)
LIGHT = ["-m", "sftjob_trainer", "prepare"]


def main() -> None:
    """Be that process, as far as whoever started it can see."""
    directory, unless, script, python, *arguments = sys.argv[1:]
    is_ours = len(arguments) > 1 and arguments[0] == "-m" and arguments[1].partition(".")[0] == "sftjob_trainer"
    is_forked = is_ours and not any(name in os.environ for name in unless.split(","))
    connection = socket.socket(socket.AF_UNIX)
    try:
        if not is_forked:
            raise ConnectionRefusedError
        connection.connect(f"{directory}/{'light' if arguments == LIGHT else 'full'}")
    except OSError:
        os.execv(python, [python, *arguments])
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: _pass_on(connection, number))
    # Importing pathlib would take longer than everything else here.
    order = {"cwd": os.getcwd(), "env": dict(os.environ), "executable": script, "argv": arguments[1:]}  # noqa: PTH109
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
