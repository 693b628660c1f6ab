"""Models and data sets from object stores and web servers, against stand-ins that answer as real ones do."""

import logging
import traceback
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import Reason
from sftjob_trainer.process.environment import Environment
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.sources.files import data_names
from sftjob_trainer.sources.hub import model_files
from sftjob_trainer.sources.remote import fetch
from sftjob_trainer.sources.resolve import model_path
from sftjob_trainer.sources.weights import ReadFile
from support.jobs.model_files import LOADED, TWICE
from support.servers.archives import packed_tar, packed_zip
from support.servers.object_store import SECRET, ObjectStore
from support.servers.web import Web, web
from support.trainer.preparing import Workbench, environment

ROWS = b'{"text": "a b"}\n' * 4
MODEL = {"config.json": b"{}", "tokenizer.json": b"{}", "model.safetensors": b"weights", "README.md": b""}


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    objects = {
        "lab/data/train.jsonl": ROWS,
        "lab/data/more/b.jsonl": ROWS,
        "lab/data/.hidden.jsonl": ROWS,
        "lab/docs/README.md": b"",
        "lab/a name+%/d.jsonl": ROWS,
        **{f"lab/model/{name}": content for name, content in MODEL.items()},
    }
    with ObjectStore(objects) as running:
        running.be_the_one_of(monkeypatch)
        yield running


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Web]:
    with web(tmp_path, {"/data/train.jsonl": ROWS, "/data/notes.md": b""}) as running:
        monkeypatch.setenv("SSL_CERT_FILE", str(running.certificate))
        yield running


@pytest.fixture
def here(tmp_path: Path) -> Environment:
    return environment(tmp_path / "volume")


def rows(there: Sequence[str], _: ReadFile) -> Sequence[str]:
    """Those of the names that are there whose files hold rows."""
    return data_names(there)


def names(directory: Path) -> list[str]:
    """What was downloaded."""
    return sorted(
        str(path.relative_to(directory)) for path in directory.rglob("*") if path.is_file() and path.name[0] != "."
    )


@pytest.mark.parametrize("scheme", ["s3", "gs"])
def test_of_a_bucket_a_file_or_the_data_files_of_a_directory_are_downloaded(
    store: ObjectStore, here: Environment, scheme: str
) -> None:
    file = fetch(f"{scheme}://lab/data/train.jsonl", "dataset", rows, here)
    assert (file.name, file.read_bytes()) == ("train.jsonl", ROWS)
    assert file.is_relative_to(here.volume / layout.CACHE)
    assert names(fetch(f"{scheme}://lab/data/", "dataset", rows, here)) == ["more/b.jsonl", "train.jsonl"]
    assert fetch(f"{scheme}://lab/a name+%/d.jsonl", "dataset", rows, here).read_bytes() == ROWS


def test_of_a_model_what_loading_needs_is_downloaded(store: ObjectStore, here: Environment) -> None:
    directory = fetch("s3://lab/model", "model", model_files, here)
    assert names(directory) == ["config.json", "model.safetensors", "tokenizer.json"]


def test_of_weights_that_are_there_twice_those_of_the_index_are_downloaded(
    store: ObjectStore, here: Environment
) -> None:
    for name, content in TWICE.items():
        store.objects[f"lab/twice/{name}"] = content
    assert names(fetch("s3://lab/twice", "model", model_files, here)) == LOADED


def test_an_object_is_downloaded_once_until_it_changes(store: ObjectStore, here: Environment) -> None:
    directory = fetch("s3://lab/data", "dataset", rows, here)
    assert len(store.downloads) == 2
    assert fetch("s3://lab/data", "dataset", rows, here) == directory
    assert len(store.downloads) == 2
    store.objects["lab/data/train.jsonl"] = ROWS * 2
    fetch("s3://lab/data", "dataset", rows, here)
    assert store.downloads[2:] == ["/lab/data/train.jsonl"]
    assert (directory / "train.jsonl").read_bytes() == ROWS * 2


def test_an_object_that_is_gone_is_gone_from_the_cache(store: ObjectStore, here: Environment) -> None:
    directory = fetch("s3://lab/data", "dataset", rows, here)
    del store.objects["lab/data/more/b.jsonl"]
    fetch("s3://lab/data", "dataset", rows, here)
    assert names(directory) == ["train.jsonl"]


def test_a_file_of_a_web_server_is_downloaded_once_until_it_changes(site: Web, here: Environment) -> None:
    uri = f"{site.url}/data/train.jsonl?download=true"
    path = fetch(uri, "dataset", rows, here)
    assert (path.name, path.read_bytes()) == ("train.jsonl", ROWS)
    first = path.stat()
    assert fetch(uri, "dataset", rows, here) == path
    assert path.stat() == first
    site.files["/data/train.jsonl"] = ROWS[::-1]
    assert fetch(uri, "dataset", rows, here).read_bytes() == ROWS[::-1]


