"""Rows from data files. Errors name the file and the line or row, both counted from 1."""

import bz2
import csv
import gzip
import io
import json
import lzma
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import IO, Any, Final

from sftjob_trainer.process.errors import StageError, data_invalid
from sftjob_trainer.process.wording import type_name
from sftjob_trainer.rows.json_stream import MAX_ROW_BYTES, JsonStream, UnusableValueError, parse_json, too_large
from sftjob_trainer.sources.file_content import COMPRESSION_NAMES, check_content
from sftjob_trainer.sources.files import DataFile, compression, kind

_BATCH_ROWS: Final = 1000
_BYTE_ORDER_MARK: Final = b"\xef\xbb\xbf"
_ARROW_FILE: Final = b"ARROW1"
"""First bytes of Arrow's file format; its stream format has no signature."""
_PIECE_BYTES: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class Row:
    """One row and its location: `FILE:LINE`, or for Parquet and Arrow `FILE row NUMBER`.

    `is_filled`: the row comes from a table with one schema, which adds nulls for keys that other rows have.
    """

    location: str
    values: Mapping[str, Any]
    is_filled: bool = False


Rows = Iterator[Row | StageError]
"""The rows of a file; a StageError replaces a row that cannot be read."""


def read_rows(files: Sequence[DataFile]) -> Rows:
    """All rows of all files, in order.

    Raises:
        StageError: a file does not match the format of its name, or has no rows.
    """
    readers: Mapping[str | None, Callable[[DataFile], Rows]] = {
        ".jsonl": _read_jsonl,
        ".json": _read_json,
        ".csv": _read_csv,
        ".tsv": partial(_read_csv, delimiter="\t"),
        ".parquet": _read_parquet,
        ".arrow": _read_arrow,
        ".txt": _read_text,
    }
    for file in files:
        check_content(file)
        empty = True
        for row in readers[kind(file.name)](file):
            empty = False
            yield row
        if empty:
            raise data_invalid(file.name, "the file has no rows")


@contextmanager
def _open(file: DataFile) -> Iterator[IO[bytes]]:
    """The bytes of a text file, decompressed."""
    packed = compression(file.name)
    if packed is None:
        with file.path.open("rb") as stream:
            yield stream
        return
    format_name = COMPRESSION_NAMES[packed]
    try:
        with _DECOMPRESSORS[packed](file.path) as unpack:
            yield unpack
    except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
        if getattr(error, "errno", None) is not None:  # an error of the disk, not of the content
            raise
        raise data_invalid(file.name, f"not readable as {format_name}: {error}") from error


def _zstandard(path: Path) -> Any:
    """Decompress with pyarrow's library; Python includes one since 3.14."""
    import pyarrow as pa

    return io.BufferedReader(pa.input_stream(str(path), compression="zstd"), _PIECE_BYTES)


_DECOMPRESSORS: Final[Mapping[str, Callable[[Path], Any]]] = {
    ".gz": gzip.GzipFile,
    ".bz2": bz2.BZ2File,
    ".xz": lzma.LZMAFile,
    ".zst": _zstandard,
}
"""The decompressor of each compression."""


def _lines(file: DataFile) -> Iterator[tuple[str, str | StageError]]:
    """Location and text of each line; a StageError for a line that is not UTF-8."""
    with _open(file) as stream:
        for number, line in enumerate(_raw_lines(stream), 1):
            location = f"{file.name}:{number}"
            if len(line) > MAX_ROW_BYTES:
                raise too_large(location)
            raw = line.removeprefix(_BYTE_ORDER_MARK) if number == 1 else line
            try:
                yield location, raw.decode("utf-8")
            except UnicodeDecodeError as error:
                what = f"not valid UTF-8: byte 0x{raw[error.start]:02x} at column {error.start + 1}"
                yield location, data_invalid(location, f"{what}; save the file as UTF-8")


def _raw_lines(stream: IO[bytes]) -> Iterator[bytes]:
    """The lines of `stream` with their ends: LF, CR LF or CR, as Python's universal newlines.

    A line larger than MOST_ROW_BYTES is cut at some point beyond this size.
    """
    rest = b""
    while piece := stream.readline(MAX_ROW_BYTES + 1):
        lines = (rest + piece).splitlines(keepends=True)
        is_whole = lines[-1].endswith(b"\n") or len(lines[-1]) > MAX_ROW_BYTES
        rest = b"" if is_whole else lines.pop()
        yield from lines
    if rest:
        yield rest


def _read_jsonl(file: DataFile) -> Rows:
    for location, line in _lines(file):
        if isinstance(line, StageError):
            yield line
        elif line.strip():
            yield _json_row(location, line)


