"""The shim: what ends a container, and that nothing of it survives."""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sftjob_sandbox.node.containers.process import Command, Container, Exit, StartError, find_program
from support.clients.wait import DEADLINE_SECONDS, eventually
from support.fakes.node_cluster import Processes

PATH = "/usr/local/bin:/usr/bin:/bin"
linux_only = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc and prctl")


def command(tmp_path: Path, script: str, **fields: Any) -> Command:
    defaults: dict[str, Any] = {
        "argv": ["sh", "-c", script],
        "env": {"PATH": PATH, "SECRET": "value"},
        "cwd": tmp_path,
        "memory_limit_bytes": None,
        "poll_seconds": 0.05,
        "label": "ns/pod/container",
    }
    return Command(**defaults | fields)


async def start(tmp_path: Path, script: str, **fields: Any) -> Container:
    return await Container.start(command(tmp_path, script, **fields), tmp_path / "log")


def log_lines(tmp_path: Path) -> list[str]:
    return (tmp_path / "log").read_text().splitlines()


async def happens(condition: Callable[[], object]) -> None:
    async def holds() -> bool:
        return bool(condition())

    await eventually(holds, "it did not happen in time")


async def logged(tmp_path: Path, count: int = 1) -> list[str]:
    """Wait until the container has written so many lines."""
    await happens(lambda: (tmp_path / "log").exists() and len(log_lines(tmp_path)) >= count)
    return log_lines(tmp_path)


def about(pid: int, what: str) -> str:
    """What /proc says about a process."""
    return Path("/proc", str(pid), what).read_text()


def is_gone(pid: int) -> bool:
    """Whether the process has ended; a zombie whose parent is slow to collect it has."""
    try:
        return about(pid, "stat").rsplit(")", 1)[1].split()[0] in "ZX"
    except OSError:
        return True


@pytest.mark.parametrize(
    ("script", "code"),
    [("true", 0), ("exit 75", 75), ("kill -9 $$", 137), ("kill -TERM $$", 143), ("kill -SEGV $$", 139)],
)
async def test_the_exit_code_is_that_of_the_first_process(tmp_path: Path, script: str, code: int) -> None:
    assert await (await start(tmp_path, script)).wait() == Exit(code, out_of_memory=False)


async def test_it_gets_its_environment_directory_and_a_closed_input(tmp_path: Path) -> None:
    container = await start(tmp_path, 'echo "$SECRET"; pwd; cat; env | grep -c .')
    await container.wait()
    assert log_lines(tmp_path) == ["value", str(tmp_path), "3"]  # PATH, SECRET and the shell's own PWD


@linux_only
async def test_the_process_list_shows_which_container_it_is_but_no_environment(
    tmp_path: Path, processes: Processes
) -> None:
    container = await start(tmp_path, "echo ready; sleep 1000")
    await logged(tmp_path)
    lines = [about(pid, "cmdline") for pid in processes()]
    container.kill()
    await container.wait()
    assert any(line.endswith("\0ns/pod/container\0") for line in lines)
    assert not any("value" in line for line in lines)


async def test_terminate_asks_the_first_process_alone(tmp_path: Path) -> None:
    script = "trap 'echo first; exit 75' TERM; (trap 'echo second' TERM; sleep 1000) & echo ready; wait"
    container = await start(tmp_path, script)
    await logged(tmp_path)
    container.terminate()
    assert (await container.wait()).code == 75
    assert log_lines(tmp_path) == ["ready", "first"]


async def test_kill_ends_what_ignores_sigterm(tmp_path: Path) -> None:
    container = await start(tmp_path, "trap '' TERM; echo ready; while :; do sleep 1000; done")
    await logged(tmp_path)
    container.terminate()
    container.kill()
    assert (await container.wait()).code == 137


@linux_only
async def test_what_the_first_process_leaves_behind_is_killed_in_sessions_of_its_own_too(tmp_path: Path) -> None:
    script = (
        "sleep 1000 & echo $!; setsid sh -c 'echo $$; trap \"\" TERM HUP; sleep 1000' & while ! test -e go; do :; done"
    )
    container = await start(tmp_path, script)
    pids = [int(line) for line in await logged(tmp_path, 2)]
    (tmp_path / "go").touch()
    assert (await container.wait()).code == 0
    assert all(is_gone(pid) for pid in pids)


