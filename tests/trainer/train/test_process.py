"""The Train stage as the process that a container runs: exit code, last word, live reports, signals."""

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sftjob_contract import layout, names
from sftjob_contract.codec import from_json, to_json
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.outcome import Outcome
from sftjob_contract.reports.progress import Activity
from sftjob_contract.run.config import RunConfig
from sftjob_trainer.run.checkpoints import CheckpointStore
from support.forking import python
from support.servers.progress_endpoint import ProgressEndpoint, progress_endpoint
from support.trainer.training import job, write_prepared

pytestmark = pytest.mark.slow

ARGUMENTS = ["-m", "sftjob_trainer", "train"]
NAMESPACE = ["unshare", "--user", "--map-root-user", "--mount"]


def variables(directory: Path, volume: Path, config: RunConfig) -> dict[str, str]:
    """The container's environment; its files lie in `directory`."""
    config_path = directory / "config.json"
    config_path.write_text(to_json(config))
    return {
        "PATH": os.environ["PATH"],
        "OMP_NUM_THREADS": "1",
        names.ENV_RUN_CONFIG: str(config_path),
        names.ENV_VOLUME: str(volume),
        names.ENV_TERMINATION_LOG: str(directory / "termination-log"),
    }


def last_word(directory: Path) -> Outcome:
    text = (directory / "termination-log").read_bytes()
    assert len(text) < names.TERMINATION_MESSAGE_LIMIT_BYTES
    return from_json(Outcome, text, ignore_unknown=False)


@pytest.fixture
def server(tmp_path: Path) -> Iterator[ProgressEndpoint]:
    with progress_endpoint(tmp_path) as endpoint:
        yield endpoint


@contextmanager
def started(environ: dict[str, str]) -> Iterator["subprocess.Popen[str]"]:
    process = subprocess.Popen(
        [python(), *ARGUMENTS], env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_a_trainer_that_is_told_to_stop_saves_says_so_and_asks_to_be_run_again(
    qwen2: Path, tmp_path: Path, server: ProgressEndpoint
) -> None:
    volume = tmp_path / "volume"
    config = job(qwen2, max_steps=100_000, logging_steps=1000)
    write_prepared(volume, config)
    (tmp_path / "token").write_text("secret-token")
    environ = {
        **variables(tmp_path, volume, config),
        names.ENV_PROGRESS_URL: server.url,
        names.ENV_PROGRESS_CA: str(server.ca),
        names.ENV_PROGRESS_TOKEN: str(tmp_path / "token"),
    }

    with started(environ) as process:
        first = server.next()
        training = server.wait_for(lambda progress: progress.activity is Activity.TRAINING and progress.step > 2)
        process.send_signal(signal.SIGTERM)
        out, err = process.communicate(timeout=120)
        last = server.wait_for(lambda progress: bool(progress.checkpoints))

    outcome = last_word(tmp_path)
    assert process.returncode == ExitCode.RETRY, err
    assert first.authorization == "Bearer secret-token"
    assert (first.progress.activity, first.progress.step) == (Activity.LOADING, 0)
    assert training.max_steps == 100_000
    assert (outcome.reason, outcome.exit_code) == (Reason.INTERRUPTED, ExitCode.RETRY)
    assert outcome.progress is not None
    assert outcome.progress.step >= training.step
    assert last.checkpoints == outcome.progress.checkpoints
    assert CheckpointStore(volume, keep=3).open().step == outcome.progress.step
    assert "stopped on request" in err
    assert "secret-token" not in out + err
    assert "step 1 of 100000, epoch 0.08: loss" in out
    assert "step 1 of 100000, epoch 0.08: loss" in (volume / layout.TRAIN_LOG).read_text()


def can_mount() -> bool:
    probe = [*NAMESPACE, "mount", "-t", "tmpfs", "tmpfs", "/mnt"]
    return (
        shutil.which("unshare") is not None and subprocess.run(probe, check=False, capture_output=True).returncode == 0
    )


@pytest.mark.skipif(not can_mount(), reason="a small volume can only be mounted where user namespaces are allowed")
def test_a_volume_that_is_really_full_ends_the_run_and_keeps_the_last_checkpoint(qwen2: Path, tmp_path: Path) -> None:
    prepared, volume, survived = tmp_path / "prepared-volume", tmp_path / "volume", tmp_path / "survived"
    volume.mkdir()
    config = job(qwen2, max_steps=6, save_every=2, keep=1)
    write_prepared(prepared, config)
    script = (
        f"mount -t tmpfs -o size=1m tmpfs {volume} && cp -r {prepared}/. {volume} && "
        f"{sys.executable} {' '.join(ARGUMENTS)}; code=$?; cp -r {volume} {survived}; exit $code"
    )

    command = [*NAMESPACE, "sh", "-c", script]
    environ = variables(tmp_path, volume, config)
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)

    outcome = last_word(tmp_path)
    assert done.returncode == ExitCode.INTERNAL, done.stderr
    assert outcome.reason is Reason.DISK_FULL
    assert outcome.message is not None
    assert "saving after step 4 failed (checkpoints/checkpoint-2 is the last good checkpoint)" in outcome.message
    assert "free of 1024Ki; write storage.size: " in outcome.message
    assert not list((survived / layout.CHECKPOINTS).glob(".staging*"))
    assert CheckpointStore(survived, keep=1).open().step == 2
