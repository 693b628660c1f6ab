"""Weights & Biases and MLflow: what each gets to know, online and offline, and that neither can disturb a run."""

import logging
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import ENV_WANDB_API_KEY, Stage
from sftjob_contract.run.config import RunConfig
from sftjob_contract.run.destinations import Mlflow, Wandb
from sftjob_trainer.process.libraries import library_variables
from sftjob_trainer.reporting.mlflow_tracker import JOB_TAG, open_mlflow
from sftjob_trainer.reporting.tracker import FinalStatus
from sftjob_trainer.reporting.tracker_thread import BackgroundTracker, BackoffPolicy
from sftjob_trainer.reporting.wandb_tracker import open_wandb
from support.servers.tracking_servers import MlflowServer, WandbServer, mlflow_server, wandb_server
from support.trainer.tiny import run_config
from support.trainer.training import as_died_after, finish, job, read_metrics, run_train

KEY = "0123456789abcdef" * 2 + "fedcba98"
UID = "00000000-0000-0000-0000-000000000001"
FAST = BackoffPolicy(first_backoff=0.01, max_backoff=0.02, flush=5.0)
TIMEOUT_SECONDS = 60
NOWHERE = "http://127.0.0.1:9"


@pytest.fixture(autouse=True)
def as_in_a_container(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """What the trainer's process sets before it imports anything."""
    for name, value in library_variables(Stage.TRAIN, run_config(model="m", dataset="d"), tmp_path).items():
        if name.startswith(("WANDB", "MLFLOW")):
            monkeypatch.setenv(name, value)
    monkeypatch.setenv(ENV_WANDB_API_KEY, KEY)


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    (tmp_path / "volume" / layout.LOGS).mkdir(parents=True)
    return tmp_path / "volume"


def on_wandb(config: RunConfig, url: str | None) -> RunConfig:
    asked = Wandb(project="project", entity="team", name="a run", base_url=url, offline=url is None)
    return replace(config, tracking=replace(config.tracking, wandb=asked))


def on_mlflow(config: RunConfig, url: str | None) -> RunConfig:
    return replace(config, tracking=replace(config.tracking, mlflow=Mlflow(experiment="tuning", tracking_uri=url)))


@pytest.fixture
def small() -> RunConfig:
    return run_config(model="m", dataset="d", learning_rate=3e-4)


class Recording:
    """A tracker that fails while it is told to."""

    def __init__(self, *, failures: int = 0) -> None:
        self.failures = failures
        self.logged: list[tuple[int, Mapping[str, float]]] = []
        self.ending: FinalStatus | None = None
        self.free = threading.Event()
        self.free.set()

    def open(self) -> "Recording":
        self._try()
        return self

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self.free.wait(TIMEOUT_SECONDS)
        self._try()
        self.logged.append((step, values))

    def close(self, ending: FinalStatus) -> None:
        self.ending = ending

    def _try(self) -> None:
        if self.failures:
            self.failures -= 1
            raise OSError("the server is away")


def test_what_fails_is_told_once_and_tried_again_in_order(caplog: pytest.LogCaptureFixture) -> None:
    recording = Recording(failures=5)
    background = BackgroundTracker("tracking.x", recording.open, FAST)
    for step in range(3):
        background.log(step, {"train/loss": 1.0})
    background.close(FinalStatus.FINISHED)

    assert [step for step, _ in recording.logged] == [0, 1, 2]
    assert recording.ending is FinalStatus.FINISHED
    assert [record.message for record in caplog.records] == [
        "tracking.x: the server is away; training continues, and it is tried again"
    ]


def test_a_step_does_not_wait_for_a_slow_server(caplog: pytest.LogCaptureFixture) -> None:
    recording = Recording()
    recording.free.clear()
    background = BackgroundTracker("tracking.x", recording.open, replace(FAST, flush=0.01))
    for step in range(3):
        background.log(step, {})  # returns although nothing can be sent
    background.close(FinalStatus.FAILED)
    recording.free.set()

    assert caplog.records[-1].message == "tracking.x: 3 logs were not sent; logs/metrics.jsonl has them"


def test_an_absent_server_costs_bounded_memory(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sftjob_trainer.reporting.tracker_thread.PENDING", 10)
    background = BackgroundTracker("tracking.x", Recording(failures=10**9).open, replace(FAST, flush=0.01))
    for step in range(100):
        background.log(step, {})
    background.close(FinalStatus.FINISHED)

    assert caplog.records[-1].message == "tracking.x: 100 logs were not sent; logs/metrics.jsonl has them"


@pytest.fixture
def wandb_online() -> Iterator[WandbServer]:
    with wandb_server() as server:
        yield server


def wrote(root: Path, secret: str) -> list[Path]:
    """Files with `secret` in them."""
    return [path for path in root.rglob("*") if path.is_file() and secret.encode() in path.read_bytes()]


def test_wandb_gets_config_metrics_and_the_end(small: RunConfig, volume: Path, wandb_online: WandbServer) -> None:
    tracker = open_wandb(on_wandb(small, wandb_online.url), volume)
    tracker.log(1, {"train/loss": 2.5})
    tracker.log(2, {"train/loss": 1.5, "eval/loss": 1.75})
    tracker.close(FinalStatus.FINISHED)

    made = wandb_online.runs[0]
    assert (made["name"], made["project"], made["entity"], made["displayName"]) == (UID, "project", "team", "a run")
    assert '"learningRate"' in wandb_online.runs[-1]["config"]
    values = [
        {name: value for name, value in line.items() if not name.startswith("_")} for line in wandb_online.history
    ]
    assert values == [
        {"train/global_step": 1, "train/loss": 2.5},
        {"train/global_step": 2, "train/loss": 1.5, "eval/loss": 1.75},
    ]
    assert wandb_online.exit_codes == [0]
    assert {authorization for _, authorization, _ in wandb_online.asked} != {None}
    assert wrote(volume, KEY) == []


def test_a_resumed_attempt_goes_on_with_the_same_wandb_run(
    small: RunConfig, volume: Path, wandb_online: WandbServer
) -> None:
    for ending in (FinalStatus.INTERRUPTED, FinalStatus.FINISHED):
        tracker = open_wandb(on_wandb(small, wandb_online.url), volume)
        tracker.log(1, {"train/loss": 2.5})
        tracker.close(ending)

    assert {run["name"] for run in wandb_online.runs} == {UID}
    assert [line["train/global_step"] for line in wandb_online.history] == [1, 1]
    assert wandb_online.exit_codes == [int(ExitCode.RETRY), 0]


@pytest.mark.parametrize("status", [None, 401], ids=["unreachable", "key-refused"])
def test_without_its_server_a_wandb_run_stays_on_the_volume(
    small: RunConfig,
    volume: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
    wandb_online: WandbServer,
    status: int | None,
) -> None:
    monkeypatch.setattr("sftjob_trainer.reporting.wandb_tracker.INIT_SECONDS", 2.0)
    wandb_online.status = status

    tracker = open_wandb(on_wandb(small, wandb_online.url if status else NOWHERE), volume)
    tracker.log(1, {"train/loss": 2.5})
    tracker.close(FinalStatus.FINISHED)

    (told,) = [record.message for record in caplog.records if record.name.startswith("sftjob_trainer")]
    assert told.startswith("tracking.wandb: ")
    assert told.endswith("; the run stays on the volume, under logs/wandb, for `wandb sync`")
    assert KEY not in caplog.text
    assert len(list((volume / layout.WANDB).glob(f"offline-run-*/run-{UID}.wandb"))) == 1


def test_an_offline_wandb_run_can_be_synced_later(small: RunConfig, volume: Path, wandb_online: WandbServer) -> None:
    tracker = open_wandb(on_wandb(small, None), volume)
    tracker.log(1, {"train/loss": 2.5})
    tracker.log(2, {"train/loss": 1.5})
    tracker.close(FinalStatus.FINISHED)
    assert wandb_online.asked == []
    (directory,) = (volume / layout.WANDB).glob("offline-run-*")

    command = [sys.executable, "-m", "wandb", "sync", str(directory)]
    environ = {**os.environ, "WANDB_BASE_URL": wandb_online.url}
    synced = subprocess.run(
        command, cwd=volume, env=environ, capture_output=True, text=True, check=False, timeout=TIMEOUT_SECONDS
    )

    assert synced.returncode == 0, synced.stderr
    assert {run["name"] for run in wandb_online.runs} == {UID}
    assert [(line["train/global_step"], line["train/loss"]) for line in wandb_online.history] == [(1, 2.5), (2, 1.5)]


@pytest.fixture
def mlflow_online() -> Iterator[MlflowServer]:
    with mlflow_server() as server:
        yield server


def test_mlflow_gets_config_metrics_and_the_end(small: RunConfig, volume: Path, mlflow_online: MlflowServer) -> None:
    tracker = open_mlflow(on_mlflow(small, mlflow_online.url), volume)
    tracker.log(1, {"train/loss": 2.5})
    tracker.log(2, {"train/loss": 1.5})
    tracker.close(FinalStatus.FAILED)

    (run,) = mlflow_online.runs.values()
    assert mlflow_online.experiments == {"tuning": "1"}
    assert run["asked"]["run_name"] == "default/tiny"
    assert (run["params"]["training.learningRate"], run["params"]["model.source"]) == ("0.0003", "m")
    assert mlflow_online.values("train/loss") == [(1, 2.5), (2, 1.5)]
    assert run["status"] == "FAILED"


def test_a_resumed_attempt_goes_on_with_the_same_mlflow_run(
    small: RunConfig, volume: Path, mlflow_online: MlflowServer
) -> None:
    config = on_mlflow(small, mlflow_online.url)
    open_mlflow(config, volume).close(FinalStatus.INTERRUPTED)
    assert [run["status"] for run in mlflow_online.runs.values()] == ["KILLED"]

    tracker = open_mlflow(config, volume)

    assert [run["status"] for run in mlflow_online.runs.values()] == ["RUNNING"]
    tracker.close(FinalStatus.FINISHED)
    assert [run["status"] for run in mlflow_online.runs.values()] == ["FINISHED"]


def test_an_mlflow_server_that_comes_back_gets_what_it_missed(
    small: RunConfig, volume: Path, mlflow_online: MlflowServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    mlflow_online.status = 503
    config = on_mlflow(small, mlflow_online.url)
    background = BackgroundTracker("tracking.mlflow", lambda: open_mlflow(config, volume), FAST)
    background.log(1, {"train/loss": 2.5})
    mlflow_online.status = None
    background.log(2, {"train/loss": 1.5})
    background.close(FinalStatus.FINISHED)

    assert mlflow_online.values("train/loss") == [(1, 2.5), (2, 1.5)]
    assert [run["status"] for run in mlflow_online.runs.values()] == ["FINISHED"]


def known_to_mlflow(volume: Path) -> tuple[Any, Callable[[str], dict[int, float]]]:
    """The only run of the store on the volume, and its metrics by step."""
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=(volume / layout.MLFLOW).as_uri())
    experiment = client.get_experiment_by_name("tuning")
    (run,) = client.search_runs([experiment.experiment_id])
    return run, lambda name: {one.step: one.value for one in client.get_metric_history(run.info.run_id, name)}


def test_a_resumed_run_is_one_run_on_the_volume_and_tells_what_metrics_tell(qwen2: Path, tmp_path: Path) -> None:
    config = on_mlflow(on_wandb(job(qwen2, max_steps=4, save_every=2, evaluate_every=2), None), None)
    first = finish(tmp_path / "first", config)
    volume = as_died_after(2, first, tmp_path / "volume")
    (volume / layout.LOGS).mkdir()
    (first.volume / layout.MLFLOW).rename(volume / layout.MLFLOW)
    (first.volume / layout.WANDB).rename(volume / layout.WANDB)

    outcome = run_train(volume, first.config, attempt=2)

    assert outcome.exit_code is ExitCode.DONE
    run, metric = known_to_mlflow(volume)
    told = read_metrics(first.volume)
    assert (run.info.status, run.data.tags[JOB_TAG]) == ("FINISHED", UID)
    for ours, theirs in (("loss", "train/loss"), ("gradNorm", "train/grad_norm"), ("evalLoss", "eval/loss")):
        assert metric(theirs) == pytest.approx(told.values(ours))
    assert len(list((volume / layout.WANDB).glob(f"offline-run-*/run-{UID}.wandb"))) == 2


@pytest.mark.slow
def test_an_unreachable_tracker_ends_no_run(
    qwen2: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sftjob_trainer.reporting.tracker_thread.BackoffPolicy.flush", 0.1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    config = on_mlflow(job(qwen2, max_steps=2), NOWHERE)

    with caplog.at_level(logging.WARNING):
        done = finish(tmp_path, config)

    assert done.outcome.exit_code is ExitCode.DONE
    told = [record.message for record in caplog.records if "tracking.mlflow" in record.message]
    assert len(told) <= 2
    assert "not sent; logs/metrics.jsonl has them" in told[-1]