def test_without_a_version_from_the_server_a_file_is_downloaded_each_time(site: Web, here: Environment) -> None:
    site.with_etag = False
    uri = f"{site.url}/data/train.jsonl"
    path = fetch(uri, "dataset", rows, here)
    site.files["/data/train.jsonl"] = ROWS[::-1]
    assert fetch(uri, "dataset", rows, here).read_bytes() == ROWS[::-1] == path.read_bytes()


@pytest.mark.parametrize("folder", ["", "tiny-1.0/"])
@pytest.mark.parametrize(("suffix", "packed"), [("tar.gz", packed_tar), ("zip", packed_zip)])
def test_an_archive_is_unpacked(
    site: Web, here: Environment, suffix: str, packed: Callable[[dict[str, bytes]], bytes], folder: str
) -> None:
    site.files[f"/m.{suffix}"] = packed({f"{folder}{name}": content for name, content in MODEL.items()})
    directory = fetch(f"{site.url}/m.{suffix}", "model", model_files, here)
    assert {path.name: path.read_bytes() for path in directory.iterdir()} == MODEL


@pytest.mark.parametrize(
    "content", [b"no archive", packed_tar({"../outside": b""}), packed_tar(MODEL)[:80]], ids=["text", "outside", "cut"]
)
def test_an_archive_that_can_not_be_unpacked_is_told(site: Web, here: Environment, content: bytes) -> None:
    site.files["/m.tar.gz"] = content
    with pytest.raises(
        StageError, match=r"/m\.tar\.gz cannot be unpacked \(\w+\); create the archive again$"
    ) as raised:
        fetch(f"{site.url}/m.tar.gz", "model", model_files, here)
    assert raised.value.exit_code is ExitCode.INVALID
    assert not (here.volume.parent / "outside").exists()


DENIED = "{uri} cannot be read: access is denied; check the keys in dataset.secretRef"
REFUSALS = [
    # what the store does to every request, URI, reason, sentence
    ((403, "AccessDenied"), "s3://lab/data", Reason.ACCESS_DENIED, DENIED),
    ((403, "InvalidAccessKeyId"), "s3://lab/data", Reason.ACCESS_DENIED, DENIED),
    ((403, "SignatureDoesNotMatch"), "s3://lab/data", Reason.ACCESS_DENIED, DENIED),
    ((403, "ExpiredToken"), "s3://lab/data", Reason.ACCESS_DENIED, DENIED),
    ((401, "authError"), "gs://lab/data", Reason.ACCESS_DENIED, DENIED),
    ((403, "forbidden"), "gs://lab/data", Reason.ACCESS_DENIED, DENIED),
    (None, "gs://lab/none.jsonl", Reason.DATASET_NOT_FOUND, "{uri} does not exist"),
    (None, "s3://none/data", Reason.DATASET_NOT_FOUND, "{uri} does not exist"),
    (None, "s3://lab/none.jsonl", Reason.DATASET_NOT_FOUND, "{uri} does not exist"),
    (
        None,
        "s3://lab/docs",
        Reason.DATASET_NOT_FOUND,
        "{uri} has no .jsonl, .json, .csv, .tsv, .parquet, .arrow or .txt file; it has README.md",
    ),
]


@pytest.mark.parametrize(("fault", "uri", "reason", "sentence"), REFUSALS)
def test_a_refusal_of_a_store_is_told(
    store: ObjectStore, here: Environment, fault: tuple[int, str] | None, uri: str, reason: Reason, sentence: str
) -> None:
    store.fault = fault
    with pytest.raises(StageError) as raised:
        fetch(uri, "dataset", rows, here)
    assert raised.value.message == sentence.format(uri=uri)
    assert raised.value.reason is reason
    assert raised.value.exit_code is ExitCode.NOT_FOUND


@pytest.mark.parametrize(
    ("status", "path", "reason", "sentence"),
    [
        (401, "/data/train.jsonl", Reason.ACCESS_DENIED, DENIED),
        (403, "/data/train.jsonl", Reason.ACCESS_DENIED, DENIED),
        (404, "/data/train.jsonl", Reason.DATASET_NOT_FOUND, "{uri} does not exist"),
        (410, "/data/train.jsonl", Reason.DATASET_NOT_FOUND, "{uri} does not exist"),
        (
            None,
            "/data/notes.md",
            Reason.DATASET_NOT_FOUND,
            "{uri} has no .jsonl, .json, .csv, .tsv, .parquet, .arrow or .txt file; it has notes.md",
        ),
        (503, "/data/train.jsonl", Reason.UNREACHABLE, "{uri}: the server {server} answered with HTTP 503"),
    ],
)
def test_a_refusal_of_a_web_server_is_told_without_its_words_and_without_the_query(
    site: Web, here: Environment, status: int | None, path: str, reason: Reason, sentence: str
) -> None:
    site.status = status
    with pytest.raises(StageError) as raised:
        fetch(f"{site.url}{path}?who={SECRET}", "dataset", rows, here)
    assert raised.value.message == sentence.format(uri=f"{site.url}{path}", server=site.url)
    assert raised.value.reason is reason


