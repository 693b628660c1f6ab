"""Models and data sets from a hub, against a stand-in that answers as the real one does."""

import errno
import json
import socket
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import ENV_HUB_TOKEN
from sftjob_contract.reasons import Reason
from sftjob_trainer.process.environment import Environment
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.sources import hub
from sftjob_trainer.sources.files import EVERYTHING, FileSelection, SourceFiles
from sftjob_trainer.sources.resolve import model_path
from support.jobs.model_files import LOADED, TWICE
from support.servers.hub import Hub
from support.servers.web import web
from support.trainer.preparing import Workbench, environment
from support.trainer.tiny import held_out_fraction

TOKEN = "hf_of_the_job"
MODEL = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"weights"}


@pytest.fixture
def server() -> Iterator[Hub]:
    with Hub(tokens=frozenset({TOKEN})) as running:
        running.commit("model", "org/tiny", MODEL)
        running.commit("model", "org/private", MODEL, private=True)
        running.commit("model", "org/gated", MODEL, gated=True)
        running.commit("model", "org/docs", {"README.md": b""})
        yield running


@pytest.fixture
def reach(server: Hub, tmp_path: Path) -> Environment:
    """An environment that has the job's token for the hub."""
    return environment(tmp_path, hub_endpoint=server.url, hub_token=TOKEN)


def test_a_model_is_downloaded_once_into_the_volumes_cache(server: Hub, reach: Environment) -> None:
    commit = server.commit("model", "org/tiny", MODEL)  # the same files: the same commit
    snapshot = hub.download_model("hf://org/tiny", None, reach)
    assert snapshot.commit == commit
    assert snapshot.directory.is_relative_to(reach.volume / "cache")
    assert {path.name: path.read_bytes() for path in snapshot.directory.iterdir()} == MODEL
    downloads = [request for request in server.requests if "/resolve/" in request.path]
    assert hub.download_model("hf://org/tiny", None, reach) == snapshot
    assert [request for request in server.requests if "/resolve/" in request.path] == downloads


def test_the_jobs_token_goes_with_every_request(server: Hub, reach: Environment) -> None:
    hub.download_model("hf://org/private", None, reach)
    assert {request.token for request in server.requests} == {TOKEN}


