import bz2
import gzip
import json
import lzma
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from sftjob_contract.reasons import Reason
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.rows.readers import Row, read_rows
from sftjob_trainer.sources.files import FileSelection, data_files, data_names, fingerprint
from sftjob_trainer.sources.missing_path import missing_path_message


def rows_of(path: Path) -> list[Row]:
    rows = list(read_rows(data_files(path, str(path)).files))
    assert all(isinstance(row, Row) for row in rows)
    return [row for row in rows if isinstance(row, Row)]


def test_json_lines_keep_their_line_numbers_over_blank_lines(tmp_path: Path) -> None:
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"text": "a"}\r\n\n  \n{"text": "caf\xc3\xa9"}')
    assert rows_of(path) == [Row("d.jsonl:1", {"text": "a"}), Row("d.jsonl:4", {"text": "café"})]


def test_a_csv_row_is_named_by_its_first_line(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_bytes(b'\xef\xbb\xbftext,id\r\n"two\nlines, ""quoted""",1\r\n\r\nnext,2\r\n')
    assert rows_of(path) == [
        Row("d.csv:2", {"text": 'two\nlines, "quoted"', "id": "1"}),
        Row("d.csv:5", {"text": "next", "id": "2"}),
    ]


def test_a_csv_field_may_be_long(tmp_path: Path) -> None:
    path = tmp_path / "d.csv"
    path.write_text("text\n" + "a" * 200_000 + "\n")
    assert len(rows_of(path)[0].values["text"]) == 200_000


def test_parquet_rows_are_numbered_from_one(tmp_path: Path) -> None:
    path = tmp_path / "d.parquet"
    message = {"role": "user", "content": "a"}
    parquet.write_table(pa.table({"messages": [[message], [message, message]]}), path)
    assert rows_of(path) == [
        Row("d.parquet row 1", {"messages": [message]}, is_filled=True),
        Row("d.parquet row 2", {"messages": [message, message]}, is_filled=True),
    ]


def write_arrow(path: Path, table: pa.Table, *, stream: bool) -> None:
    new = pa.ipc.new_stream if stream else pa.ipc.new_file
    with new(str(path), table.schema) as writer:
        writer.write_table(table, max_chunksize=2)


@pytest.mark.parametrize("stream", [True, False])
def test_arrow_files_are_read_in_both_formats(tmp_path: Path, stream: bool) -> None:
    path = tmp_path / "d.arrow"
    write_arrow(path, pa.table({"text": ["a", "b", "c"]}), stream=stream)
    assert rows_of(path) == [
        Row(f"d.arrow row {number}", {"text": "abc"[number - 1]}, is_filled=True) for number in (1, 2, 3)
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_what_datasets_saves_is_read(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    rows = Dataset.from_list([{"text": "a"}, {"text": "b"}])
    DatasetDict({"train": rows}).save_to_disk(tmp_path / "saved")
    assert [row.values["text"] for row in rows_of(tmp_path / "saved")] == ["a", "b"]


@pytest.mark.parametrize(
    "content",
    [
        '[\n  {"text": "a"},\n\n  {"text": "b]}\\""}\n]\n',
        '\n{"text": "a"}\n\n{"text": "b]}\\""}',
    ],
    ids=["list", "lines"],
)
def test_json_is_a_list_of_objects_or_objects_one_after_the_other(tmp_path: Path, content: str) -> None:
    path = tmp_path / "d.json"
    path.write_text("\ufeff" + content, encoding="utf-8")
    assert rows_of(path) == [Row("d.json:2", {"text": "a"}), Row("d.json:4", {"text": 'b]}"'})]


@pytest.mark.parametrize("rows", [[{"text": "é" * 700_000}] * 5, [{"text": "word"}] * 200_000], ids=["long", "many"])
def test_json_is_read_piece_by_piece(tmp_path: Path, rows: list[dict[str, str]]) -> None:
    path = tmp_path / "d.json"
    path.write_text(json.dumps(rows, ensure_ascii=False, indent=1), encoding="utf-8")
    found = rows_of(path)
    assert [row.values for row in found] == rows
    assert found[-1].location == f"d.json:{3 * len(rows) - 1}"


def test_an_empty_list_has_no_rows(tmp_path: Path) -> None:
    path = tmp_path / "d.json"
    path.write_text("[ ]")
    with pytest.raises(StageError, match=r"^d\.json: the file has no rows$"):
        rows_of(path)


def test_of_a_text_file_each_line_that_is_not_blank_is_a_row(tmp_path: Path) -> None:
    path = tmp_path / "d.txt"
    path.write_bytes(b"\xef\xbb\xbfone line\r\n\n  \n  another")
    assert rows_of(path) == [Row("d.txt:1", {"text": "one line"}), Row("d.txt:4", {"text": "  another"})]


CONTENT = {"jsonl": '{"text": "a"}', "json": '[{"text": "a"}]', "csv": "text\na", "tsv": "text\tb\na\t", "txt": "a"}
PACK = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": lambda content: pa.compress(content, codec="zstd", asbytes=True),
}


LINES = {
    "jsonl": ['{"text": "a"}', '{"text": "b"}'],
    "json": ['[{"text": "a"},', '{"text": "b"}]'],
    "csv": ["text", "a", "b"],
    "tsv": ["text\tid", "a\t1", "b\t2"],
    "txt": ["a", "b"],
}


@pytest.mark.parametrize("end", ["\r", "\r\n", "\n"], ids=["CR", "CRLF", "LF"])
@pytest.mark.parametrize("suffix", LINES)
def test_lines_end_in_cr_too_as_old_macs_write_them(tmp_path: Path, suffix: str, end: str) -> None:
    path = tmp_path / f"d.{suffix}"
    path.write_bytes("".join(f"{line}{end}" for line in LINES[suffix]).encode())
    last = len(LINES[suffix])
    assert [(row.location, row.values["text"]) for row in rows_of(path)] == [
        (f"d.{suffix}:{last - 1}", "a"),
        (f"d.{suffix}:{last}", "b"),
    ]


@pytest.mark.parametrize("word", ["NaN", "nan", "null", "NA", "N/A", "None", "<NA>", "True", "007", "1e5"])
def test_a_cell_of_csv_is_text_as_it_is_written(tmp_path: Path, word: str) -> None:
    path = tmp_path / "d.csv"
    path.write_text(f'prompt,completion\n{word},"{word}"\n')
    assert rows_of(path) == [Row("d.csv:2", {"prompt": word, "completion": word})]


def test_a_long_line_that_ends_in_cr_is_read_over_pieces_of_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sftjob_trainer.rows.readers.MAX_ROW_BYTES", 20)
    path = tmp_path / "d.jsonl"
    path.write_bytes(b'{"text": "abc"}\r' * 9 + b'{"text": "abc"}')
    assert [row.location for row in rows_of(path)] == [f"d.jsonl:{number}" for number in range(1, 11)]
    path.write_bytes(b'{"text": "abc"}\r{"text": "' + b"a" * 40 + b'"}\r')
    with pytest.raises(StageError, match=r"^d\.jsonl:2: the row is larger than "):
        rows_of(path)


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize("suffix", CONTENT)
def test_text_files_may_be_packed(tmp_path: Path, suffix: str, packed: str) -> None:
    path = tmp_path / f"d.{suffix}.{packed}"
    path.write_bytes(PACK[packed](CONTENT[suffix].encode()))
    (row,) = rows_of(path)
    assert row.values["text"] == "a"


@pytest.mark.parametrize("packed", PACK)
@pytest.mark.parametrize(
    "damage", [lambda content: content[:-3], lambda _: b"\0no such thing" * 9], ids=["cut", "other"]
)
def test_a_damaged_packed_file_is_refused_by_name(
    tmp_path: Path, packed: str, damage: Callable[[bytes], bytes]
) -> None:
    path = tmp_path / f"d.jsonl.{packed}"
    path.write_bytes(damage(PACK[packed](b'{"text": "a"}\n' * 999)))
    form = {"gz": "gzip", "bz2": "bzip2", "xz": "xz", "zst": "Zstandard"}[packed]
    with pytest.raises(StageError, match=rf"^d\.jsonl\.{packed}: not readable as {form}: ") as raised:
        rows_of(path)
    assert raised.value.reason is Reason.DATA_INVALID


@pytest.mark.parametrize("name", ["D.JSONL", "d.NDJSON", "d.ndjson", "d.Jsonl.GZ", "d.CSV", "d.TSV"])
def test_a_name_says_how_a_file_is_read_in_capitals_and_under_other_usual_suffixes_too(
    tmp_path: Path, name: str
) -> None:
    suffix = name.lower().split(".")[1].replace("ndjson", "jsonl")
    content = CONTENT[suffix].encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("GZ") else content)
    assert [row.values["text"] for row in rows_of(tmp_path)] == ["a"]


def test_a_tab_parts_the_fields_of_tsv_and_a_comma_does_not(tmp_path: Path) -> None:
    path = tmp_path / "d.tsv"
    path.write_text('prompt\tcompletion\na, b\t"c\td"\n')
    assert rows_of(path) == [Row("d.tsv:2", {"prompt": "a, b", "completion": "c\td"})]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_of_what_datasets_saves_its_caches_are_no_rows(tmp_path: Path) -> None:
    from datasets import Dataset

    Dataset.from_list([{"text": "a"}, {"text": "b"}]).save_to_disk(tmp_path / "saved")
    (shard,) = (tmp_path / "saved").glob("*.arrow")
    shutil.copy(shard, shard.with_name("cache-1b2c3d.arrow"))
    found = data_files(tmp_path / "saved", "saved")
    assert [file.name for file in found.files] == [shard.name]
    assert set(found.names.unread) == {"cache-1b2c3d.arrow", "dataset_info.json", "state.json"}


def folder(root: Path, names: Sequence[str]) -> Path:
    for name in names:
        path = root / "folder" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    return root / "folder"


TRAIN = FileSelection(splits=("train",))
OF_NO_SPLIT = (
    "has no split train; it has test, and a.jsonl and 1 more of no split: "
    "name such files like train.jsonl, or put them into a folder train"
)


@pytest.mark.parametrize(
    ("there", "wanted", "read"),
    [
        (["a.jsonl", "b.jsonl", "README.md"], TRAIN, ["a.jsonl", "b.jsonl"]),
        (["train.jsonl", "test.jsonl", "validation.jsonl"], TRAIN, ["train.jsonl"]),
        (["Train.jsonl", "TEST.JSONL"], TRAIN, ["Train.jsonl"]),
        (["train/a.csv", "train/b.csv", "test/a.csv"], TRAIN, ["train/a.csv", "train/b.csv"]),
        (["data/train-00000-of-00001.parquet", "data/test-00000-of-00001.parquet", "more.parquet"], TRAIN,
         ["data/train-00000-of-00001.parquet"]),
        (["train.jsonl", "test.jsonl"], FileSelection(splits=("test",), split_is_set=True), ["test.jsonl"]),
        (["train.jsonl", "dev.jsonl"], FileSelection(splits=("validation", "test", "train")), ["dev.jsonl"]),
        (["train.jsonl", "test.jsonl"], FileSelection(), ["test.jsonl", "train.jsonl"]),
    ],
)  # fmt: skip
def test_of_a_folder_the_split_is_read_as_of_a_repository_on_the_hub_and_all_else_is_named(
    tmp_path: Path, there: Sequence[str], wanted: FileSelection, read: Sequence[str]
) -> None:
    found = data_files(folder(tmp_path, there), "pvc://data/folder", wanted)
    assert [file.name for file in found.files] == read
    assert set(found.names.unread) == {*there} - {*read}


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_the_splits_of_a_tree_that_datasets_saved_are_those_that_it_names(tmp_path: Path) -> None:
    from datasets import Dataset, DatasetDict

    parts = {name: Dataset.from_list([{"text": name}]) for name in ("train_sft", "train", "held_out")}
    DatasetDict(parts).save_to_disk(tmp_path)
    for name in parts:
        found = data_files(tmp_path, "saved", FileSelection(splits=(name,), split_is_set=True))
        assert [row.values["text"] for row in read_rows(found.files) if isinstance(row, Row)] == [name]


def test_the_readme_of_a_folder_declares_subsets_as_a_card_on_the_hub_does(tmp_path: Path) -> None:
    place = folder(tmp_path, ["en/a.jsonl", "fr/a.jsonl"])
    (place / "README.md").write_text(
        "---\nconfigs:\n- {config_name: en, data_files: en/*}\n- {config_name: fr, data_files: fr/*}\n---\n"
    )
    found = data_files(place, "folder", FileSelection(splits=("train",), subset="fr"))
    assert [file.name for file in found.files] == ["fr/a.jsonl"]
    with pytest.raises(StageError, match=r"^folder has several subsets, en, fr; set dataset\.subset to one of them$"):
        data_files(place, "folder", TRAIN)


@pytest.mark.parametrize(
    ("there", "sentence"),
    [
        (["test.jsonl"], "has no split train; it has test"),
        (["a.jsonl", "b.jsonl", "test.jsonl"], OF_NO_SPLIT),
    ],
)
def test_a_test_set_is_not_trained_on_unless_it_is_named(tmp_path: Path, there: Sequence[str], sentence: str) -> None:
    with pytest.raises(StageError) as raised:
        data_files(folder(tmp_path, there), "pvc://data/folder", TRAIN)
    assert raised.value.message == f"pvc://data/folder {sentence}"
    assert raised.value.reason is Reason.DATASET_NOT_FOUND


@pytest.mark.parametrize(
    "name",
    ["a.xlsx", "deep/b.zip", "c.jsonl.lz4", "d.parquet.gz", "e.AVRO", "f.pkl", "g.tar.gz", "h.csv.zip", "i.orc"],
)
def test_a_file_of_a_folder_that_looks_like_data_and_is_not_read_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(StageError) as raised:
        data_files(folder(tmp_path, ["a.jsonl", name]), "pvc://data/folder", TRAIN)
    assert raised.value.message == (
        f"pvc://data/folder: {name} cannot be read as rows; "
        "convert to .jsonl, .json, .csv, .tsv, .parquet, .arrow or .txt, or move out of the folder"
    )
    assert raised.value.reason is Reason.DATA_INVALID


@pytest.mark.parametrize(
    "wanted", [FileSelection(splits=("test",), split_is_set=True), FileSelection(splits=("train",), subset="en")]
)
def test_a_single_file_has_no_splits(tmp_path: Path, wanted: FileSelection) -> None:
    place = folder(tmp_path, ["test.jsonl"])
    assert [file.name for file in data_files(place / "test.jsonl", "", TRAIN).files] == ["test.jsonl"]
    with pytest.raises(StageError, match="is one file, which has no splits or subsets: remove split and subset"):
        data_files(place / "test.jsonl", "pvc://data/test.jsonl", wanted)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["b.csv", "a/z.jsonl", "a.json"], ["a/z.jsonl", "a.json", "b.csv"]),
        (["data.json", "dataset_info.json", "state.json", "config.json", "README.md"], ["data.json"]),
        (["train.jsonl", "notes.txt"], ["train.jsonl"]),
        (["one.txt", "two.txt.gz", "x.parquet.gz"], ["one.txt", "two.txt.gz"]),
        ([".cache/a.csv", "__pycache__/a.csv", ".a.csv", "../a.csv"], []),
    ],
)
def test_of_a_directory_the_files_with_rows_are_read(names: list[str], expected: list[str]) -> None:
    assert data_names(names) == expected


