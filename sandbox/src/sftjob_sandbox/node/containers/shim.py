"""Stands between the node and the processes of one container; run as a script, standard library only.

It gives a container what a PID namespace would: when its first process ends, or when the node is gone for whatever
reason (SIGKILL included), every process that it left behind is killed, those in sessions of their own too.

- The node holds the other end of the control socket; end of file there means that the node is gone.
- On Linux the shim is the subreaper of its descendants, so none of them can slip away to PID 1, and the first process
  dies with the shim (PR_SET_PDEATHSIG). Elsewhere (macOS) only the process group of the first process is killed: a
  program that makes a new session survives.
- On Linux the memory of all processes together is held against the container's limit.

Protocol: the node writes one line of JSON {"path", "argv", "env", "cwd", "memoryLimitBytes", "pollSeconds"}, the shim
answers {"pid"}; then the node writes TERMINATE or KILL, any number of times; at the end the shim writes
{"exitCode", "outOfMemory"} and ends. Exit codes follow the shell: 128 + N for signal N.

Every container waits for this file's imports: socket and pathlib would more than double them, so it uses neither.
"""

import ctypes
import json
import os
import select
import signal
import sys
import time
from typing import Any, Final, NoReturn

TERMINATE: Final = b"T"
KILL: Final = b"K"

_PR_SET_PDEATHSIG: Final = 1
_PR_SET_CHILD_SUBREAPER: Final = 36
_RETRY_SECONDS: Final = 0.05
_BLOCK_BYTES: Final = 1 << 16
_EXEC_FAILED: Final = 255  # what runc ends with when the kernel refuses the file
_LINUX: Final = sys.platform == "linux"


class Shim:
    """The processes of one container."""

    def __init__(self, control: int, order: dict[str, Any]) -> None:
        self._control = control
        self._order = order
        self._limit_bytes: int | None = order["memoryLimitBytes"] if _LINUX else None
        self._next_look = 0.0
        self._out_of_memory = False
        self._exit_code: int | None = None
        self._pid = 0
        self._wakeup, wakeup_end = os.pipe()
        os.set_blocking(self._wakeup, False)
        os.set_blocking(wakeup_end, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(wakeup_end, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)

    def run(self) -> dict[str, Any]:
        """Run the container to its end; its exit code, and whether it ran out of memory."""
        if _LINUX:
            _prctl(_PR_SET_CHILD_SUBREAPER, 1)
        running, running_end = os.pipe()  # closed by exec: a signal sent before that would be lost
        self._pid = os.fork()
        if self._pid == 0:
            _become(self._order)
        os.close(running_end)
        os.read(running, 1)
        os.close(running)
        _write(self._control, {"pid": self._pid})
        while self._running():
            self._obey()
            if self._over_limit():
                self._out_of_memory = True
                self._kill_all()
        self._kill_all()
        return {"exitCode": self._exit_code, "outOfMemory": self._out_of_memory}

    def _running(self) -> bool:
        self._reap()
        return self._exit_code is None

    def _obey(self) -> None:
        if self._control not in self._wait(self._order["pollSeconds"] if self._limit_bytes else None, self._control):
            return
        words = os.read(self._control, _BLOCK_BYTES)
        if not words or KILL in words:
            self._kill_all()
        elif self._running():
            os.kill(self._pid, signal.SIGTERM)

    def _wait(self, timeout_seconds: float | None, *others: int) -> list[int]:
        """Wait until a child ends or one of `others` can be read; which of them can."""
        ready: list[int] = select.select([self._wakeup, *others], [], [], timeout_seconds)[0]
        if self._wakeup in ready:
            os.read(self._wakeup, _BLOCK_BYTES)
        return ready

    def _over_limit(self) -> bool:
        if not self._limit_bytes or time.monotonic() < self._next_look:
            return False
        self._next_look = time.monotonic() + self._order["pollSeconds"]
        return exceeds(descendants(os.getpid()), self._limit_bytes)

    def _reap(self) -> bool:
        """Collect all that have ended; False when no child is left at all."""
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return False
            if pid == 0:
                return True
            if pid == self._pid:
                code = os.waitstatus_to_exitcode(status)
                self._exit_code = code if code >= 0 else 128 - code

    def _kill_all(self) -> None:
        _kill(-self._pid)
        while self._reap():
            if self._exit_code is None:
                _kill(self._pid)
            for pid in descendants(os.getpid()):
                _kill(pid)
            self._wait(_RETRY_SECONDS)


def descendants(root: int) -> list[int]:
    """Process ids of all descendants of `root`; none where there is no /proc."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc") if _LINUX else ():
        if entry.name.isdigit() and (stat := _read(f"/proc/{entry.name}/stat")):
            parent = int(stat.rsplit(b")", 1)[1].split()[1])
            children.setdefault(parent, []).append(int(entry.name))
    found, rest = [], [root]
    while rest:
        below = children.get(rest.pop(), [])
        found += below
        rest += below
    return found


def exceeds(pids: list[int], limit_bytes: int) -> bool:
    """Whether these processes hold more anonymous and shared memory, a page that several of them share counted once.

    Counting shared pages once takes the kernel long, so it is asked only if counting them several times is too much.
    """
    if _sum_bytes(pids, "status", (b"RssAnon:", b"RssShmem:")) <= limit_bytes:
        return False
    return _sum_bytes(pids, "smaps_rollup", (b"Pss_Anon:", b"Pss_Shmem:")) > limit_bytes


def _sum_bytes(pids: list[int], file: str, fields: tuple[bytes, ...]) -> int:
    lines = (line.split() for pid in pids for line in _read(f"/proc/{pid}/{file}").splitlines())
    return sum(int(words[1]) * 1024 for words in lines if words and words[0] in fields)


def _become(order: dict[str, Any]) -> NoReturn:
    """In the child: turn into the container's first process."""
    try:
        if _LINUX:
            _prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD, signal.SIGPIPE, signal.SIGXFSZ):
            signal.signal(number, signal.SIG_DFL)
        os.chdir(order["cwd"])
        os.execve(order["path"], order["argv"], order["env"])  # noqa: S606 -- running it is the purpose
    except OSError as error:
        os.write(2, f"exec {order['path']}: {(error.strerror or '').lower()}\n".encode())
    finally:
        os._exit(_EXEC_FAILED)


def _kill(pid: int) -> None:
    try:
        os.kill(pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError):
        return  # it has just ended; for a group of zombies macOS raises PermissionError


def _prctl(option: int, value: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(option, ctypes.c_ulong(value), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


def _read(path: str) -> bytes:
    """Content of a file below /proc; empty when its process has just ended."""
    content = b""
    try:
        file = os.open(path, os.O_RDONLY)
        try:
            while block := os.read(file, _BLOCK_BYTES):
                content += block
        finally:
            os.close(file)
    except OSError:
        return b""
    return content


def _write(control: int, message: dict[str, Any]) -> None:
    try:
        os.write(control, json.dumps(message).encode() + b"\n")
    except OSError:
        return  # the node is gone


def _read_order(control: int) -> dict[str, Any]:
    line = b""
    while not line.endswith(b"\n"):
        part = os.read(control, _BLOCK_BYTES)
        if not part:
            sys.exit("the node went away before it said what to run")
        line += part
    order: dict[str, Any] = json.loads(line)
    return order


def main() -> None:
    """Serve the control socket whose file descriptor is the first argument."""
    control = int(sys.argv[1])
    os.set_inheritable(control, False)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    _write(control, Shim(control, _read_order(control)).run())


if __name__ == "__main__":
    main()
