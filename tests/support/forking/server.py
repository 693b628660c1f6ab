"""Forks trainer processes that have the heavy libraries already: `python -I server.py DIRECTORY`, until stdin ends.

Importing them takes seconds of CPU, and a test run starts hundreds of trainers. Two processes listen: at
DIRECTORY/light without PyTorch and the libraries of Hugging Face, for Prepare, which may be online; at DIRECTORY/full
with all that a trainer imports, as the trainer would: offline, without trackers and bitsandbytes. Nothing of the
trainer itself is here. Everything else is as in a fresh process: arguments, environment, output, working directory,
exit code, signals, and the end of all it started.

Protocol: client.py sends the length and the text of a JSON object, with its three standard streams; then one byte for
each signal to pass on. The end of the connection kills. The answer is the status as of os.waitpid, in ASCII.
"""

import array
import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import struct
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

LIGHT: Final = (
    *("aiohttp", "dill", "fsspec", "httpx", "jinja2.sandbox", "multiprocess", "numpy", "pandas", "PIL.Image", "psutil"),
    *(
        "pyarrow.dataset",
        "pyarrow.parquet",
        "regex",
        "requests",
        "rich.console",
        "tokenizers",
        "tqdm",
        "xxhash",
        "yaml",
    ),
)
FULL: Final = (
    *("torch", "torch._dynamo", "torch._inductor.select_algorithm", "torch.distributed.fsdp"),
    *("torch.distributed.tensor", "torch.utils.tensorboard", "safetensors.torch"),
    *("transformers", "datasets", "accelerate", "peft", "trl.trainer.sft_trainer"),
    *("transformers.models.llama.modeling_llama", "transformers.models.qwen2.modeling_qwen2"),
)
HIDDEN: Final = ("wandb", "bitsandbytes")
"""A process that needs one of them is not to be forked."""
_PR_SET_CHILD_SUBREAPER: Final = 36
_SIZE_BYTES: Final = 8


def main() -> None:
    """Load, divide in two, listen."""
    directory = Path(sys.argv[1])
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for supervisors
    gc.disable()
    _load(LIGHT)
    if os.fork():
        _serve(directory / "light")
    else:
        os.environ.update(HF_HUB_OFFLINE="1", HF_HOME=str(directory / "hub"), HF_HUB_DISABLE_TELEMETRY="1")
        hidden: dict[str, Any] = dict.fromkeys(HIDDEN)
        sys.modules.update(hidden)
        _load(FULL)
        _serve(directory / "full")


def _load(modules: tuple[str, ...]) -> None:
    for name in modules:
        importlib.import_module(name)
    gc.freeze()  # so that a child's first search for garbage does not copy all memory


def _serve(path: Path) -> None:
    """Fork for each connection. Returns in the processes that have become a trainer and ended; others exit."""
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(f"{path}.new")
        listening.listen(64)
        path.with_name(f"{path.name}.new").rename(path)
        while listening in select.select([listening, 0], [], [])[0]:
            connection, _ = listening.accept()
            if os.fork() == 0:
                listening.close()
                break
            connection.close()
        else:
            return
    order, streams = _receive(connection)
    _supervise(connection, order, streams)


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    head, passed, _, _ = connection.recvmsg(_SIZE_BYTES, socket.CMSG_SPACE(3 * array.array("i").itemsize))
    streams = array.array("i")
    streams.frombytes(passed[0][2])
    left, text = int.from_bytes(head, "big"), b""
    while len(text) < left:
        text += connection.recv(left - len(text))
    order: dict[str, Any] = json.loads(text)
    return order, streams.tolist()


def _supervise(connection: socket.socket, order: dict[str, Any], streams: list[int]) -> None:
    """Start the trainer; pass signals on; kill what is left of it when it or the client has ended.

    The file that has the client's process id as its name holds the trainer's.
    """
    if ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, ctypes.c_ulong(1), 0, 0, 0) != 0:
        os._exit(1)
    woken, wakes = os.pipe()
    os.set_blocking(wakes, False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    signal.set_wakeup_fd(wakes)
    trainer = os.fork()
    if trainer == 0:
        signal.set_wakeup_fd(-1)
        for descriptor in (woken, wakes):
            os.close(descriptor)
        connection.close()
        _become(order, streams)
        return
    client, *_ = struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
    (Path(sys.argv[1]) / str(client)).write_text(str(trainer), encoding="utf-8")
    for descriptor in (0, 1, 2, *streams):
        os.close(descriptor)
    status = None
    while status is None:
        ready = select.select([connection, woken], [], [])[0]
        if connection in ready:
            numbers = connection.recv(64) or bytes([signal.SIGKILL])
            for number in numbers:
                os.kill(trainer, number)
            if signal.SIGKILL in numbers:
                break
        else:
            os.read(woken, 64)
            status = _ended(trainer)
    _kill_all()
    with suppress(OSError):
        connection.sendall(str(status).encode())
    os._exit(0)


def _ended(trainer: int) -> int | None:
    """The trainer's status once it has ended. Other children are collected, too."""
    with suppress(ChildProcessError):
        while (ended := os.waitpid(-1, os.WNOHANG)) != (0, 0):
            if ended[0] == trainer:
                return ended[1]
    return None


def _kill_all() -> None:
    """Kill what has come to this process as the subreaper, until nothing is left."""
    children = Path(f"/proc/self/task/{os.getpid()}/children")
    with suppress(ChildProcessError):
        while True:
            for child in children.read_text().split():
                with suppress(ProcessLookupError):
                    os.kill(int(child), signal.SIGKILL)
            os.waitpid(-1, 0)


def _become(order: dict[str, Any], streams: list[int]) -> None:
    """Turn into the trainer. Returns, or raises SystemExit, at its end."""
    os.setsid()
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(order["cwd"])
    os.environ.clear()
    os.environ.update(order["env"])
    given = order["env"].get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = [order["cwd"], *filter(None, given)]
    os.getppid = lambda: order["parent"]  # type: ignore[assignment] -- the number is all that anybody asks for
    sys.executable, sys.argv = order["executable"], order["argv"]
    sys.orig_argv = [order["executable"], "-m", *order["argv"]]
    if order["env"].get("PYTHONUNBUFFERED"):
        for output in (sys.stdout, sys.stderr):
            output.reconfigure(write_through=True)  # type: ignore[union-attr] -- both are text files here
    _set_threads(order["env"])
    gc.enable()
    with suppress(ModuleNotFoundError):
        importlib.import_module("sitecustomize")
    runpy.run_module(order["argv"][0], run_name="__main__", alter_sys=True)


def _set_threads(environ: dict[str, str]) -> None:
    """OpenMP has read its variable already."""
    if (torch := sys.modules.get("torch")) and "OMP_NUM_THREADS" in environ:
        torch.set_num_threads(int(environ["OMP_NUM_THREADS"]))


if __name__ == "__main__":
    main()
