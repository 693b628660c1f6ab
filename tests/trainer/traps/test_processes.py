"""What the libraries do where several processes train together. Ours is in train/test_processes.py."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import pytest

from support.forking import python
from support.jobs.manifests import ROOT
from support.trainer import stock_process

TIMEOUT_SECONDS: Final = 120


def stock_pair(model: Path, output: Path, *options: str, stop: int) -> Sequence[tuple[int, str, str]]:
    """Exit code, stdout and stderr of two stock processes, the second of which gets SIGTERM after step `stop`."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [str(python()), "-m", stock_process.__name__, str(model), str(output), *options]
    pair = [
        subprocess.Popen(
            command,
            env={
                "PATH": os.environ["PATH"],
                "PYTHONPATH": str(ROOT / "tests"),
                "HF_HUB_OFFLINE": "1",
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": "2",
                "LOCAL_WORLD_SIZE": "2",
                "MASTER_ADDR": "127.0.0.1",
                "MASTER_PORT": str(port),
                "STOP_AT": str(stop * rank),
            },
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(2)
    ]
    try:
        told = [process.communicate(timeout=TIMEOUT_SECONDS) for process in pair]
    finally:
        for process in pair:
            process.kill()
    return [(process.returncode, out, err) for process, (out, err) in zip(pair, told, strict=True)]


@pytest.mark.slow
def test_two_stock_processes_without_use_cpu_each_believe_to_be_the_only_one(qwen2: Path, tmp_path: Path) -> None:
    pair = stock_pair(qwen2, tmp_path, "use_cpu=false", "max_steps=1", stop=0)

    assert [code for code, _, _ in pair] == [0, 0]
    assert [json.loads(out.splitlines()[0]) for _, out, _ in pair] == [[1, True], [1, True]]


@pytest.mark.slow
def test_of_two_stock_processes_one_that_is_asked_to_stop_and_the_other_wait_for_each_other(
    qwen2: Path, tmp_path: Path
) -> None:
    """One stands in a collective of its end, the other in one of the next step, for half an hour by default."""
    pair = stock_pair(qwen2, tmp_path, "enable_jit_checkpoint=true", "max_steps=100000", stop=2)

    assert [json.loads(out.splitlines()[0]) for _, out, _ in pair] == [[2, True], [2, False]]
    assert [code for code, _, _ in pair] == [1, 1]
    trains, ends = (err[err.index("Timeout (") :] for _, _, err in pair)
    assert "in training_step" in trains
    assert "in training_step" not in ends
    assert "distributed_c10d.py" in ends


@pytest.mark.slow
def test_a_launcher_ends_with_one_whatever_its_process_ends_with(tmp_path: Path) -> None:
    script = tmp_path / "script.py"
    script.write_text("raise SystemExit(75)\n")

    launched = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "1", str(script)],
        capture_output=True,
        text=True,
        check=False,
        timeout=TIMEOUT_SECONDS,
    )

    assert launched.returncode == 1, launched.stderr
    assert "exitcode  : 75" in launched.stderr