def test_a_directory_is_read_in_the_order_of_names_and_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a/z.jsonl", ".cache/c.jsonl", "._b.jsonl", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text('{"text": "a"}\n')
    assert [row.location for row in rows_of(tmp_path)] == ["a/z.jsonl:1", "b.jsonl:1"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nowhere", "does not exist; pvc://data has rows/, train.jsonl"),
        ("rows/", "has no .jsonl, .json, .csv, .tsv, .parquet, .arrow or .txt file; it has README.md"),
        ("trian.jsonl", "does not exist; did you mean pvc://data/train.jsonl? pvc://data has rows/, train.jsonl"),
        ("Train.JSONL", "does not exist; did you mean pvc://data/train.jsonl? pvc://data has rows/, train.jsonl"),
        ("rowz/a/b.jsonl", "does not exist; did you mean pvc://data/rows? pvc://data has rows/, train.jsonl"),
        ("rows/2024/b.jsonl", "does not exist; pvc://data/rows has README.md"),
        ("train.jsonl/x", "does not exist; did you mean pvc://data/train.jsonl? pvc://data has rows/, train.jsonl"),
    ],
)
def test_a_place_without_data_is_told_in_the_words_of_the_spec_with_what_is_there(
    tmp_path: Path, name: str, sentence: str
) -> None:
    claim = tmp_path / "claims" / "data"
    (claim / "rows").mkdir(parents=True)
    (claim / "rows" / "README.md").touch()
    (claim / ".hidden").touch()
    (claim / "train.jsonl").touch()
    with pytest.raises(StageError) as raised:
        data_files(claim / name, f"pvc://data/{name}")
    assert raised.value.message == f"pvc://data/{name} {sentence}"
    assert raised.value.reason is Reason.DATASET_NOT_FOUND


def test_what_is_there_is_told_in_bounds(tmp_path: Path) -> None:
    for number in range(1200):
        (tmp_path / f"{number:04}{'x' * 100}.jsonl").touch()
    told = missing_path_message("pvc://data/none.jsonl", tmp_path / "none.jsonl")
    assert told.endswith(" and more")
    assert len(told) < 1000


def test_a_claim_that_is_gone_shows_nothing_of_the_container(tmp_path: Path) -> None:
    assert (
        missing_path_message("pvc://data/a/b", tmp_path / "claims" / "data" / "a" / "b")
        == "pvc://data/a/b does not exist"
    )
    assert missing_path_message("pvc://data", tmp_path / "claims" / "data") == "pvc://data does not exist"


def test_the_fingerprint_is_of_names_and_contents_wherever_they_lie(tmp_path: Path) -> None:
    def made(directory: str, content: str) -> str:
        path = tmp_path / directory
        path.mkdir()
        (path / "a.jsonl").write_text(content)
        return fingerprint(data_files(path, "").files)

    first = made("one", "{}")
    assert made("two", "{}") == first
    assert made("three", "{} ") != first