def _json_row(location: str, line: str) -> Row | StageError:
    try:
        values = parse_json(line)
    except json.JSONDecodeError as error:
        what = f"not valid JSON: {error.msg} at column {error.colno}"
        return data_invalid(location, f"{what}; every line must be one JSON object")
    except UnusableValueError as error:
        return data_invalid(location, str(error))
    except RecursionError:
        return data_invalid(location, "not valid JSON: nested too deeply")
    return _object_row(location, values)


def _object_row(location: str, values: Any) -> Row | StageError:
    if isinstance(values, StageError):
        return values
    if not isinstance(values, dict):
        return data_invalid(location, f"a row must be a JSON object, not {type_name(values)}")
    return Row(location, values)


def _read_json(file: DataFile) -> Rows:
    """A list of objects, or consecutive objects, as in many files with this name."""
    with _open(file) as stream:
        text = JsonStream(stream, file.name)
        opening = text.peek()
        if opening == "[":
            rows = text.elements()
        elif opening in ("{", ""):
            rows = text.values()
        else:
            raise data_invalid(text.location, "the file must be a list of objects: [{...}, {...}]")
        for number, (location, value) in enumerate(rows, 1):
            if number == 1 and opening == "{" and not text.peek():
                raise data_invalid(file.name, "the file is a single object; it must be a list of them: [{...}, {...}]")
            yield _object_row(location, value)


def _read_text(file: DataFile) -> Rows:
    """Each non-blank line, as the column `text`."""
    for location, line in _lines(file):
        if isinstance(line, StageError):
            yield line
        elif line.strip():
            yield Row(location, {"text": line.rstrip("\r\n")})


def _read_csv(file: DataFile, delimiter: str = ",") -> Rows:
    csv.field_size_limit(MAX_ROW_BYTES)
    reader = csv.reader(_readable(_lines(file)), strict=True, delimiter=delimiter)
    first = 1
    header: list[str] | None = None
    while True:
        try:
            fields = next(reader, None)
        except csv.Error as error:
            format_name = "CSV" if delimiter == "," else "TSV"
            raise data_invalid(f"{file.name}:{first}", f"not valid {format_name}: {error}") from error
        if fields is None:
            return
        location = f"{file.name}:{first}"
        first = reader.line_num + 1
        if not fields:
            continue
        if header is None:
            header = fields
            if repeated := sorted({name for name in header if header.count(name) > 1}):
                raise data_invalid(location, f'the header names the column "{repeated[0]}" twice')
        elif len(fields) != len(header):
            yield data_invalid(location, f"the row has {len(fields)} fields but the header has {len(header)}")
        else:
            yield Row(location, dict(zip(header, fields, strict=True)))


def _readable(lines: Iterator[tuple[str, str | StageError]]) -> Iterator[str]:
    """The lines of a file that must be readable as a whole: a quoted field may span several lines."""
    for _, line in lines:
        if isinstance(line, StageError):
            raise line
        yield line


def _read_parquet(file: DataFile) -> Rows:
    from pyarrow import parquet

    def batches() -> Iterator[Any]:
        with parquet.ParquetFile(file.path) as table:
            yield from table.iter_batches(batch_size=_BATCH_ROWS)

    return _table_rows(batches(), file, "Parquet")


def _read_arrow(file: DataFile) -> Rows:
    import pyarrow as pa

    def batches() -> Iterator[Any]:
        with pa.memory_map(str(file.path)) as source:
            in_file_format = source.read(len(_ARROW_FILE)) == _ARROW_FILE
            source.seek(0)
            if not in_file_format:
                yield from pa.ipc.open_stream(source)
                return
            reader = pa.ipc.open_file(source)
            yield from (reader.get_batch(index) for index in range(reader.num_record_batches))

    return _table_rows(batches(), file, "Arrow")


def _table_rows(batches: Iterator[Any], file: DataFile, format_name: str) -> Rows:
    import pyarrow as pa

    number = 0
    try:
        for batch in batches:
            for start in range(0, batch.num_rows, _BATCH_ROWS):
                for values in _values(batch.slice(start, _BATCH_ROWS)):
                    number += 1
                    location = f"{file.name} row {number}"
                    yield (
                        data_invalid(location, "text that is not valid UTF-8")
                        if values is None
                        else Row(location, values, is_filled=True)
                    )
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError, OSError) as error:
        first_line = str(error).partition("\n")[0][:200]
        raise data_invalid(f"{file.name} after row {number}", f"not readable as {format_name}: {first_line}") from error


def _values(batch: Any) -> Iterator[Mapping[str, Any] | None]:
    """The rows of `batch`; None for one whose text is not UTF-8."""
    try:
        yield from batch.to_pylist()
    except UnicodeDecodeError:
        for index in range(batch.num_rows):
            try:
                yield batch.slice(index, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield None
