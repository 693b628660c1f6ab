from pathlib import Path

import pyarrow as pa
import pytest
from pyarrow import parquet

from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure
from sftjob_trainer.files import Row, data_files, fingerprint, read_rows


def rows_of(path: Path) -> list[Row]:
    return list(read_rows(data_files(path, str(path))))


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
        Row("d.parquet row 1", {"messages": [message]}),
        Row("d.parquet row 2", {"messages": [message, message]}),
    ]


def test_a_directory_is_read_in_the_order_of_names_and_without_hidden_files(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a/z.jsonl", ".cache/c.jsonl", "._b.jsonl", "notes.txt"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text('{"text": "a"}\n')
    assert [row.place for row in rows_of(tmp_path)] == ["a/z.jsonl:1", "b.jsonl:1"]


@pytest.mark.parametrize(
    ("name", "sentence"),
    [
        ("nowhere", "pvc://data/nowhere: there is no file or directory {path}"),
        ("empty", "pvc://data/empty: there is no .jsonl, .csv or .parquet file in {path}"),
    ],
)
def test_a_place_without_data_is_not_found(tmp_path: Path, name: str, sentence: str) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(Failure) as raised:
        data_files(tmp_path / name, f"pvc://data/{name}")
    assert raised.value.message == sentence.format(path=tmp_path / name)
    assert raised.value.reason is Reason.DATASET_NOT_FOUND


def test_the_fingerprint_is_of_names_and_contents_wherever_they_lie(tmp_path: Path) -> None:
    def made(directory: str, content: str) -> str:
        path = tmp_path / directory
        path.mkdir()
        (path / "a.jsonl").write_text(content)
        return fingerprint(data_files(path, ""))

    first = made("one", "{}")
    assert made("two", "{}") == first
    assert made("three", "{} ") != first
