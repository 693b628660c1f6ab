"""The data files of a source: which of the files at a place hold rows, and the fingerprint of what is in them."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure
from sftjob_trainer.neighbours import content, is_missing
from sftjob_trainer.permissions import check_readable
from sftjob_trainer.wording import either

SUFFIXES: Final = (".jsonl", ".json", ".csv", ".parquet", ".arrow", ".txt")
GZIP: Final = ".gz"
_COMPRESSIBLE: Final = (".jsonl", ".json", ".csv", ".txt")
_NOT_DATA: Final = ("config.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""What `datasets` writes beside the rows."""


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file of the data set; `name` is how it is called in messages, `path` where it lies."""

    name: str
    path: Path


def kind(name: str) -> str | None:
    """The suffix that says how the file `name` is read, without a `.gz` behind it; None: it is no data file."""
    path = PurePosixPath(name)
    if path.suffix == GZIP:
        inner = path.with_suffix("").suffix
        return inner if inner in _COMPRESSIBLE else None
    return path.suffix if path.suffix in SUFFIXES else None


def data_names(names: Iterable[str]) -> list[str]:
    """The names that hold rows among those of a directory, in their order.

    Hidden files and the metadata of `datasets` do not. Text files do only where there is nothing else, since most are
    notes.
    """
    found = [name for name in names if kind(name) and _visible(PurePosixPath(name))]
    return sorted([name for name in found if kind(name) != ".txt"] or found, key=PurePosixPath)


def data_files(path: Path, source: str) -> Sequence[DataFile]:
    """The data files at `path`: the file itself, or all below the directory in the order of their names.

    Raises:
        Failure: there is nothing at `path`, nothing of a known kind, or something that we may not read.
    """
    if not path.is_file() and not path.is_dir():
        raise Failure(Reason.DATASET_NOT_FOUND, is_missing(source, path))
    check_readable([path], source)
    if path.is_file():
        check_kind(path.name, source)
        return (DataFile(path.name, path),)
    found = data_names(str(file.relative_to(path)) for file in path.rglob("*") if file.is_file())
    if not found:
        has = content(path)
        raise Failure(Reason.DATASET_NOT_FOUND, f"{source} has no {either(SUFFIXES)} file; it has {has}")
    check_readable((path / name for name in found), source)
    return tuple(DataFile(name, path / name) for name in found)


def check_kind(name: str, source: str) -> None:
    """Refuse a file that no reader is for.

    Raises:
        Failure: it is one.
    """
    if kind(name) is None:
        raise Failure(Reason.DATA_INVALID, f"{source}: {name} must be a {either(SUFFIXES)} file; convert it first")


def check_links(paths: Iterable[Path], source: str) -> None:
    """Refuse links from a claim to somewhere else in the container, such as the process's own secrets.

    Raises:
        Failure: a file is one, or leads nowhere.
    """
    for path in paths:
        try:
            leads_out = path.is_symlink() and path.lstat().st_dev != path.stat().st_dev
        except OSError:
            leads_out = True
        if leads_out:
            raise Failure(Reason.CONFIG_INVALID, f"{source}: {path.name} is a link out of its volume; copy the file")


def fingerprint(files: Iterable[DataFile]) -> str:
    """SHA-256 over names and contents, so that equal data is known as equal wherever it lies."""
    digest = hashlib.sha256()
    for file in files:
        with file.path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{file.name}\0{content}\n".encode())
    return digest.hexdigest()


def _visible(path: PurePosixPath) -> bool:
    hidden = any(part.startswith((".", "__")) for part in path.parts)
    return not hidden and path.name not in _NOT_DATA