def test_a_model_is_called_a_model(store: ObjectStore, here: Environment) -> None:
    with pytest.raises(StageError) as raised:
        fetch("s3://lab/none", "model", model_files, here)
    assert raised.value.reason is Reason.MODEL_NOT_FOUND
    with pytest.raises(StageError, match=r"^s3://lab/docs has no model files; it has README\.md$"):
        fetch("s3://lab/docs", "model", model_files, here)


def test_a_store_that_fails_is_tried_again_by_the_operator(store: ObjectStore, here: Environment) -> None:
    store.fault = (500, "InternalError")
    with pytest.raises(StageError) as raised:
        fetch("s3://lab/data/train.jsonl", "dataset", rows, here)
    assert raised.value.message == f"s3://lab/data/train.jsonl: the server {store.url} answered with HTTP 500"
    assert (raised.value.exit_code, raised.value.reason) == (ExitCode.INTERNAL, Reason.UNREACHABLE)


def test_a_server_that_is_not_there_is_tried_again_by_the_operator(tmp_path: Path, here: Environment) -> None:
    with web(tmp_path, {}) as gone:
        uri = f"{gone.url}/d.jsonl"
    with pytest.raises(StageError) as raised:
        fetch(uri, "dataset", rows, here)
    assert raised.value.message == f"{uri}: {gone.url} cannot be reached: it refuses the connection"
    assert (raised.value.exit_code, raised.value.reason) == (ExitCode.INTERNAL, Reason.UNREACHABLE)


def test_an_object_store_that_is_not_there_is_named(here: Environment, monkeypatch: pytest.MonkeyPatch) -> None:
    with ObjectStore({}) as gone:
        url = gone.url
    for name, value in {"ENDPOINT_URL": url, "ACCESS_KEY_ID": "a", "SECRET_ACCESS_KEY": SECRET}.items():
        monkeypatch.setenv(f"AWS_{name}", value)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    with pytest.raises(StageError) as raised:
        fetch("s3://lab/data", "dataset", rows, here)
    assert raised.value.message == f"s3://lab/data: {url} cannot be reached: the connection fails"
    assert raised.value.reason is Reason.UNREACHABLE


@pytest.mark.parametrize(
    ("variable", "uri"),
    [("", "https://a..b/d.jsonl"), ("", "https://exa mple/d.jsonl"), ("HTTPS_PROXY", "s3://lab/data")],
)
def test_what_is_no_address_is_told_without_repeating_what_the_environment_says(
    store: ObjectStore, here: Environment, monkeypatch: pytest.MonkeyPatch, variable: str, uri: str
) -> None:
    if variable:
        monkeypatch.setenv("no_proxy", "")
        monkeypatch.setenv(variable, f"::somebody:{SECRET}@proxy")
    with pytest.raises(StageError) as raised:
        fetch(uri, "dataset", rows, here)
    assert raised.value.message == (
        f"{uri} cannot be read: it, or an AWS_ENDPOINT_URL or HTTPS_PROXY of dataset.secretRef, is no address"
    )
    assert raised.value.exit_code is ExitCode.INVALID
    assert SECRET not in "".join(traceback.format_exception(raised.value))


def test_a_server_whose_certificate_is_not_trusted_is_told(tmp_path: Path, here: Environment) -> None:
    with web(tmp_path, {"/d.jsonl": ROWS}) as untrusted, pytest.raises(StageError) as raised:
        fetch(f"{untrusted.url}/d.jsonl", "dataset", rows, here)
    assert raised.value.message == (
        f"{untrusted.url}/d.jsonl: {untrusted.url} cannot be reached: its certificate is not trusted"
    )


def test_content_that_ends_too_early_is_tried_again_and_never_used(site: Web, here: Environment) -> None:
    site.cut = 10
    uri = f"{site.url}/data/train.jsonl"
    with pytest.raises(StageError) as raised:
        fetch(uri, "dataset", rows, here)
    assert raised.value.message == f"{uri}: train.jsonl ended after 10 of {len(ROWS)} bytes"
    assert (raised.value.exit_code, raised.value.reason) == (ExitCode.INTERNAL, Reason.UNREACHABLE)
    site.cut = None
    assert fetch(uri, "dataset", rows, here).read_bytes() == ROWS


def test_preparing_from_a_store_tells_no_key_and_does_not_ask_again(
    store: ObjectStore, bench: Workbench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    store.objects |= {f"lab/base/{path.name}": path.read_bytes() for path in bench.model.iterdir()}
    config = bench.config("s3://lab/data/train.jsonl", model="s3://lab/base")
    stats = bench.run(config)
    assert stats.rows == 4
    assert stats.model_snapshot is not None
    assert model_path(config, environment(bench.volume), stats) == bench.volume / layout.CACHE / stats.model_snapshot
    store.requests.clear()
    assert bench.run(config) == stats
    assert store.requests == []
    assert SECRET not in caplog.text
    written = [path.read_bytes() for path in bench.volume.rglob("*") if path.is_file()]
    assert all(SECRET.encode() not in content for content in written)
