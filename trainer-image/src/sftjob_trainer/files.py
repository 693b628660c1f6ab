"""Rows from .jsonl, .csv and .parquet files. Every error says which file and which line or row."""

import csv
import hashlib
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure
from sftjob_trainer.wording import either, type_name

SUFFIXES: Final = (".jsonl", ".csv", ".parquet")
_PARQUET_BATCH_ROWS: Final = 1000
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file of the data set; `name` is how it is called in messages, `path` where it lies."""

    name: str
    path: Path


@dataclass(frozen=True, slots=True)
class Row:
    """One row and its place, `FILE:LINE` or for Parquet `FILE row NUMBER`, both counted from 1."""

    place: str
    values: Mapping[str, Any]


def data_files(path: Path, source: str) -> Sequence[DataFile]:
    """The data files at `path`: the file itself, or all below the directory in the order of their names.

    Raises:
        Failure: there is nothing at `path`, or nothing of a known kind.
    """
    if path.is_file():
        if path.suffix not in SUFFIXES:
            raise Failure(
                Reason.DATA_INVALID, f"{source}: {path.name} must be a {either(SUFFIXES)} file; convert it first"
            )
        return (DataFile(path.name, path),)
    if not path.is_dir():
        raise Failure(Reason.DATASET_NOT_FOUND, f"{source}: there is no file or directory {path}")
    found = sorted(file for file in path.rglob("*") if file.suffix in SUFFIXES and _visible(file.relative_to(path)))
    if not found:
        raise Failure(Reason.DATASET_NOT_FOUND, f"{source}: there is no {either(SUFFIXES)} file in {path}")
    return tuple(DataFile(str(file.relative_to(path)), file) for file in found)


def read_rows(files: Sequence[DataFile]) -> Iterator[Row]:
    """All rows of all files, one after the other.

    Raises:
        Failure: a file can not be read as what its name says, or has no rows.
    """
    readers = {".jsonl": _read_jsonl, ".csv": _read_csv, ".parquet": _read_parquet}
    for file in files:
        empty = True
        for row in readers[file.path.suffix](file):
            empty = False
            yield row
        if empty:
            raise _invalid(file.name, "the file has no rows")


def fingerprint(files: Sequence[DataFile]) -> str:
    """SHA-256 over names and contents, so that equal data is known as equal wherever it lies."""
    digest = hashlib.sha256()
    for file in files:
        with file.path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{file.name}\0{content}\n".encode())
    return digest.hexdigest()


def _visible(path: Path) -> bool:
    return not any(part.startswith(".") for part in path.parts)


def _lines(file: DataFile) -> Iterator[tuple[int, str]]:
    with file.path.open("rb") as stream:
        for number, line in enumerate(stream, 1):
            raw = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
            try:
                yield number, raw.decode("utf-8")
            except UnicodeDecodeError as error:
                what = f"not valid UTF-8: byte 0x{raw[error.start]:02x} at column {error.start + 1}"
                raise _invalid(f"{file.name}:{number}", f"{what}; save the file as UTF-8") from error


def _read_jsonl(file: DataFile) -> Iterator[Row]:
    for number, line in _lines(file):
        if not line.strip():
            continue
        place = f"{file.name}:{number}"
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            what = f"not valid JSON: {error.msg} at column {error.colno}"
            raise _invalid(place, f"{what}; every line must be one JSON object") from error
        except RecursionError as error:
            raise _invalid(place, "not valid JSON: nested too deeply") from error
        if not isinstance(values, dict):
            raise _invalid(place, f"a row must be a JSON object, not {type_name(values)}")
        yield Row(place, values)


def _read_csv(file: DataFile) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)
    reader = csv.reader((line for _, line in _lines(file)), strict=True)
    first = 1
    header: list[str] | None = None
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            raise _invalid(f"{file.name}:{first}", f"not valid CSV: {error}") from error
        if fields is None:
            return
        place = f"{file.name}:{first}"
        first = reader.line_num + 1
        if not fields:
            continue
        if header is None:
            header = fields
            if repeated := sorted({name for name in header if header.count(name) > 1}):
                raise _invalid(place, f'the header names the column "{repeated[0]}" twice')
        elif len(fields) != len(header):
            raise _invalid(place, f"the row has {len(fields)} fields but the header has {len(header)}")
        else:
            yield Row(place, dict(zip(header, fields, strict=True)))


def _read_parquet(file: DataFile) -> Iterator[Row]:
    import pyarrow as pa
    from pyarrow import parquet

    number = 0
    try:
        with parquet.ParquetFile(file.path) as table:
            for batch in table.iter_batches(batch_size=_PARQUET_BATCH_ROWS):
                for index in range(batch.num_rows):
                    number += 1
                    yield Row(
                        f"{file.name} row {number}", {key: batch[key][index].as_py() for key in batch.column_names}
                    )
    except UnicodeDecodeError as error:
        raise _invalid(f"{file.name} row {number}", "text that is not valid UTF-8") from error
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        raise _invalid(f"{file.name} after row {number}", f"not readable as Parquet: {_first_line(error)}") from error


def _first_line(error: BaseException) -> str:
    return str(error).partition("\n")[0][:200]


def _invalid(place: str, problem: str) -> Failure:
    return Failure(Reason.DATA_INVALID, f"{place}: {problem}")
