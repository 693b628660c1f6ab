"""The output in an object store, against a stand-in that answers as real ones do."""

import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import pytest

from sftjob_contract import layout
from sftjob_contract.codec import to_json
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_trainer import publish
from sftjob_trainer.output.upload import upload
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.retry import RetryPolicy
from support.servers.object_store import SECRET, ObjectStore
from support.trainer.entry import ending
from support.trainer.training import Finished, finish, job, run_train, write_prepared

FILES = {
    "output/adapter/adapter_config.json": b"{}",
    "output/adapter/adapter_model.safetensors": bytes(range(256)) * 45_000,
    "results/eval_results.json": b'{"evalLoss": 1}',
    "logs/metrics.jsonl": b'{"step": 1}\n',
}
ONCE = RetryPolicy(max_attempts=1)


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    with ObjectStore({"lab/other": b"of somebody else"}) as running:
        running.be_the_one_of(monkeypatch)
        yield running


@pytest.fixture
def volume(tmp_path: Path) -> Path:
    unwanted = dict.fromkeys(
        ("output/.adapter.staging/half", "logs/train.log", "cache/c", "checkpoints/checkpoint-1/w"), b"x"
    )
    for name, content in {**FILES, **unwanted}.items():
        path = tmp_path / "volume" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return tmp_path / "volume"


def written(store: ObjectStore) -> list[str]:
    """Names of the objects to which something was sent, in order."""
    paths = [urlsplit(request.split()[1]) for request in store.requests if request.startswith("PUT ")]
    keys = (parse_qs(path.query).get("name", [unquote(path.path).removeprefix("/lab/")])[0] for path in paths)
    return list(dict.fromkeys(keys))


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_output_results_and_metrics_are_copied_and_a_manifest_last(
    store: ObjectStore, volume: Path, scheme: str
) -> None:
    uri = f"{scheme}://lab/runs/a b+1/"

    assert upload(uri, volume, ONCE) == uri

    found = {name.removeprefix("lab/runs/a b+1/"): content for name, content in store.objects.items()}
    assert found.pop("lab/other") == b"of somebody else"
    manifest = json.loads(found.pop(layout.MANIFEST))
    assert found == FILES
    assert {file["path"]: (file["size"], file["sha256"]) for file in manifest["files"]} == {
        name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in FILES.items()
    }
    assert written(store)[-1].endswith(layout.MANIFEST)


def test_the_run_is_said_to_be_alive_after_each_file(store: ObjectStore, volume: Path) -> None:
    counts: list[int] = []

    upload("s3://lab/run", volume, ONCE, lambda: counts.append(len(written(store))))

    assert counts == [1, 2, 3, 4]


def test_a_store_that_tells_digests_is_not_read(store: ObjectStore, volume: Path) -> None:
    upload("s3://lab/run", volume, ONCE)

    assert not [path for path in store.downloads if path.endswith(".safetensors")]


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_what_is_there_already_is_not_sent_again(store: ObjectStore, volume: Path, scheme: str) -> None:
    upload(f"{scheme}://lab/run", volume, ONCE)
    (volume / layout.METRICS).write_bytes(b'{"step": 2}\n')  # of the same size
    store.requests.clear()

    upload(f"{scheme}://lab/run", volume, ONCE)

    assert written(store) == ["run/logs/metrics.jsonl", "run/sftjob-manifest.json"]
    assert store.objects["lab/run/logs/metrics.jsonl"] == b'{"step": 2}\n'


def test_where_etags_tell_nothing_objects_are_read_back(store: ObjectStore, volume: Path) -> None:
    store.encrypts = True

    upload("s3://lab/run", volume, ONCE)

    assert "/lab/run/output/adapter/adapter_model.safetensors" in store.downloads


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_an_object_that_is_not_what_was_sent_is_a_failure_and_there_is_no_manifest(
    store: ObjectStore, volume: Path, scheme: str
) -> None:
    store.spoils = "eval_results.json"

    with pytest.raises(StageError, match=r"eval_results\.json is not stored as it was sent") as raised:
        upload(f"{scheme}://lab/run", volume, ONCE)

    assert raised.value.exit_code is ExitCode.INTERNAL
    assert f"lab/run/{layout.MANIFEST}" not in store.objects


def test_a_store_that_does_not_answer_is_tried_again_with_longer_and_longer_pauses(
    store: ObjectStore, volume: Path
) -> None:
    store.fault = (501, "NotImplemented")
    pauses: list[float] = []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        if len(pauses) == 3:
            store.fault = None

    upload("s3://lab/run", volume, RetryPolicy(sleep=sleep))

    assert pauses == [2, 4, 8]
    assert f"lab/run/{layout.MANIFEST}" in store.objects


@pytest.mark.parametrize(
    ("change", "uri", "reason", "sentence"),
    [
        (
            {"read_only": True},
            "s3://lab/run",
            Reason.ACCESS_DENIED,
            "s3://lab/run cannot be written: access is denied; check the keys in output.upload.secretRef",
        ),
        ({}, "s3://nowhere/run", Reason.CONFIG_INVALID, "s3://nowhere/run does not exist"),
        (
            {"fault": (501, "NotImplemented")},
            "s3://lab/run",
            Reason.UNREACHABLE,
            "s3://lab/run: the server {store} answered with HTTP 501",
        ),
    ],
)
def test_a_refusal_says_what_to_look_at_and_nothing_secret(
    store: ObjectStore, volume: Path, change: dict[str, Any], uri: str, reason: Reason, sentence: str
) -> None:
    for name, value in change.items():
        setattr(store, name, value)

    with pytest.raises(StageError) as raised:
        upload(uri, volume, ONCE)

    assert (raised.value.reason, raised.value.message) == (reason, sentence.format(store=store.url))


