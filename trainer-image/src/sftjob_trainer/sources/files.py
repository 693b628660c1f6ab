"""The data files of a source: which files at a location contain rows, and the fingerprint of their content."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from sftjob_contract.reasons import Reason
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.permissions import check_readable
from sftjob_trainer.process.wording import one_of
from sftjob_trainer.sources.missing_path import list_content, missing_path_message
from sftjob_trainer.sources.splits import CARD, SPLITS_ON_DISK, SplitError, declared_subsets, first_split, splits_of
from sftjob_trainer.sources.weights import ReadFile

SUFFIXES: Final = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt")
_ALIASES: Final = {".ndjson": ".jsonl", ".feather": ".arrow"}
COMPRESSIONS: Final = (".gz", ".bz2", ".xz", ".zst")
_COMPRESSIBLE: Final = (".jsonl", ".json", ".csv", ".tsv", ".txt")
_SHARDS: Final = "state.json"
"""Lists the Arrow files of a dataset saved by `datasets`; other Arrow files next to them are caches."""
_NOT_DATA: Final = ("config.json", "dataset_info.json", "dataset_infos.json", SPLITS_ON_DISK, _SHARDS)
"""Files that `datasets` writes next to the rows."""
_PACKED: Final = (*COMPRESSIONS, ".zip", ".tar", ".tgz", ".7z", ".rar", ".lz4", ".lzma", ".br", ".z", ".snappy")
_UNSUPPORTED: Final = (
    ".zip", ".tar", ".tgz", ".7z", ".rar", ".xlsx", ".xls", ".ods", ".orc", ".avro", ".pkl", ".pickle", ".npy",
    ".npz", ".h5", ".hdf5", ".tfrecord", ".tfrecords", ".msgpack", ".sqlite", ".sqlite3", ".db", ".rds", ".dta",
)  # fmt: skip
"""Suffixes of files that usually contain rows, in formats without a reader."""
_MAX_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file of the dataset; `name` is its name in messages, `path` its location."""

    name: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class FileNames:
    """Names of files at a location: those that are read, and all others. `split` is the one that is read."""

    read: tuple[str, ...]
    unread: tuple[str, ...] = ()
    split: str | None = None
    splits: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class SourceFiles:
    """The data files of a source, and how they were selected from the files there."""

    files: tuple[DataFile, ...]
    names: FileNames

    @classmethod
    def in_directory(cls, directory: Path, names: FileNames) -> "SourceFiles":
        """The files of `names` in `directory`."""
        return cls(files=tuple(DataFile(name, directory / name) for name in names.read), names=names)


@dataclass(frozen=True, kw_only=True)
class FileSelection:
    """What to read from a folder: the first of `splits` that it has, or all files. `subset`: a subset of its card.

    `split_is_set`: the spec names the split, so a single file is not accepted.
    """

    splits: tuple[str, ...] = ()
    subset: str | None = None
    split_is_set: bool = False


EVERYTHING: Final = FileSelection()


def kind(name: str) -> str | None:
    """The suffix that selects the reader of file `name`, compression suffix removed; None if it is not a data file."""
    path = PurePosixPath(name.lower())
    if path.suffix in COMPRESSIONS:
        inner = _kind(path.with_suffix("").suffix)
        return inner if inner in _COMPRESSIBLE else None
    return _kind(path.suffix)


def compression(name: str) -> str | None:
    """The compression suffix of the file `name`; None if it is not compressed."""
    suffix = PurePosixPath(name.lower()).suffix
    return suffix if suffix in COMPRESSIONS else None


def data_names(names: Iterable[str]) -> list[str]:
    """Those of the names in a directory that contain rows, in their order.

    Hidden files and the metadata of `datasets` are excluded. Text files count only if there are no other data files,
    since most are notes.
    """
    found = [name for name in names if kind(name) and _visible(PurePosixPath(name))]
    return sorted([name for name in found if kind(name) != ".txt"] or found, key=PurePosixPath)


def choose_names(names: Iterable[str], read: ReadFile, wanted: FileSelection) -> FileNames:
    """Select which of the files `names` of a folder to read. `read` returns the content of a file.

    For a dataset saved by `datasets`, these are the files that it lists itself; otherwise those that `data_names`
    finds. Splits are detected as in a hub repository.

    Raises:
        SplitError: the folder has none of the splits.
    """
    names_there = sorted(names, key=PurePosixPath)
    rows = [name for name in data_names(names_there) if _is_saved(name, names_there, read)]
    split: str | None = None
    known: Mapping[str, Sequence[str]] = {}
    if rows and wanted.splits:
        card = read(CARD).decode("utf-8", errors="replace") if CARD in names_there else ""
        on_disk = read(SPLITS_ON_DISK).decode("utf-8", errors="replace") if SPLITS_ON_DISK in names_there else None
        known = splits_of(rows, card, wanted.subset, on_disk)
        split = first_split(known, wanted.splits, wanted.subset, () if declared_subsets(card) else rows)
        rows = list(known[split])
    chosen = set(rows)
    return FileNames(
        read=tuple(rows),
        unread=tuple(name for name in names_there if name not in chosen),
        split=split,
        splits=tuple(known),
    )


