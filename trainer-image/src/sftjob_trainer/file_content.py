"""What a data file really is, as its first bytes show, compared with what its name says."""

import re
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Final

from sftjob_trainer.failure import data_invalid
from sftjob_trainer.files import DataFile, compression, kind

FORM_OF_COMPRESSION: Final = {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "Zstandard"}
_FORM_OF_KIND: Final = {".parquet": "Parquet", ".arrow": "Arrow"}
_HEAD_BYTES: Final = 64


@dataclass(frozen=True, slots=True)
class _Form:
    """A file format: its first bytes, and what to do with such a file under another name.

    `{bare}` in `advice` is the name without the suffix of a compression, `{stem}` that without its own suffix.
    """

    name: str
    first_bytes: re.Pattern[bytes]
    advice: str


_FORMS: Final = (
    _Form("gzip", re.compile(rb"\x1f\x8b"), "rename it to {bare}.gz"),
    _Form("bzip2", re.compile(rb"BZh[1-9](?:1AY&SY|\x17rE8P\x90)"), "rename it to {bare}.bz2"),
    _Form("xz", re.compile(rb"\xfd7zXZ\x00"), "rename it to {bare}.xz"),
    _Form("Zstandard", re.compile(rb"\x28\xb5\x2f\xfd|[\x50-\x5f]\x2a\x4d\x18"), "rename it to {bare}.zst"),
    _Form("Parquet", re.compile(rb"PAR1[\x00-\x1f]"), "rename it to {stem}.parquet"),
    _Form("Arrow", re.compile(rb"ARROW1\x00"), "rename it to {stem}.arrow"),
    _Form("ZIP", re.compile(rb"PK\x03\x04"), "unpack it first (an .xlsx workbook is one too: export it as CSV)"),
    _Form("PDF", re.compile(rb"%PDF-\d"), "convert it to text first"),
    _Form(
        "a Git LFS pointer",
        re.compile(rb"version https://git-lfs\.github\.com/spec/"),
        "the data itself was never downloaded: run git lfs pull where the file comes from",
    ),
    _Form("UTF-16", re.compile(rb"[^\x00]\x00[^\x00]\x00|\x00[^\x00]\x00[^\x00]"), "save the file as UTF-8"),
)


def check_content(file: DataFile) -> None:
    """See that the first bytes of `file` are not those of another format than the one that its name says.

    Raises:
        Failure: they are; the message names the format and what to do.
    """
    with file.path.open("rb") as stream:
        head = stream.read(_HEAD_BYTES)
    packed = compression(file.name)
    expected = _FORM_OF_KIND.get(kind(file.name) or "") if packed is None else FORM_OF_COMPRESSION[packed]
    found = next((form for form in _FORMS if form.first_bytes.match(head)), None)
    bare = file.name if packed is None else file.name[: -len(packed)]
    if found is None and packed is not None and _is_text(head):
        found = _Form("text", re.compile(b""), "rename it to {bare}")
    if found is not None and found.name != expected:
        advice = found.advice.format(bare=bare, stem=str(PurePosixPath(bare).with_suffix("")))
        raise data_invalid(file.name, f"the content of the file is {found.name}, which its name does not say; {advice}")


def _is_text(head: bytes) -> bool:
    """Whether `head`, which may end within a character, is text."""
    text = head.decode("utf-8", errors="ignore")
    return (
        bool(text) and len(head) - len(text.encode()) < 4 and text.replace("\n", " ").replace("\t", " ").isprintable()
    )
