"""Detect the format of a data file from its first bytes and compare it with the file's name."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from sftjob_trainer.process.errors import data_invalid
from sftjob_trainer.sources.files import DataFile, compression, kind

COMPRESSION_NAMES: Final = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "Zstandard"}
_FORMAT_NAMES: Final = {".parquet": "Parquet", ".arrow": "Arrow"}
_HEAD_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class _FileFormat:
    """A file format: its first bytes, and advice for such a file under another name.

    In `advice`, `{bare}` is the name without a compression suffix, `{stem}` the name without its own suffix.
    """

    name: str
    first_bytes: re.Pattern[bytes]
    advice: str


_FILE_FORMATS: Final = (
    _FileFormat("gzip", re.compile(rb"\x1f\x8b"), "rename it to {bare}.gz"),
    _FileFormat("bzip2", re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), "rename it to {bare}.bz2"),
    _FileFormat("xz", re.compile(rb"\xfd7zXZ\x00"), "rename it to {bare}.xz"),
    _FileFormat("Zstandard", re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), "rename it to {bare}.zst"),
    _FileFormat("Parquet", re.compile(rb"PAR1[\x00-\x1f]"), "rename it to {stem}.parquet"),
    _FileFormat("Arrow", re.compile(rb"ARROW1\x00"), "rename it to {stem}.arrow"),
    _FileFormat("ZIP", re.compile(rb"PK\x03\x04"), "unpack it first (an .xlsx workbook is one too: export it as CSV)"),
    _FileFormat("PDF", re.compile(rb"%PDF-\d"), "convert it to text first"),
    _FileFormat(
        "a Git LFS pointer",
        re.compile(rb"version https://git-lfs\.github\.com/spec/"),
        "the data itself was never downloaded: run git lfs pull where the file comes from",
    ),
    _FileFormat("UTF-16", re.compile(rb"[^\x00]\x00[^\x00]\x00|\x00[^\x00]\x00[^\x00]"), "save the file as UTF-8"),
)


def check_content(file: DataFile) -> None:
    """Check that the first bytes of `file` do not belong to another format than its name indicates.

    Raises:
        StageError: they do; the message names the format and what to do.
    """
    with file.path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    packed = compression(file.name)
    expected = _FORMAT_NAMES.get(kind(file.name) or "") if packed is None else COMPRESSION_NAMES[packed]
    found = next((file_format for file_format in _FILE_FORMATS if file_format.first_bytes.match(head)), None)
    bare = file.name if packed is None else file.name[: -len(packed)]
    if found is None and packed is not None and _is_text(head):
        found = _FileFormat("text", re.compile(b""), "rename it to {bare}")
    if found is not None and found.name != expected:
        advice = found.advice.format(bare=bare, stem=str(PurePosixPath(bare).with_suffix("")))
        raise data_invalid(file.name, f"the file contains {found.name}, which does not match its name; {advice}")


def _is_text(head: bytes) -> bool:
    """Whether `head`, which may end within a character, is text."""
    text = head.decode("utf-8", errors="ignore")
    return (
        bool(text) and len(head) - len(text.encode()) < 4 and text.replace("\n", " ").replace("\t", " ").isprintable()
    )