@linux_only
@pytest.mark.parametrize("victim", ["node", "shim"])
async def test_no_process_survives_a_kill_of_node_or_shim(tmp_path: Path, victim: str) -> None:
    script = "echo $$; setsid sh -c 'echo $$; sleep 1000' & trap '' TERM; while :; do sleep 1000; done"
    program = (
        "import asyncio, sys\n"
        "from pathlib import Path\n"
        "from sftjob_sandbox.node.containers.process import Command, Container\n"
        "async def main():\n"
        f"    argv = ['sh', '-c', {script!r}]\n"
        f"    command = Command(argv=argv, env={{'PATH': {PATH!r}}}, cwd=Path({str(tmp_path)!r}),\n"
        "        memory_limit_bytes=None, poll_seconds=1, label='x')\n"
        f"    container = await Container.start(command, Path({str(tmp_path)!r}) / 'log')\n"
        "    print((await container.wait()).code)\n"
        "asyncio.run(main())\n"
    )
    node = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stdout=asyncio.subprocess.PIPE)
    first, second = (int(line) for line in await logged(tmp_path, 2))
    shim_pid = int(about(first, "stat").rsplit(")", 1)[1].split()[1])
    os.kill(node.pid if victim == "node" else shim_pid, signal.SIGKILL)
    output, _ = await asyncio.wait_for(node.communicate(), DEADLINE_SECONDS)
    await happens(lambda: is_gone(first) and is_gone(shim_pid))
    if victim == "node":
        await happens(lambda: is_gone(second))
    else:  # nobody is left to find a process in a session of its own; the first one has died with the shim
        assert output == b"137\n"
        os.kill(second, signal.SIGKILL)


@linux_only
async def test_memory_beyond_the_limit_is_out_of_memory(tmp_path: Path) -> None:
    script = f"exec {sys.executable} -c 'x = bytearray(300_000_000); input()'"
    container = await start(tmp_path, script, memory_limit_bytes=100_000_000)
    assert await container.wait() == Exit(137, out_of_memory=True)


@linux_only
async def test_memory_shared_by_several_processes_counts_once(tmp_path: Path) -> None:
    code = "import os; x = bytearray(b'x') * 60_000_000; [os.fork() for _ in range(2)]; import time; time.sleep(0.3)"
    container = await start(tmp_path, f'exec {sys.executable} -c "{code}"', memory_limit_bytes=150_000_000)
    assert await container.wait() == Exit(0, out_of_memory=False)


async def test_giving_up_the_wait_kills_the_container(tmp_path: Path, processes: Processes) -> None:
    container = await start(tmp_path, "echo $$; sleep 1000")
    pid = int((await logged(tmp_path))[0])
    waiting = asyncio.create_task(container.wait())
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.wait([waiting])
    await happens(lambda: is_gone(pid))
    await happens(lambda: not processes())


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (["no-such-program"], 'exec: "no-such-program": executable file not found in $PATH: unknown'),
        (["/no/such/program"], 'exec: "/no/such/program": stat /no/such/program: no such file or directory: unknown'),
        (["/etc/passwd"], 'exec: "/etc/passwd": permission denied: unknown'),
        (["/etc"], 'exec: "/etc": is a directory: unknown'),
        ([], "no command specified"),
    ],
)
def test_a_program_that_can_not_be_run_is_reported_as_a_runtime_does(argv: list[str], why: str) -> None:
    with pytest.raises(StartError) as error:
        find_program(argv, {"PATH": PATH}, Path("/"))
    assert str(error.value).endswith(why)


async def test_a_file_that_the_kernel_refuses_ends_with_255(tmp_path: Path) -> None:
    program = tmp_path / "program"
    program.write_bytes(b"\x00not a program")
    program.chmod(0o755)
    container = await start(tmp_path, "", argv=[str(program)])
    assert (await container.wait()).code == 255
    assert log_lines(tmp_path) == [f"exec {program}: exec format error"]
