"""The process: exit codes, the termination log, signals, and what must never be printed."""

import ctypes
import json
import logging
import os
import shutil
import signal
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from sftjob_contract import layout
from sftjob_contract.codec import from_json, to_json
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import (
    ENV_HUB_TOKEN,
    ENV_RUN_CONFIG,
    ENV_TERMINATION_LOG,
    ENV_VOLUME,
    TRAINER_COMMAND,
    Stage,
)
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.outcome import Outcome
from sftjob_contract.run.config import RunConfig
from sftjob_trainer.__main__ import run
from sftjob_trainer.output.prepared import read_stats
from sftjob_trainer.process import termination
from sftjob_trainer.process.environment import ENV_HUB_ENDPOINT
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.libraries import library_variables
from sftjob_trainer.process.redaction import Redacted, secrets_in
from support.faults import DIRECTORY, faulty, signal_in
from support.forking import python
from support.servers.hub import Hub
from support.trainer.entry import ending
from support.trainer.preparing import Workbench
from support.trainer.tiny import held_out_fraction, run_config

SECRET = "hf_never_to_be_seen"
DEADLINE_SECONDS = 60


class Container:
    """One process of the trainer, with a volume and a termination log."""

    def __init__(self, root: Path, config: RunConfig | str, **environ: str) -> None:
        self.log = root / "termination-log"
        self.environ = {
            **{key: value for key, value in os.environ.items() if key not in (ENV_HUB_TOKEN, ENV_HUB_ENDPOINT)},
            ENV_RUN_CONFIG: str(root / "config.json"),
            ENV_VOLUME: str(root / "volume"),
            ENV_TERMINATION_LOG: str(self.log),
            **environ,
        }
        (root / "volume").mkdir(exist_ok=True)
        text = config if isinstance(config, str) else to_json(config)
        (root / "config.json").write_text(text, encoding="utf-8")

    def start(self, *arguments: str, through: Sequence[str] = ()) -> "subprocess.Popen[str]":
        """Start a fresh process, which lists its imports. `through` is a command that starts another."""
        return self._started([*through, sys.executable, "-X", "importtime"], *arguments)

    def fork(self, stage: Stage) -> "subprocess.Popen[str]":
        """Start a process without the seconds that its imports take."""
        return self._started([str(python())], stage)

    def _started(self, interpreter: Sequence[str], *arguments: str) -> "subprocess.Popen[str]":
        command = [*interpreter, *TRAINER_COMMAND[1:], *arguments]
        return subprocess.Popen(command, env=self.environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    @property
    def outcome(self) -> Outcome:
        return from_json(Outcome, self.log.read_bytes(), ignore_unknown=False)


def imported(stderr: str) -> set[str]:
    """Top-level packages imported, from the output of -X importtime."""
    lines = [line for line in stderr.splitlines() if line.startswith("import time:")]
    return {line.rpartition("|")[2].strip().partition(".")[0] for line in lines}


def said(stderr: str) -> str:
    """What was written to stderr besides the import times."""
    return "\n".join(line for line in stderr.splitlines() if not line.startswith("import time:"))


def test_preparing_from_a_hub_with_a_token_ends_with_zero_and_tells_it_to_nobody(bench: Workbench) -> None:
    with Hub(tokens=frozenset({SECRET})) as hub:
        files = {path.name: path.read_bytes() for path in bench.model.iterdir()}
        hub.commit("model", "org/tiny", files, private=True)
        hub.commit("dataset", "org/corpus", {"train.jsonl": b'{"text": "a b"}\n' * 4}, private=True)
        config = bench.config("hf://org/corpus/train.jsonl", model="hf://org/tiny", packing=True)
        container = Container(bench.root, config, **{ENV_HUB_ENDPOINT: hub.url, ENV_HUB_TOKEN: SECRET})
        process = container.start("prepare")
        stdout, stderr = process.communicate(timeout=DEADLINE_SECONDS)
        assert {request.token for request in hub.requests} == {SECRET}
    assert process.returncode == ExitCode.DONE, said(stderr)
    assert container.outcome.exit_code is ExitCode.DONE
    assert container.outcome.prepared is not None
    assert container.outcome.prepared.rows == 4
    assert "[4/4] prepared 1 sequences" in stdout
    assert said(stderr) == ""
    written = [path.read_bytes() for path in bench.volume.rglob("*") if path.is_file()]
    assert all(SECRET not in text for text in (stdout, stderr, container.log.read_text()))
    assert all(SECRET.encode() not in content for content in written)
    assert "transformers" in imported(stderr)
    assert not {"torch", "peft", "accelerate", "bitsandbytes"} & imported(stderr)


def test_a_token_that_is_refused_is_not_repeated(bench: Workbench) -> None:
    with Hub() as hub:
        config = bench.config("/nowhere.jsonl", model="hf://org/tiny")
        container = Container(bench.root, config, **{ENV_HUB_ENDPOINT: hub.url, ENV_HUB_TOKEN: SECRET})
        process = container.fork(Stage.PREPARE)
        stdout, stderr = process.communicate(timeout=DEADLINE_SECONDS)
    sentence = "hf://org/tiny cannot be read: the hub does not accept the token"
    assert process.returncode == ExitCode.NOT_FOUND
    assert said(stderr) == f"prepare failed: AccessDenied: {sentence}"
    assert (container.outcome.reason, container.outcome.message) == (Reason.ACCESS_DENIED, sentence)
    assert all(SECRET not in text for text in (stdout, stderr, container.log.read_text()))


@pytest.mark.parametrize("stage", list(Stage))
def test_an_invalid_config_ends_the_stage_before_anything_heavy_is_imported(bench: Workbench, stage: Stage) -> None:
    container = Container(bench.root, "{}")
    process = container.start(stage)
    _, stderr = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == ExitCode.INVALID
    assert said(stderr) == f"{stage} failed: ConfigInvalid: run config: version is missing"
    assert container.outcome.stage is stage
    assert container.outcome.reason is Reason.CONFIG_INVALID
    assert not {"torch", "transformers", "trl", "datasets", "pyarrow", "numpy", "huggingface_hub"} & imported(stderr)


def test_bad_data_is_told_on_stderr_and_in_the_outcome(bench: Workbench) -> None:
    container = Container(bench.root, bench.config(bench.write("d.jsonl", [{"text": "a"}, {"text": 1}])))
    process = container.fork(Stage.PREPARE)
    _, stderr = process.communicate(timeout=DEADLINE_SECONDS)
    sentence = 'd.jsonl:2: "text" must be text, not a number; dataset.onInvalidRow: Skip leaves such rows out'
    assert process.returncode == ExitCode.INVALID
    assert said(stderr) == f"prepare failed: DataInvalid: {sentence}"
    assert (container.outcome.reason, container.outcome.message) == (Reason.DATA_INVALID, sentence)


def test_a_stop_request_ends_preparation_at_once_and_asks_for_a_retry(bench: Workbench) -> None:
    with Hub() as hub:
        hub.open.clear()
        config = bench.config("/nowhere.jsonl", model="hf://org/tiny")
        container = Container(bench.root, config, **{ENV_HUB_ENDPOINT: hub.url})
        process = container.fork(Stage.PREPARE)
        assert hub.asked.wait(DEADLINE_SECONDS)
        process.send_signal(signal.SIGTERM)
        _, stderr = process.communicate(timeout=5)
    assert process.returncode == ExitCode.RETRY
    assert container.outcome.exit_code is ExitCode.RETRY
    assert container.outcome.reason is Reason.INTERRUPTED
    assert container.outcome.message == "prepare was stopped (SIGTERM)"
    assert said(stderr) == "prepare was stopped (SIGTERM)"


@pytest.mark.slow
@pytest.mark.parametrize(
    ("function", "whole"),
    [
        pytest.param("_save", set(), id="before the training rows are written"),
        pytest.param("sync_tree", set(), id="while they are"),
        pytest.param("save_questions", {"train", "evaluation"}, id="when all rows are written"),
        pytest.param("_stats", {"train", "evaluation"}, id="before the last word"),
    ],
)
def test_what_a_stop_leaves_half_prepared_is_not_trained_on_and_the_next_attempt_goes_on(
    bench: Workbench, function: str, whole: set[str]
) -> None:
    data = bench.write("d.jsonl", [{"text": f"open {number}"} for number in range(40)])
    config = bench.config(data, held_out=held_out_fraction(0.2))
    undisturbed = Workbench(bench.root / "undisturbed", bench.model)
    undisturbed.root.mkdir()
    expected = undisturbed.run(config)
    faults = faulty(signal_in(f"sftjob_trainer.prepare.{function}"))
    container = Container(bench.root, config, PYTHONPATH=str(DIRECTORY), **faults)

    process = container.fork(Stage.PREPARE)
    _, stderr = process.communicate(timeout=DEADLINE_SECONDS)

    assert process.returncode == ExitCode.RETRY, said(stderr)
    assert container.outcome.message == "prepare was stopped (SIGTERM)"
    assert not (bench.volume / layout.PREPARED_STATS).exists()
    assert whole <= {path.name for path in (bench.volume / layout.PREPARED).iterdir()}
    with pytest.raises(StageError, match="the Prepare stage must run first"):
        read_stats(bench.volume)

    assert bench.run(config) == expected
    for part in (layout.PREPARED_TRAIN, layout.PREPARED_EVALUATION):
        assert bench.sequences(part) == undisturbed.sequences(part)
    left = [{path.name for path in (side.volume / layout.PREPARED).iterdir()} for side in (bench, undisturbed)]
    assert left[0] == left[1]


@pytest.mark.parametrize("arguments", [(), ("serve",), ("prepare", "train")])
def test_an_unknown_stage_is_told_how_to_start_one(bench: Workbench, arguments: tuple[str, ...]) -> None:
    container = Container(bench.root, "{}")
    process = container.start(*arguments)
    _, stderr = process.communicate(timeout=DEADLINE_SECONDS)
    assert process.returncode == ExitCode.INVALID
    assert said(stderr) == "usage: python -m sftjob_trainer prepare|train|publish"


@pytest.fixture
def environ(bench: Workbench) -> dict[str, str]:
    """The environment of a stage that runs in this process, whose PyTorch stays."""
    import torch  # noqa: F401 -- loaded already, so that preparing does not hide it from this process

    config = bench.config(bench.write("d.jsonl", [{"text": "a"}]))
    return Container(bench.root, config).environ


RAISED = [
    (
        ValueError("something odd"),
        ExitCode.INTERNAL,
        Reason.INTERNAL_ERROR,
        "prepare ended by an unexpected ValueError: something odd",
    ),
    (MemoryError(), ExitCode.INTERNAL, Reason.HOST_OUT_OF_MEMORY, "prepare ran out of memory; raise resources.memory"),
    (
        OSError(28, "No space left on device"),
        ExitCode.INTERNAL,
        Reason.DISK_FULL,
        "the volume is full: prepare could not write; the volume has 40Gi free of 100Gi; write a larger storage.size",
    ),
]


def test_an_unexpected_error_is_told_with_its_type_and_place(
    environ: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*_: object) -> None:
        raise ValueError("something odd")

    monkeypatch.setattr("sftjob_trainer.prepare.prepare", fails)
    line = fails.__code__.co_firstlineno + 1
    assert run(Stage.PREPARE, environ).fault == f"ValueError at test_main.py:{line} in fails"


@pytest.mark.parametrize(("error", "code", "reason", "sentence"), RAISED)
def test_whatever_is_raised_becomes_an_outcome(
    environ: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
    error: Exception,
    code: ExitCode,
    reason: Reason,
    sentence: str,
) -> None:
    def broken(*_: Any) -> Outcome:
        raise error

    monkeypatch.setattr("sftjob_trainer.prepare.prepare", broken)
    monkeypatch.setattr("shutil.disk_usage", lambda _path: SimpleNamespace(free=40 << 30, total=100 << 30))
    ended = run(Stage.PREPARE, environ)
    assert (ended.stage, ended.exit_code, ended.reason, ended.message) == (Stage.PREPARE, code, reason, sentence)


def test_training_is_dispatched(environ: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sftjob_trainer.train.train", lambda _config, _environment: termination.succeeded(Stage.TRAIN))
    assert run(Stage.TRAIN, environ).stage is Stage.TRAIN


def test_libraries_are_told_what_to_do_before_they_are_imported(environ: dict[str, str]) -> None:
    assert run(Stage.PREPARE, environ).stage is Stage.PREPARE
    assert environ["HF_HOME"] == f"{environ[ENV_VOLUME]}/cache"
    assert environ["HF_HUB_OFFLINE"] == "1"


@pytest.mark.parametrize(
    ("stage", "model", "dataset", "offline"),
    [
        (Stage.PREPARE, "/model", "pvc://data/d.jsonl", "1"),
        (Stage.PREPARE, "hf://org/model", "/d.jsonl", "0"),
        (Stage.PREPARE, "/model", "hf://org/data/d.jsonl", "0"),
        (Stage.PREPARE, "s3://bucket/model", "https://example.com/d.jsonl", "1"),
        (Stage.TRAIN, "hf://org/model", "hf://org/data/d.jsonl", "1"),
    ],
)
def test_libraries_go_online_only_to_fetch_from_a_hub(stage: Stage, model: str, dataset: str, offline: str) -> None:
    variables = library_variables(stage, run_config(model=model, dataset=dataset), Path("/volume"))
    assert variables["HF_HUB_OFFLINE"] == offline


def test_a_secret_in_a_traceback_is_not_logged() -> None:
    error = ValueError(f"bad header: Bearer {SECRET}")
    record = logging.LogRecord("x", logging.ERROR, "x.py", 1, "sent %s", (SECRET,), (ValueError, error, None))
    text = Redacted({ENV_HUB_TOKEN: SECRET}).format(record)
    assert text.startswith("sent [HF_TOKEN]\n")
    assert text.endswith("ValueError: bad header: Bearer [HF_TOKEN]")


@pytest.mark.parametrize(
    ("name", "value", "hidden"),
    [
        ("HF_TOKEN", SECRET, True),
        ("WANDB_API_KEY", SECRET, True),
        ("MLFLOW_TRACKING_PASSWORD", SECRET, True),
        ("MLFLOW_TRACKING_TOKEN", SECRET, True),
        ("AWS_SECRET_ACCESS_KEY", SECRET, True),
        ("AWS_SESSION_TOKEN", SECRET, True),
        ("MLFLOW_TRACKING_USERNAME", "a-user-name", False),
        ("SFTJOB_PROGRESS_TOKEN", "/var/run/secrets/sftjob/token", False),
        ("HF_TOKEN", "", False),
        ("MY_TOKEN", "short", False),
    ],
)
def test_secrets_are_known_by_what_variables_are_called(name: str, value: str, hidden: bool) -> None:
    assert secrets_in({name: value}) == ({name: value} if hidden else {})


def test_a_termination_log_that_can_not_be_written_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    termination.write_outcome(termination.succeeded(Stage.PREPARE), tmp_path / "none" / "log")
    assert "the outcome could not be written to" in caplog.text


def test_the_outcome_replaces_what_the_log_held(tmp_path: Path) -> None:
    log = tmp_path / "log"
    log.write_text("x" * 9999)
    termination.write_outcome(termination.succeeded(Stage.PREPARE), log)
    assert json.loads(log.read_text())["exitCode"] == 0


RIGHTS_OVER_FILES = (1 << 1) | (1 << 2)
"""CAP_DAC_OVERRIDE and CAP_DAC_READ_SEARCH, see capabilities(7)."""


@contextmanager
def as_anybody() -> Iterator[None]:
    """Take from this thread, for a while, root's right to read and write whatever it likes."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = (ctypes.c_uint32 * 2)(0x20080522, 0)
    held, less = (ctypes.c_uint32 * 6)(), (ctypes.c_uint32 * 6)()
    for found in (held, less):
        assert libc.capget(header, found) == 0
    less[0] &= ~RIGHTS_OVER_FILES
    assert libc.capset(header, less) == 0
    try:
        yield
    finally:
        assert libc.capset(header, held) == 0


def command_of_anybody() -> list[str]:
    """What takes from root, before a command, the right to read and write whatever it likes."""
    if os.geteuid() != 0:
        return []
    rights = "-dac_override,-dac_read_search"
    return ["setpriv", f"--bounding-set={rights}", f"--inh-caps={rights}"]


def whose(path: Path) -> str:
    """The end of a sentence about `path`."""
    status = path.stat()
    return f"belongs to user {status.st_uid} and group {status.st_gid} with mode {stat.S_IMODE(status.st_mode):04o}"


USER = f"the Pod's user {os.geteuid()} of group {os.getegid()}"
FORBIDDEN: list[tuple[str, Callable[[Path], Path], str]] = [
    ("the data", lambda root: root / "data/d.jsonl", "{root}/data/d.jsonl"),
    ("the data's directory", lambda root: root / "data", "{root}/data"),
    ("weights", lambda root: root / "model/model.safetensors", "{root}/model: model.safetensors"),
    ("a tokenizer", lambda root: root / "model/tokenizer.json", "{root}/model: tokenizer.json"),
    ("the model's directory", lambda root: root / "model", "{root}/model"),
]


@pytest.mark.parametrize(("place", "told"), [row[1:] for row in FORBIDDEN], ids=[row[0] for row in FORBIDDEN])
def test_what_the_pods_user_may_not_read_is_found_before_training(
    bench: Workbench, place: Callable[[Path], Path], told: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Weights too, which preparing does not need: a GPU would be held when they are first read."""
    shutil.copytree(bench.model, bench.root / "model")
    data = bench.write("d.jsonl", [{"text": "a b"}] * 4)
    source = data.parent if place(bench.root).name == "data" else data
    config = bench.config(source, model=str(bench.root / "model"))
    mode = place(bench.root).stat().st_mode
    place(bench.root).chmod(0)
    expected = (
        f"{told.format(root=bench.root)} may not be read by {USER}: it {whose(place(bench.root))}; "
        "chmod -R a+rX makes it readable"
    )
    try:
        with as_anybody():
            outcome = ending(Stage.PREPARE, bench.root, to_json(config))
    finally:
        place(bench.root).chmod(mode)

    assert outcome.exit_code is ExitCode.NOT_FOUND
    assert capsys.readouterr().err == f"prepare failed: AccessDenied: {expected}\n"
    assert (outcome.reason, outcome.message) == (Reason.ACCESS_DENIED, expected)


@pytest.mark.parametrize("stage", [Stage.PREPARE, Stage.TRAIN])
def test_a_model_below_a_directory_that_the_pods_user_may_not_enter_is_told(bench: Workbench, stage: Stage) -> None:
    above = bench.root / "above"
    shutil.copytree(bench.model, above / "model")
    config = bench.config(bench.write("d.jsonl", [{"text": "a b"}] * 4), model=str(above / "model"))
    if stage is Stage.TRAIN:
        bench.run(config)
    above.chmod(0)
    expected = (
        f"{above}/model may not be read by {USER}: its directory {above} {whose(above)}; "
        "chmod -R a+rX makes it readable"
    )
    try:
        with as_anybody():
            outcome = ending(stage, bench.root, to_json(config))
    finally:
        above.chmod(0o755)

    assert outcome.exit_code is ExitCode.NOT_FOUND
    assert (outcome.reason, outcome.message) == (Reason.ACCESS_DENIED, expected)


def test_a_volume_that_the_pods_user_may_not_write_is_told(bench: Workbench) -> None:
    container = Container(bench.root, bench.config(bench.write("d.jsonl", [{"text": "a b"}] * 4)))
    bench.volume.chmod(0o555)

    process = container.start("prepare", through=command_of_anybody())
    _, stderr = process.communicate(timeout=DEADLINE_SECONDS)

    assert process.returncode == ExitCode.NOT_FOUND, said(stderr)
    assert container.outcome.reason is Reason.ACCESS_DENIED
    assert (container.outcome.message or "").startswith(
        f"the volume may not be used by {USER}: its directory {bench.volume} {whose(bench.volume)} ("
    )
    assert (container.outcome.message or "").endswith(
        "); use a storage class that supports fsGroup, or make the volume's directory writable for that group"
    )