def data_files(path: Path, source: str, wanted: FileSelection = EVERYTHING) -> SourceFiles:
    """The data files at `path`: the file itself, or the `wanted` files below the directory, ordered by name.

    Raises:
        StageError: `path` does not exist, has no file of a known kind or split, or has a data file without a reader or
            without read permission.
    """
    if not path.is_file() and not path.is_dir():
        raise StageError(Reason.DATASET_NOT_FOUND, missing_path_message(source, path))
    check_readable([path], source)
    if path.is_file():
        check_kind(path.name, source)
        return single_file(path, source, wanted)
    names_there = [str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()]
    check_no_unsupported(names_there, source)
    try:
        names = choose_names(names_there, lambda name: _read_content(path / name, source), wanted)
    except SplitError as error:
        raise split_error(source, error) from error
    if not names.read:
        listed = list_content(path)
        raise StageError(Reason.DATASET_NOT_FOUND, f"{source} has no {one_of(SUFFIXES)} file; it has {listed}")
    check_readable((path / name for name in names.read), source)
    return SourceFiles.in_directory(path, names)


def single_file(path: Path, source: str, wanted: FileSelection) -> SourceFiles:
    """The file that the source itself names.

    Raises:
        StageError: the spec names a split or a subset of it.
    """
    if wanted.split_is_set or wanted.subset is not None:
        raise StageError(
            Reason.CONFIG_INVALID,
            f"{source} is one file, which has no splits or subsets: remove split and subset, or name a folder",
        )
    return SourceFiles(files=(DataFile(path.name, path),), names=FileNames(read=(path.name,)))


def split_error(source: str, error: SplitError) -> StageError:
    """The StageError for a folder that lacks the requested split."""
    return StageError(Reason.DATASET_NOT_FOUND, f"{source} {error}")


def check_no_unsupported(names: Iterable[str], source: str) -> None:
    """Refuse a folder with a data file that has no reader: skipping it would lose rows.

    Raises:
        StageError: there is such a file.
    """
    found = sorted(name for name in names if _visible(PurePosixPath(name)) and _is_unsupported(name))
    if found:
        more = f" and {len(found) - _MAX_SHOWN} more" if len(found) > _MAX_SHOWN else ""
        shown = f"{', '.join(found[:_MAX_SHOWN])}{more}"
        raise StageError(
            Reason.DATA_INVALID,
            f"{source}: {shown} cannot be read as rows; convert to {one_of(SUFFIXES)}, or move out of the folder",
        )


def check_kind(name: str, source: str) -> None:
    """Refuse a file that has no reader.

    Raises:
        StageError: there is no reader for it.
    """
    if kind(name) is None:
        raise StageError(Reason.DATA_INVALID, f"{source}: {name} must be a {one_of(SUFFIXES)} file; convert it first")


def check_links(paths: Iterable[Path], source: str) -> None:
    """Refuse links from a claim to elsewhere in the container, such as the process's own secrets.

    Raises:
        StageError: a file is such a link, or a broken one.
    """
    for path in paths:
        try:
            leaves_volume = path.is_symlink() and path.lstat().st_dev != path.stat().st_dev
        except OSError:
            leaves_volume = True
        if leaves_volume:
            raise StageError(Reason.CONFIG_INVALID, f"{source}: {path.name} is a link out of its volume; copy the file")


def fingerprint(files: Iterable[DataFile]) -> str:
    """SHA-256 over names and contents, so that equal data has the same fingerprint wherever it is stored."""
    digest = hashlib.sha256()
    for file in files:
        with file.path.open("rb") as stream:
            content = hashlib.file_digest(stream, "sha256").hexdigest()
        digest.update(f"{file.name}\0{content}\n".encode())
    return digest.hexdigest()


def _kind(suffix: str) -> str | None:
    suffix = _ALIASES.get(suffix, suffix)
    return suffix if suffix in SUFFIXES else None


def _is_unsupported(name: str) -> bool:
    """Whether the file `name` looks like data but is not read."""
    if kind(name) is not None:
        return False
    path = PurePosixPath(name.lower())
    inner = path.with_suffix("").suffix
    return path.suffix in _UNSUPPORTED or (
        path.suffix in _PACKED and (inner in _UNSUPPORTED or _kind(inner) is not None)
    )


def _is_saved(name: str, names_there: Sequence[str], read: ReadFile) -> bool:
    """Whether an Arrow file belongs to the dataset saved next to it, if there is one."""
    path = PurePosixPath(name)
    state = str(path.with_name(_SHARDS))
    if path.suffix != ".arrow" or state not in names_there:
        return True
    try:
        shards = {shard["filename"] for shard in json.loads(read(state))["_data_files"]}
    except (ValueError, LookupError, TypeError):
        return True
    return path.name in shards


def _read_content(path: Path, source: str) -> bytes:
    check_readable([path], source)
    return path.read_bytes()


def _visible(path: PurePosixPath) -> bool:
    hidden = any(part.startswith((".", "__")) for part in path.parts)
    return not hidden and path.name not in _NOT_DATA
