"""The data files of a source: which of the files at a place hold rows, and the fingerprint of what is in them."""

import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final

from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure
from sftjob_trainer.neighbours import content, is_missing
from sftjob_trainer.permissions import check_readable
from sftjob_trainer.splits import CARD, SPLITS_ON_DISK, SplitError, declared_subsets, first_split, splits_of
from sftjob_trainer.weights import Read
from sftjob_trainer.wording import either

SUFFIXES: Final = (".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", ".txt")
_ALIASES: Final = {".ndjson": ".jsonl", ".feather": ".arrow"}
COMPRESSIONS: Final = (".gz", ".bz2", ".xz", ".zst")
_COMPRESSIBLE: Final = (".jsonl", ".json", ".csv", ".tsv", ".txt")
_SHARDS: Final = "state.json"
"""Names the Arrow files of a data set that `datasets` saved; others beside them are its caches."""
_NOT_DATA: Final = ("config.json", "dataset_info.json", "dataset_infos.json", SPLITS_ON_DISK, _SHARDS)
"""What `datasets` writes beside the rows."""
_PACKED: Final = (*COMPRESSIONS, ".zip", ".tar", ".tgz", ".7z", ".rar", ".lz4", ".lzma", ".br", ".z", ".snappy")
_UNREADABLE: Final = (
    *(".zip", ".tar", ".tgz", ".7z", ".rar", ".xlsx", ".xls", ".ods", ".orc", ".avro", ".pkl", ".pickle", ".npy"),
    *(".npz", ".h5", ".hdf5", ".tfrecord", ".tfrecords", ".msgpack", ".sqlite", ".sqlite3", ".db", ".rds", ".dta"),
)
"""Ends of names of files that hold rows, as a rule, in forms that no reader is for."""
_MOST_SHOWN: Final = 5


@dataclass(frozen=True, slots=True)
class DataFile:
    """A file of the data set; `name` is how it is called in messages, `path` where it lies."""

    name: str
    path: Path


