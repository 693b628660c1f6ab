"""A trainer that the tests' fork server runs is, to whoever started it, one that Python itself runs."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from support.clients.wait import wait_until
from support.forking import NOT_FORKED, is_ready, write_python

PROBE = f"""
import json, os, signal, subprocess, sys, time
from pathlib import Path

print(sys.stdin.read(), sys.argv[1:], os.getcwd(), sys.path[:3], __name__, __spec__.name)
print(sorted((name, value) for name, value in os.environ.items() if name not in ("_", "{NOT_FORKED}")))
print("to stderr", file=sys.stderr)
exec(sys.argv[2])
"""


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The program, for which the package of the trainer is a probe that runs its second argument."""
    directory = tmp_path_factory.mktemp("forking")
    package = directory / "first" / "sftjob_trainer"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    (package / "__main__.py").write_text(PROBE, encoding="utf-8")
    write_python(directory / "python", str(directory / "first"), str(directory))
    wait_until(is_ready, "the fork server does not listen")
    return directory / "python"


def command(python: Path, program: str) -> list[str | Path]:
    return [python, "-m", "sftjob_trainer", "train", program]


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("pass", 0),
        ("sys.exit(3)", 3),
        pytest.param("sys.exit('a sentence')", 1, marks=pytest.mark.slow),
        pytest.param("raise ValueError('why')", 1, marks=pytest.mark.slow),
        pytest.param("os._exit(7)", 7, marks=pytest.mark.slow),
        pytest.param("os.kill(os.getpid(), signal.SIGTERM)", -signal.SIGTERM, marks=pytest.mark.slow),
        ("os.kill(os.getpid(), signal.SIGKILL)", -signal.SIGKILL),
        ("print(subprocess.run([sys.executable, '-c', 'print(5)'], capture_output=True).stdout)", 0),
        pytest.param("print([signal.getsignal(number) for number in (2, 13, 15, 17)])", 0, marks=pytest.mark.slow),
    ],
)
def test_a_forked_trainer_sees_and_leaves_what_a_fresh_one_does(
    program: str, code: int, python: Path, tmp_path: Path
) -> None:
    def run(**environ: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            command(python, program),
            input="to stdin",
            env={"PATH": os.environ["PATH"], "PYTHONPATH": "/elsewhere", "A": "b", **environ},
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )

    forked, fresh = run(), run(**{NOT_FORKED: "1"})
    assert (forked.returncode, forked.stdout) == (fresh.returncode, fresh.stdout)
    assert forked.stderr.splitlines()[:1] + forked.stderr.splitlines()[-1:] == (
        fresh.stderr.splitlines()[:1] + fresh.stderr.splitlines()[-1:]
    )
    assert forked.returncode == code


LIVES = """
signal.signal({number}, lambda number, _: os.write(1, b"got it\\n"))
other = subprocess.Popen(["sleep", "1000"], start_new_session=True)
print(json.dumps([os.getpid(), other.pid]), flush=True)
while True: time.sleep(1000)
"""


def test_signals_reach_a_forked_trainer_and_nothing_of_it_is_left_when_it_is_killed(python: Path) -> None:
    program = LIVES.format(number=int(signal.SIGUSR1))
    with subprocess.Popen(command(python, program), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as client:
        assert client.stdout is not None
        lines = [client.stdout.readline() for _ in range(3)]
        pids: list[int] = json.loads(lines[-1])
        client.send_signal(signal.SIGUSR1)
        lines.append(client.stdout.readline())
        client.kill()
    assert client.pid not in pids
    assert lines[-1] == b"got it\n"
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids), "it lives on")


def test_what_is_no_trainer_is_left_to_python(python: Path) -> None:
    program = "import os, sys; print(os.getppid(), sys.executable)"
    done: Any = subprocess.run([python, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == [str(os.getpid()), sys.executable]