def test_without_a_token_none_is_sent_even_if_the_machine_has_one(
    server: Hub, reach: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(ENV_HUB_TOKEN, "hf_of_somebody_else")
    hub.download_model("hf://org/tiny", None, replace(reach, hub_token=None))
    assert {request.token for request in server.requests} == {None}


def test_a_revision_is_a_branch_or_a_commit(server: Hub, reach: Environment) -> None:
    old = server.commit("model", "org/tiny", MODEL)
    new = server.commit("model", "org/tiny", {**MODEL, "model.safetensors": b"better"})
    side = server.commit("model", "org/tiny", {**MODEL, "model.safetensors": b"other"}, branch="side")
    assert hub.download_model("hf://org/tiny", None, reach).commit == new
    assert hub.download_model("hf://org/tiny", "main", reach).commit == new
    assert hub.download_model("hf://org/tiny", "side", reach).commit == side
    assert hub.download_model("hf://org/tiny", old, reach).commit == old


def test_only_what_loading_needs_is_downloaded() -> None:
    names = ["README.md", "config.json", "model-00001-of-00002.safetensors", "pytorch_model.bin", "tokenizer.model"]
    assert hub.model_files([*names, "onnx/model.onnx", "original/params.json", "model.gguf"], no_file) == [
        "config.json",
        "model-00001-of-00002.safetensors",
        "tokenizer.model",
    ]
    assert hub.model_files(["config.json", "pytorch_model.bin"], no_file) == ["config.json", "pytorch_model.bin"]


def no_file(name: str) -> bytes:
    raise LookupError(name)


@pytest.mark.parametrize(
    ("there", "loaded"),
    [
        (["model.safetensors", "consolidated.safetensors", "model.fp16.safetensors"], ["model.safetensors"]),
        (["pytorch_model.bin", "training_args.bin"], ["pytorch_model.bin"]),
        (["a.safetensors", "b.safetensors", "adapter_model.safetensors"], ["a.safetensors", "b.safetensors"]),
    ],
)
def test_of_weights_without_an_index_those_that_transformers_loads_are_downloaded(
    there: Sequence[str], loaded: Sequence[str]
) -> None:
    assert hub.model_files(there, no_file) == loaded


@pytest.mark.parametrize("index", ["model.safetensors.index.json", "pytorch_model.bin.index.json"])
def test_what_no_index_names_is_not_downloaded_and_a_broken_index_counts_as_none(index: str) -> None:
    suffix = ".bin" if "pytorch" in index else ".safetensors"
    there = ["config.json", index, f"w-1{suffix}", f"w-2{suffix}", f"consolidated{suffix}"]
    content = json.dumps({"weight_map": {"a": f"w-2{suffix}", "b": f"w-1{suffix}"}}).encode()
    assert hub.model_files(there, lambda _: content) == there[:4]
    for broken in (b"{}", b"[]", b"\xff", b'{"weight_map": 1}'):
        assert hub.model_files(there, lambda _, broken=broken: broken) == there


def test_of_weights_that_a_repository_holds_twice_one_copy_is_downloaded(server: Hub, reach: Environment) -> None:
    server.commit("model", "org/twice", TWICE)
    snapshot = hub.download_model("hf://org/twice", None, reach)
    assert sorted(path.name for path in snapshot.directory.iterdir()) == LOADED


def test_a_file_that_an_index_names_and_nobody_has_ends_the_job(server: Hub, bench: Workbench) -> None:
    broken = {name: content for name, content in TWICE.items() if name != LOADED[2]}
    server.commit("model", "org/half", broken)
    with pytest.raises(StageError) as raised:
        bench.run(bench.config("unused", model="hf://org/half"), hub_endpoint=server.url)
    assert raised.value.reason is Reason.MODEL_NOT_FOUND
    assert f"hf://org/half has no {LOADED[2]}, which the index of its weights names" in raised.value.message


def downloaded(found: SourceFiles) -> dict[str, bytes]:
    """Contents by the names that messages call the files."""
    return {file.name: file.path.read_bytes() for file in found.files}


def test_of_a_data_set_the_path_is_downloaded(server: Hub, reach: Environment) -> None:
    files = {"data/train[1].jsonl": b"1", "data/test.csv": b"text", "data.jsonl": b"2", "data/notes.txt": b""}
    server.commit("dataset", "org/corpus", files)
    found = downloaded(hub.download_dataset("hf://org/corpus/data", None, reach, EVERYTHING))
    assert found == {"test.csv": b"text", "train[1].jsonl": b"1"}
    assert downloaded(hub.download_dataset("hf://org/corpus/data.jsonl", None, reach, EVERYTHING)) == {
        "data.jsonl": b"2"
    }


def test_of_a_split_only_its_files_are_downloaded(server: Hub, reach: Environment) -> None:
    server.commit("dataset", "org/corpus", {"train.jsonl": b"1", "test.jsonl": b"2", "README.md": b""})
    found = hub.download_dataset("hf://org/corpus", None, reach, FileSelection(splits=("test",), split_is_set=True))
    assert downloaded(found) == {"test.jsonl": b"2"}
    assert not [request for request in server.requests if request.path.endswith("/train.jsonl")]


def test_subsets_are_those_of_the_card(server: Hub, reach: Environment) -> None:
    card = b"---\nconfigs:\n- {config_name: en, data_files: e/*}\n- {config_name: fr, data_files: f/*}\n---\n"
    server.commit("dataset", "org/corpus", {"README.md": card, "e/a.jsonl": b"1", "f/a.jsonl": b"2"})
    found = hub.download_dataset("hf://org/corpus", None, reach, FileSelection(splits=("train",), subset="fr"))
    assert downloaded(found) == {"f/a.jsonl": b"2"}


def test_a_split_of_a_folder_is_told_by_the_names_in_it(server: Hub, reach: Environment) -> None:
    server.commit("dataset", "org/corpus", {"v1/train.csv": b"1", "v1/test.csv": b"2", "v2/test.csv": b"3"})
    found = hub.download_dataset("hf://org/corpus/v1", None, reach, FileSelection(splits=("test",), split_is_set=True))
    assert downloaded(found) == {"test.csv": b"2"}


REFUSALS = [
    # source, revision, token, reason, sentence
    (
        "hf://org/none",
        None,
        TOKEN,
        Reason.MODEL_NOT_FOUND,
        "hf://org/none does not exist on the hub, or the token has no access to it",
    ),
    (
        "hf://org/private",
        None,
        None,
        Reason.MODEL_NOT_FOUND,
        "hf://org/private does not exist on the hub, or it is private; then set model.tokenSecretRef",
    ),
    ("hf://org/tiny", "v2", TOKEN, Reason.MODEL_NOT_FOUND, "hf://org/tiny has no revision v2"),
    (
        "hf://org/gated",
        None,
        TOKEN,
        Reason.ACCESS_DENIED,
        "hf://org/gated is gated: request access on its page",
    ),
    (
        "hf://org/gated",
        None,
        None,
        Reason.ACCESS_DENIED,
        "hf://org/gated is gated: set model.tokenSecretRef to a token with access",
    ),
    (
        "hf://org/tiny",
        None,
        "hf_wrong",
        Reason.ACCESS_DENIED,
        "hf://org/tiny cannot be read: the hub does not accept the token",
    ),
    (
        "hf://org/docs",
        None,
        TOKEN,
        Reason.MODEL_NOT_FOUND,
        "hf://org/docs has no model files; it has README.md",
    ),
]


@pytest.mark.parametrize(("source", "revision", "token", "reason", "sentence"), REFUSALS)
def test_a_refusal_is_told(
    reach: Environment, source: str, revision: str | None, token: str | None, reason: Reason, sentence: str
) -> None:
    with pytest.raises(StageError) as raised:
        hub.download_model(source, revision, replace(reach, hub_token=token))
    assert raised.value.message == sentence
    assert raised.value.reason is reason
    assert raised.value.exit_code is ExitCode.NOT_FOUND


@pytest.mark.parametrize(
    ("source", "sentence"),
    [
        (
            "hf://org/none/data",
            "hf://org/none/data does not exist on the hub, or the token has no access to it",
        ),
        (
            "hf://org/corpus/eval",
            (
                "hf://org/corpus/eval has no .jsonl, .json, .csv, .tsv, .parquet, .arrow or .txt file at eval; "
                "the repository has README.md, train.jsonl"
            ),
        ),
    ],
)
def test_a_data_set_that_is_not_there(server: Hub, reach: Environment, source: str, sentence: str) -> None:
    server.commit("dataset", "org/corpus", {"README.md": b"", "train.jsonl": b"{}"})
    with pytest.raises(StageError) as raised:
        hub.download_dataset(source, None, reach, EVERYTHING)
    assert raised.value.message == sentence
    assert raised.value.reason is Reason.DATASET_NOT_FOUND


SPLIT_REFUSALS = [
    # source, subset, split, sentence
    ("hf://org/corpus", None, "validation", "hf://org/corpus has no split validation; it has train, test"),
    ("hf://org/corpus", "fr", "train", "hf://org/corpus has no subset fr; it has default"),
    (
        "hf://org/script",
        None,
        "train",
        (
            "hf://org/script has no .jsonl, .json, .csv, .tsv, .parquet, .arrow or .txt file; "
            "the repository has script.py; its rows are made by a script, which is not run: "
            "set dataset.revision to refs/convert/parquet"
        ),
    ),
]


@pytest.mark.parametrize(("source", "subset", "split", "sentence"), SPLIT_REFUSALS)
def test_a_subset_or_split_that_is_not_there(
    server: Hub, reach: Environment, source: str, subset: str | None, split: str, sentence: str
) -> None:
    server.commit("dataset", "org/corpus", {"train.csv": b"", "test.csv": b""})
    server.commit("dataset", "org/script", {"script.py": b""})
    with pytest.raises(StageError) as raised:
        hub.download_dataset(source, None, reach, FileSelection(splits=(split,), subset=subset, split_is_set=True))
    assert raised.value.message == sentence
    assert raised.value.reason is Reason.DATASET_NOT_FOUND
    assert raised.value.exit_code is ExitCode.NOT_FOUND


def test_a_file_of_a_repository_has_no_splits(server: Hub, reach: Environment) -> None:
    server.commit("dataset", "org/corpus", {"test.csv": b"text", "train.csv": b""})
    found = hub.download_dataset("hf://org/corpus/test.csv", None, reach, FileSelection(splits=("train",)))
    assert downloaded(found) == {"test.csv": b"text"}
    with pytest.raises(StageError, match=r"^hf://org/corpus/test\.csv is one file, which has no splits or subsets"):
        hub.download_dataset(
            "hf://org/corpus/test.csv", None, reach, FileSelection(splits=("test",), split_is_set=True)
        )


def test_of_a_folder_the_test_set_is_not_trained_on_unless_it_is_named(server: Hub, reach: Environment) -> None:
    server.commit("dataset", "org/corpus", {"v1/train.csv": b"1", "v1/test.csv": b"2"})
    found = hub.download_dataset("hf://org/corpus/v1", None, reach, FileSelection(splits=("train",)))
    assert (downloaded(found), found.names.unread) == ({"train.csv": b"1"}, ("test.csv",))


def test_a_subset_of_a_path_is_refused(reach: Environment) -> None:
    with pytest.raises(StageError) as raised:
        hub.download_dataset("hf://org/corpus/data", None, reach, FileSelection(splits=("train",), subset="fr"))
    assert raised.value.message == "hf://org/corpus/data: dataset.subset cannot be set together with a path"
    assert raised.value.exit_code is ExitCode.INVALID


def test_a_hub_that_fails_is_tried_again_by_the_operator(server: Hub, reach: Environment) -> None:
    server.broken = True
    with pytest.raises(StageError) as raised:
        hub.download_model("hf://org/tiny", None, reach)
    assert raised.value.message == f"hf://org/tiny: the hub {server.url} answered with HTTP 500"
    assert (raised.value.exit_code, raised.value.reason) == (ExitCode.INTERNAL, Reason.UNREACHABLE)


def test_a_hub_that_is_not_there_is_tried_again_by_the_operator(tmp_path: Path) -> None:
    with Hub() as gone:
        url = gone.url
    with pytest.raises(StageError) as raised:
        hub.download_model("hf://org/tiny", None, environment(tmp_path, hub_endpoint=url))
    assert raised.value.message == f"hf://org/tiny: {url} cannot be reached: it refuses the connection"
    assert (raised.value.exit_code, raised.value.reason) == (ExitCode.INTERNAL, Reason.UNREACHABLE)


def test_a_hub_whose_certificate_is_not_trusted_is_told_with_its_address(tmp_path: Path) -> None:
    with web(tmp_path, {}) as untrusted, pytest.raises(StageError) as raised:
        hub.download_model("hf://org/tiny", None, environment(tmp_path, hub_endpoint=untrusted.url))
    assert raised.value.message == f"hf://org/tiny: {untrusted.url} cannot be reached: its certificate is not trusted"
    assert raised.value.reason is Reason.UNREACHABLE


def test_a_hub_that_does_not_answer_is_not_waited_for_without_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "ANSWER_SECONDS", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(StageError) as raised:
            hub.download_model("hf://org/tiny", None, environment(tmp_path, hub_endpoint=url))
    assert raised.value.message == f"hf://org/tiny: {url} cannot be reached: it does not answer in time"
    assert raised.value.reason is Reason.UNREACHABLE


def test_a_cache_that_cannot_be_written_is_no_hub_that_cannot_be_reached(
    reach: Environment, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("huggingface_hub.HfApi.snapshot_download", full)
    with pytest.raises(OSError, match="No space left"):
        hub.download_model("hf://org/tiny", None, reach)


def test_preparing_from_a_hub_pins_the_model_and_does_not_ask_again(
    server: Hub, reach: Environment, bench: Workbench
) -> None:
    files = {path.name: path.read_bytes() for path in bench.model.iterdir()}
    commit = server.commit("model", "org/tiny", files)
    server.commit("dataset", "org/corpus", {"train.jsonl": b'{"text": "a b"}\n' * 4})
    config = bench.config("hf://org/corpus/train.jsonl", model="hf://org/tiny", held_out=held_out_fraction(0.0))
    stats = bench.run(config, hub_endpoint=server.url, hub_token=TOKEN)
    assert stats.model_revision == commit
    assert model_path(config, environment(bench.volume), stats) == bench.volume / layout.CACHE / str(
        stats.model_snapshot
    )
    server.commit("model", "org/tiny", {**files, "model.safetensors": b"newer"})
    server.requests.clear()
    assert bench.run(config, hub_endpoint=server.url, hub_token=TOKEN) == stats
    assert server.requests == []


def test_a_model_is_found_again_in_a_cache_behind_a_link(server: Hub, bench: Workbench, tmp_path: Path) -> None:
    server.commit("model", "org/tiny", {path.name: path.read_bytes() for path in bench.model.iterdir()})
    (tmp_path / "elsewhere").mkdir()
    link = tmp_path / "cache"
    link.symlink_to(tmp_path / "elsewhere")
    rows = bench.write("rows.jsonl", [{"text": "a b"}] * 4)
    config = bench.config(rows, model="hf://org/tiny", held_out=held_out_fraction(0.0))
    stats = bench.run(config, cache=link, hub_endpoint=server.url, hub_token=TOKEN)
    assert model_path(config, environment(bench.volume, cache=link), stats).is_relative_to(link)


def test_a_model_from_a_hub_must_have_been_prepared(bench: Workbench) -> None:
    config = bench.config("/data.jsonl", model="hf://org/tiny")
    with pytest.raises(StageError, match=r"^hf://org/tiny has not been downloaded$"):
        model_path(config, environment(bench.volume), None)