@dataclass(frozen=True, kw_only=True)
class Names:
    """Names of files at a place: those that are read, and all others. `split` is what is read of `splits`."""

    read: tuple[str, ...]
    passed_over: tuple[str, ...] = ()
    split: str | None = None
    splits: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Found:
    """The data files of a source, and how they were chosen among the files there."""

    files: tuple[DataFile, ...]
    names: Names

    @classmethod
    def below(cls, directory: Path, names: Names) -> "Found":
        """The files of `names` in `directory`."""
        return cls(files=tuple(DataFile(name, directory / name) for name in names.read), names=names)


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What to read of a folder: the first of `splits` that it has, all of it if there are none. `subset`: of its card.

    `asked`: the spec names the split, so that a single file does not do.
    """

    splits: tuple[str, ...] = ()
    subset: str | None = None
    asked: bool = False


EVERYTHING: Final = Wanted()


def kind(name: str) -> str | None:
    """The suffix that says how the file `name` is read, without that of a compression; None: it is no data file."""
    path = PurePosixPath(name.lower())
    if path.suffix in COMPRESSIONS:
        inner = _kind(path.with_suffix("").suffix)
        return inner if inner in _COMPRESSIBLE else None
    return _kind(path.suffix)


def compression(name: str) -> str | None:
    """The suffix that says how the file `name` is compressed, None if it is not."""
    suffix = PurePosixPath(name.lower()).suffix
    return suffix if suffix in COMPRESSIONS else None


def data_names(names: Iterable[str]) -> list[str]:
    """The names that hold rows among those of a directory, in their order.

    Hidden files and the metadata of `datasets` do not. Text files do only where there is nothing else, since most are
    notes.
    """
    found = [name for name in names if kind(name) and _visible(PurePosixPath(name))]
    return sorted([name for name in found if kind(name) != ".txt"] or found, key=PurePosixPath)


def choose_names(names: Iterable[str], read: Read, wanted: Wanted) -> Names:
    """Which of the files `names` of a folder to read. `read` gives the content of one.

    Of a data set that `datasets` saved, the files that it names itself; else those that `data_names` finds. Splits are
    those that the folder tells as a repository on the hub does.

    Raises:
        SplitError: it has none of the splits.
    """
    there = sorted(names, key=PurePosixPath)
    rows = [name for name in data_names(there) if _is_saved(name, there, read)]
    split: str | None = None
    known: Mapping[str, Sequence[str]] = {}
    if rows and wanted.splits:
        card = read(CARD).decode("utf-8", errors="replace") if CARD in there else ""
        on_disk = read(SPLITS_ON_DISK).decode("utf-8", errors="replace") if SPLITS_ON_DISK in there else None
        known = splits_of(rows, card, wanted.subset, on_disk)
        split = first_split(known, wanted.splits, wanted.subset, () if declared_subsets(card) else rows)
        rows = list(known[split])
    chosen = set(rows)
    return Names(
        read=tuple(rows),
        passed_over=tuple(name for name in there if name not in chosen),
        split=split,
        splits=tuple(known),
    )


def data_files(path: Path, source: str, wanted: Wanted = EVERYTHING) -> Found:
    """The data files at `path`: the file itself, or what is `wanted` of those below the directory, ordered by name.

    Raises:
        Failure: there is nothing at `path`, nothing of a known kind or of a split, something that looks like data and
            can not be read, or something that we may not read.
    """
    if not path.is_file() and not path.is_dir():
        raise Failure(Reason.DATASET_NOT_FOUND, is_missing(source, path))
    check_readable([path], source)
    if path.is_file():
        check_kind(path.name, source)
        return one_file(path, source, wanted)
    there = [str(file.relative_to(path)) for file in path.rglob("*") if file.is_file()]
    check_no_unreadable(there, source)
    try:
        names = choose_names(there, lambda name: _content(path / name, source), wanted)
    except SplitError as error:
        raise no_split(source, error) from error
    if not names.read:
        has = content(path)
        raise Failure(Reason.DATASET_NOT_FOUND, f"{source} has no {either(SUFFIXES)} file; it has {has}")
    check_readable((path / name for name in names.read), source)
    return Found.below(path, names)


def one_file(path: Path, source: str, wanted: Wanted) -> Found:
    """A file that the source itself is.

    Raises:
        Failure: a split or a subset of it is asked for.
    """
    if wanted.asked or wanted.subset is not None:
        raise Failure(
            Reason.CONFIG_INVALID,
            f"{source} is one file, which has no splits or subsets: remove split and subset, or name a folder",
        )
    return Found(files=(DataFile(path.name, path),), names=Names(read=(path.name,)))


def no_split(source: str, error: SplitError) -> Failure:
    """The verdict on a folder that does not have the split to read."""
    return Failure(Reason.DATASET_NOT_FOUND, f"{source} {error}")


def check_no_unreadable(names: Iterable[str], source: str) -> None:
    """Refuse a folder with a file that looks like data and that no reader is for: to pass it over would lose rows.

    Raises:
        Failure: it has one.
    """
    found = sorted(name for name in names if _visible(PurePosixPath(name)) and _is_unreadable(name))
    if found:
        more = f" and {len(found) - _MOST_SHOWN} more" if len(found) > _MOST_SHOWN else ""
        shown = f"{', '.join(found[:_MOST_SHOWN])}{more}"
        raise Failure(
            Reason.DATA_INVALID,
            f"{source}: {shown} cannot be read as rows; convert to {either(SUFFIXES)}, or move out of the folder",
        )


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


def _kind(suffix: str) -> str | None:
    suffix = _ALIASES.get(suffix, suffix)
    return suffix if suffix in SUFFIXES else None


def _is_unreadable(name: str) -> bool:
    """Whether the file `name` looks like data, and is not read."""
    if kind(name) is not None:
        return False
    path = PurePosixPath(name.lower())
    inner = path.with_suffix("").suffix
    return path.suffix in _UNREADABLE or (path.suffix in _PACKED and (inner in _UNREADABLE or _kind(inner) is not None))


def _is_saved(name: str, there: Sequence[str], read: Read) -> bool:
    """Whether an Arrow file is one of those that the data set beside it consists of, if there is one."""
    path = PurePosixPath(name)
    state = str(path.with_name(_SHARDS))
    if path.suffix != ".arrow" or state not in there:
        return True
    try:
        shards = {shard["filename"] for shard in json.loads(read(state))["_data_files"]}
    except (ValueError, LookupError, TypeError):
        return True
    return path.name in shards


def _content(path: Path, source: str) -> bytes:
    check_readable([path], source)
    return path.read_bytes()


def _visible(path: PurePosixPath) -> bool:
    hidden = any(part.startswith((".", "__")) for part in path.parts)
    return not hidden and path.name not in _NOT_DATA
