"""The local stack: an emulated Kubernetes API server with one node, and the operator, each in a separate process.

The demo and the integration tests use it as `with Stack(directory) as stack:`; `make sandbox` keeps one running. All
its files are stored below the directory.
"""

import contextlib
import fcntl
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

REPOSITORY: Final = Path(__file__).resolve().parents[3]
DEFINITION: Final = REPOSITORY / "crds" / "sftjobs.yaml"
DATA: Final = REPOSITORY / ".sandbox"
"""Directory of `make sandbox` and `make demo`."""
IMAGE: Final = "sftjob-trainer:local"
"""Name of the image on the node: this Python environment."""
OPERATOR_COMMAND: Final = (sys.executable, "-m", "sftjob_operator")
START_SECONDS: Final = 60.0
STOP_SECONDS: Final = 30.0
"""The node grants its Pods a grace period, so stopping may take a while."""
POLL_SECONDS: Final = 0.05


class StackError(RuntimeError):
    """A process of the stack did not start or has died; the message names it and ends with its log."""


class Stack:
    """Sandbox and operator, started on entry and stopped on exit, whatever happens in between.

    With `operator=False`, entry starts the sandbox alone.
    """

    def __init__(self, data: Path, *, gpus: int = 0, progress_interval_seconds: int = 2, operator: bool = True) -> None:
        self.data = data.resolve()
        self.kubeconfig = self.data / "kubeconfig"
        self.sandbox_log = self.data / "logs" / "sandbox.log"
        self.operator_log = self.data / "logs" / "operator.log"
        self._gpus = gpus
        self._with_operator = operator
        self._interval_seconds = progress_interval_seconds
        self._progress_port = free_port()
        self._liveness_port = free_port()
        self._metrics_port = free_port()
        self._sandbox: subprocess.Popen[bytes] | None = None
        self._operator: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None

    def __enter__(self) -> Self:
        try:
            self.start_sandbox()
            if self._with_operator:
                self.start_operator()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def volume(self, claim: str, namespace: str = "default") -> Path:
        """Directory of a PersistentVolumeClaim."""
        return self.data / "volumes" / namespace / claim

    def start_sandbox(self) -> None:
        """Start the API server and its node without data from an earlier run, and wait until it responds."""
        self.sandbox_log.parent.mkdir(parents=True, exist_ok=True)
        self._take_directory()
        self.kubeconfig.unlink(missing_ok=True)
        self._sandbox = _start(self.sandbox_command(), self.sandbox_log, {})
        _wait("the sandbox", self._sandbox, self.sandbox_log, self.kubeconfig.exists)

    def sandbox_command(self) -> list[str]:
        """Command that starts the API server and its node."""
        command = [sys.executable, "-m", "sftjob_sandbox", "up", "--fresh", "--data", str(self.data)]
        command += ["--crd", str(DEFINITION), "--image", f"{IMAGE}={self.programs()}"]
        return [*command, "--gpus", str(self._gpus)]

    def programs(self) -> Path:
        """Directory with the programs of the trainer image."""
        return Path(sys.executable).parent

    @property
    def metrics_url(self) -> str:
        """Scrape URL for Prometheus."""
        return f"http://127.0.0.1:{self._metrics_port}/metrics"

    @property
    def operator_pid(self) -> int:
        """Process id of the running operator.

        Raises:
            StackError: it is not running.
        """
        if self._operator is None:
            raise StackError("the operator is not running")
        return self._operator.pid

    @property
    def sandbox_pid(self) -> int:
        """Process id of the running sandbox.

        Raises:
            StackError: it is not running.
        """
        if self._sandbox is None:
            raise StackError("the sandbox is not running")
        return self._sandbox.pid

    def start_operator(self) -> None:
        """Start the operator, always with the same settings, and wait until it responds."""
        self._operator = _start(OPERATOR_COMMAND, self.operator_log, self.operator_settings())
        _wait("the operator", self._operator, self.operator_log, self._operator_answers)

    def operator_settings(self) -> dict[str, str]:
        """The environment variables that configure the operator."""
        return {
            "KUBECONFIG": str(self.kubeconfig),
            "SFTJOB_TRAINER_IMAGE": IMAGE,
            "SFTJOB_PROGRESS_ADDRESS": f"127.0.0.1:{self._progress_port}",
            "SFTJOB_PROGRESS_URL": f"https://127.0.0.1:{self._progress_port}",
            "SFTJOB_PROGRESS_TLS_DIR": str(self.data / "progress-tls"),
            "SFTJOB_LEASE": "default/sftjob-operator",
            "SFTJOB_POD_NAME": "sftjob-operator",
            "SFTJOB_PROGRESS_INTERVAL_SECONDS": str(self._interval_seconds),
            "SFTJOB_LIVENESS_ADDRESS": f"127.0.0.1:{self._liveness_port}",
            "SFTJOB_METRICS_ADDRESS": f"127.0.0.1:{self._metrics_port}",
        }

    def kill_operator(self) -> None:
        """Kill the operator as in a crash (SIGKILL)."""
        if self._operator is not None:
            self._operator.kill()
            self._operator.wait()
            self._operator = None

    def stop_operator(self) -> None:
        """Stop the operator as in an upgrade (SIGTERM), and wait for its end."""
        operator, self._operator = self._operator, None
        _stop(operator)

    def check(self) -> None:
        """Check that both processes are alive.

        Raises:
            StackError: one of them has ended.
        """
        for name, process, log in (
            ("the sandbox", self._sandbox, self.sandbox_log),
            ("the operator", self._operator, self.operator_log),
        ):
            if process is not None and process.poll() is not None:
                raise StackError(_gone(name, process, log))

    def stop(self) -> None:
        """Stop both processes, the operator first; the sandbox stops its Pods. Does nothing the second time."""
        sandbox, self._sandbox = self._sandbox, None
        self.stop_operator()
        _stop(sandbox)
        lock, self._lock = self._lock, None
        if lock is not None:
            os.close(lock)

    def _take_directory(self) -> None:
        """Lock the directory until this stack stops: the sandbox starts by deleting its content."""
        if self._lock is not None:
            return
        lock = os.open(self.data / "lock", os.O_CREAT | os.O_RDWR, 0o600)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(lock)
            raise StackError(
                f"another stack (make sandbox, make demo) runs in {self.data}: stop it first, or name another directory"
            ) from None
        self._lock = lock

    def _operator_answers(self) -> bool:
        return is_alive(self.operator_settings())