def test_after_a_failed_upload_the_next_attempt_uploads_and_does_not_train(
    store: ObjectStore, qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "RetryPolicy", lambda: ONCE)
    config = job(qwen2, max_steps=2)
    config = replace(config, output=replace(config.output, upload_uri="s3://lab/run"))
    write_prepared(tmp_path, config)
    store.fault = (501, "NotImplemented")
    failed = run_train(tmp_path, config)
    metrics = (tmp_path / layout.METRICS).read_bytes()
    store.fault = None

    outcome = run_train(tmp_path, config, attempt=2)

    assert (failed.exit_code, failed.reason) == (ExitCode.INTERNAL, Reason.UNREACHABLE)
    assert failed.message == (
        f"s3://lab/run: the server {store.url} answered with HTTP 501; training is complete and its output is on "
        "the job's volume, at output/model"
    )
    assert outcome.exit_code is ExitCode.DONE
    assert outcome.output is not None
    assert outcome.output.uploaded == ("s3://lab/run",)
    assert (tmp_path / layout.METRICS).read_bytes() == metrics
    weights = (tmp_path / layout.OUTPUT_MODEL / "model.safetensors").read_bytes()
    assert store.objects["lab/run/output/model/model.safetensors"] == weights


def test_a_stage_that_can_not_upload_asks_to_be_run_again_and_tells_no_secret(
    store: ObjectStore,
    qwen2: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(publish, "RetryPolicy", lambda: ONCE)
    config = job(qwen2, max_steps=2)
    config = replace(config, output=replace(config.output, upload_uri="s3://lab/run"))
    volume, log = tmp_path / "volume", tmp_path / "termination-log"
    write_prepared(volume, config)
    store.fault = (501, "NotImplemented")
    failed = ending(Stage.TRAIN, tmp_path, to_json(config))
    said = log.read_text()
    store.fault = None

    done = ending(Stage.TRAIN, tmp_path, to_json(config))

    assert (failed.exit_code, done.exit_code) == (ExitCode.INTERNAL, ExitCode.DONE)
    assert "training is complete and its output is on the job's volume, at output/model" in said
    assert f"lab/run/{layout.MANIFEST}" in store.objects
    everything = [said, log.read_text(), (volume / layout.TRAIN_LOG).read_text(), *capfd.readouterr()]
    assert [text for text in everything if SECRET in text or store.access_key in text] == []


def test_whoever_mounts_the_volume_can_read_what_is_published(qwen2: Path, tmp_path: Path) -> None:
    """Whatever the umask of the container."""
    usual = os.umask(0o077)
    try:
        finish(tmp_path, job(qwen2, max_steps=1))
    finally:
        os.umask(usual)

    paths = [tmp_path / layout.OUTPUT, *(tmp_path / layout.OUTPUT).rglob("*")]
    assert {path.stat().st_mode & 0o777 for path in paths} == {0o644, 0o755}


@pytest.mark.parametrize("scheme", ["s3", "gs"])
@pytest.mark.parametrize("named", [True, False], ids=["by name", "the newest"])
def test_a_run_starts_from_a_checkpoint_in_an_object_store(
    store: ObjectStore, finished: Finished, tmp_path: Path, *, named: bool, scheme: str
) -> None:
    """The directory of checkpoints stands for the newest that verifies; nothing else is downloaded."""
    from sftjob_trainer.training.starting_point import fetch_checkpoint, starting_checkpoint
    from support.trainer.training import environment

    root = finished.volume / layout.CHECKPOINTS
    for path in root.rglob("*"):
        if path.is_file():
            store.objects[f"lab/{path.relative_to(root)}"] = path.read_bytes()
    store.objects["lab/checkpoint-12/model.safetensors"] = b""
    source = f"{scheme}://lab/checkpoint-8" if named else f"{scheme}://lab"
    config = replace(finished.config, checkpoints=replace(finished.config.checkpoints, resume_from=source))
    where = environment(tmp_path)

    fetch_checkpoint(config, where, Path(config.model.source))

    found = starting_checkpoint(config, where)
    assert found is not None
    assert {path.name: path.read_bytes() for path in found.iterdir()} == {
        path.name: path.read_bytes() for path in (root / "checkpoint-8").iterdir()
    }


def test_a_place_without_a_complete_checkpoint_is_refused(
    store: ObjectStore, finished: Finished, tmp_path: Path
) -> None:
    from sftjob_trainer.training.starting_point import fetch_checkpoint
    from support.trainer.training import environment

    store.objects["lab/checkpoint-12/model.safetensors"] = b""
    config = replace(finished.config, checkpoints=replace(finished.config.checkpoints, resume_from="s3://lab"))

    with pytest.raises(StageError, match="s3://lab has no complete checkpoint") as raised:
        fetch_checkpoint(config, environment(tmp_path), Path(config.model.source))

    assert raised.value.reason is Reason.MODEL_NOT_FOUND
