"""What a dataset from a stranger reaches: its rows are text and nothing else, and their size is bounded."""

import gzip
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import Preprocessing, RowTemplate
from sftjob_trainer.process.environment import Environment
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.rows import json_stream, readers
from sftjob_trainer.rows.preprocessing import preprocessor
from sftjob_trainer.rows.readers import Row
from sftjob_trainer.sources import archives
from sftjob_trainer.sources.files import data_names
from sftjob_trainer.sources.remote import fetch
from sftjob_trainer.sources.resolve import resolve_part, training_parts
from support.servers.archives import packed_zip
from support.servers.web import Web
from support.trainer.preparing import Workbench, environment
from support.trainer.tiny import data_source, run_config

JINJA = "{{ 7 * 7 }}{% for x in [1] %}{{ x.__class__ }}{% endfor %}"
MESSAGES = [{"role": "user", "content": JINJA}, {"role": "assistant", "content": JINJA}]


# Text


@pytest.mark.parametrize(
    "row",
    [{"text": JINJA}, {"prompt": JINJA, "completion": JINJA}, {"messages": MESSAGES}],
    ids=["text", "prompt and completion", "messages"],
)
def test_jinja_in_rows_is_trained_on_and_never_rendered(bench: Workbench, row: dict[str, Any]) -> None:
    from transformers import AutoTokenizer

    bench.prepare(bench.write("a.jsonl", [row]), max_length=512)
    tokenizer = AutoTokenizer.from_pretrained(bench.model)
    assert JINJA in tokenizer.decode(bench.sequences()[0]["input_ids"])


def test_jinja_in_rows_is_not_rendered_by_a_row_template() -> None:
    template = Preprocessing(template=RowTemplate(text="<{{ a }}>", prompt=None, completion=None), function=None)
    make = preprocessor(data_source("unused", preprocessing=template))
    assert make(Row("a:1", {"a": JINJA})).values["text"] == f"<{JINJA}>"


@pytest.mark.parametrize("column", ["range", "self", "lipsum", "__class__", "text"])
def test_a_column_of_any_name_is_only_text(column: str) -> None:
    text = "<{{ row['" + column + "'] }}>"
    template = Preprocessing(template=RowTemplate(text=text, prompt=None, completion=None), function=None)
    make = preprocessor(data_source("unused", preprocessing=template))
    assert make(Row("a:1", {column: "value"})).values["text"] == "<value>"


# Size


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """A limit of 1 MiB for rows."""
    monkeypatch.setattr(json_stream, "MAX_ROW_BYTES", 1 << 20)
    monkeypatch.setattr(readers, "MAX_ROW_BYTES", 1 << 20)


HUGE = "x" * (3 << 20)
ROWS = {
    "a.jsonl": json.dumps({"text": HUGE}).encode(),
    "a.jsonl.gz": gzip.compress(json.dumps({"text": HUGE}).encode()),
    "a.json": json.dumps([{"text": HUGE}]).encode(),
    "a.csv": f'text\n"{HUGE}"\n'.encode(),
    "a.txt": HUGE.encode(),
}


@pytest.mark.parametrize("name", ROWS)
def test_a_row_without_end_is_refused_before_it_is_read(small: None, bench: Workbench, name: str) -> None:
    with pytest.raises(StageError, match=r"a\.\w+(\.gz)?:\d: (the row is larger than 1 MiB|not valid CSV)") as raised:
        bench.prepare(bench.write(name, ROWS[name]))
    assert raised.value.reason is Reason.DATA_INVALID


def test_a_csv_field_over_many_lines_is_bounded(small: None, bench: Workbench) -> None:
    content = 'text\n"' + ("x" * 99 + "\n") * 20_000 + '"\n'
    with pytest.raises(StageError, match=r"a\.csv:2: not valid CSV: field larger than field limit"):
        bench.prepare(bench.write("a.csv", content))


@pytest.mark.usefixtures("no_finalizers")
@pytest.mark.parametrize("name", ["a.jsonl", "a.json"])
def test_a_row_nested_without_end_is_refused(bench: Workbench, name: str) -> None:
    text = '{"text": ' + "[" * 200_000
    content = text if name == "a.jsonl" else f"[{text}"
    with pytest.raises(StageError, match=r"nested too deeply"):
        bench.prepare(bench.write(name, content))


def a_tar_of(size: int) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        info = tarfile.TarInfo("train.jsonl")
        info.size = size
        archive.addfile(info, io.BytesIO(bytes(size)))
    return buffer.getvalue()


def a_zip_of(size: int) -> bytes:
    return packed_zip({"train.jsonl": bytes(size)})


@pytest.mark.parametrize(("name", "bomb"), [("/m.tar.gz", a_tar_of), ("/m.zip", a_zip_of)])
def test_an_archive_that_grows_without_measure_is_not_unpacked(
    monkeypatch: pytest.MonkeyPatch, site: Web, here: Environment, name: str, bomb: Any
) -> None:
    monkeypatch.setattr(archives, "MIN_ALLOWED_BYTES", 1 << 20)
    site.files[name] = bomb(5 << 20)
    with pytest.raises(StageError, match=r"far too much for an archive of its size") as raised:
        fetch(f"{site.url}{name}", "dataset", lambda names, _: data_names(names), here)
    assert raised.value.reason is Reason.CONFIG_INVALID
    assert list(here.volume.rglob("*.unpacked")) == []


def test_an_archive_that_tells_a_smaller_size_is_not_unpacked_further(
    monkeypatch: pytest.MonkeyPatch, site: Web, here: Environment
) -> None:
    content = bytearray(a_zip_of(5 << 20))
    size = (5 << 20).to_bytes(4, "little")
    while (at := content.find(size)) >= 0:
        content[at : at + 4] = (10).to_bytes(4, "little")
    site.files["/m.zip"] = bytes(content)
    with pytest.raises(StageError, match=r"cannot be unpacked"):
        fetch(f"{site.url}/m.zip", "dataset", lambda names, _: data_names(names), here)
    assert list(here.volume.rglob("*.unpacked")) == []


def test_an_archive_of_files_without_end_is_not_unpacked(
    monkeypatch: pytest.MonkeyPatch, site: Web, here: Environment
) -> None:
    monkeypatch.setattr(archives, "MAX_FILES", 10)
    site.files["/m.zip"] = packed_zip({f"{number}.jsonl": b"" for number in range(20)})
    with pytest.raises(StageError, match=r"far too much for an archive of its size"):
        fetch(f"{site.url}/m.zip", "dataset", lambda names, _: data_names(names), here)


# Places


def test_a_link_on_a_claim_does_not_lead_to_the_secrets_of_the_pod(tmp_path: Path) -> None:
    claim = tmp_path / "claims" / "shared"
    claim.mkdir(parents=True)
    (claim / "notes.txt").symlink_to("/proc/self/environ")
    config = run_config(model="unused", dataset="pvc://shared/notes.txt")
    with pytest.raises(StageError, match=r"pvc://shared/notes\.txt: notes\.txt is a link out of its volume"):
        resolve_part(training_parts(config)[0], config, environment(tmp_path, claims=tmp_path / "claims"))


def test_a_script_of_a_data_set_is_not_run(bench: Workbench, trap: Any) -> None:
    bench.write("data/data.py", trap.code)
    directory = bench.write("data/train.jsonl", [{"text": "a b"}] * 4).parent
    assert bench.prepare(directory).rows == 4
    assert not trap.sprung