def is_alive(settings: Mapping[str, str]) -> bool:
    """Whether an operator with these settings answers its liveness probe."""
    try:
        with urllib.request.urlopen(f"http://{settings['SFTJOB_LIVENESS_ADDRESS']}/healthz", timeout=1) as answer:
            return bool(answer.status == 200)
    except OSError:
        return False


def free_port() -> int:
    """A port of the loopback interface that is currently free."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def log_end(log: Path, lines: int = 20) -> str:
    """The last lines of a log."""
    with contextlib.suppress(FileNotFoundError):
        return "\n".join(log.read_text(encoding="utf-8", errors="replace").splitlines()[-lines:])
    return "(no log)"


def end_on_signals() -> None:
    """Make SIGTERM and SIGHUP end this program like Ctrl-C, so that `with` blocks clean up."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)


def _start(command: Sequence[str], log: Path, settings: dict[str, str]) -> subprocess.Popen[bytes]:
    """Start a process that does not receive the terminal's Ctrl-C: `stop` ends it, in the right order."""
    with log.open("ab") as output:
        return subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env={**os.environ, **settings, "PYTHONUNBUFFERED": "1"},
            cwd=REPOSITORY,
            start_new_session=True,
        )


def _wait(name: str, process: subprocess.Popen[bytes], log: Path, ready: Callable[[], bool]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while not ready():
        if process.poll() is not None:
            raise StackError(_gone(name, process, log))
        if time.monotonic() > deadline:
            raise StackError(f"{name} is not ready after {START_SECONDS:.0f} s; its log ends with:\n{log_end(log)}")
        time.sleep(POLL_SECONDS)


def _stop(process: subprocess.Popen[bytes] | None) -> None:
    if process is None:
        return
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _gone(name: str, process: subprocess.Popen[bytes], log: Path) -> str:
    return f"{name} ended with exit code {process.returncode}; its log ends with:\n{log_end(log)}"
