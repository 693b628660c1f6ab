"""Archives of a directory (.tar, .tar.gz, .tgz, .zip), unpacked beside themselves."""

import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Final

from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure

SUFFIXES: Final = (".tar", ".tar.gz", ".tgz", ".zip")
MOST_GROWTH: Final = 100
"""How many times as large as itself an archive may get. Text shrinks to a tenth or twentieth, rarely more."""
ALWAYS_BYTES: Final = 1 << 30
"""What every archive may hold, however small it is."""
MOST_FILES: Final = 1_000_000
_UNUSABLE: Final = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
)
"""What comes out of archives that are damaged, lead outside, or hold a file where another one needs a directory."""


def is_archive(name: str) -> bool:
    """Whether the name says so."""
    return name.endswith(SUFFIXES)


def unpacked(archive: Path, source: str) -> Path:
    """The directory in `archive`, unpacked anew; if all in it lies in one folder, that folder.

    Nothing is written outside: links and names that lead out of an archive are refused. One that can not be unpacked
    to its end leaves nothing behind.

    Raises:
        Failure: it can not be unpacked, or holds far more than its size lets expect.
    """
    directory = archive.with_name(f"{archive.name}.unpacked")
    shutil.rmtree(directory, ignore_errors=True)
    try:
        if archive.name.endswith(".zip"):
            _unpack_zip(archive, directory, source)
        else:
            _unpack_tar(archive, directory, source)
    except _UNUSABLE as error:
        shutil.rmtree(directory, ignore_errors=True)
        raise Failure(
            Reason.CONFIG_INVALID, f"{source} can not be unpacked ({type(error).__name__}); make the archive anew"
        ) from error
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    entries = list(directory.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else directory


class _Budget:
    """What an archive may hold."""

    def __init__(self, archive: Path, source: str) -> None:
        self._source = source
        self._most_bytes = ALWAYS_BYTES + MOST_GROWTH * archive.stat().st_size
        self._bytes = 0
        self._files = 0

    def take(self, size: int) -> None:
        """Count a file of `size` bytes.

        Raises:
            Failure: it is one too many.
        """
        self._bytes += size
        self._files += 1
        if self._bytes > self._most_bytes or self._files > MOST_FILES:
            raise Failure(
                Reason.CONFIG_INVALID,
                f"{self._source} holds more than {self._most_bytes >> 20:,} MiB or {MOST_FILES:,} files, which is far "
                "too much for an archive of its size; unpack it yourself and name the directory",
            )


def _unpack_zip(archive: Path, directory: Path, source: str) -> None:
    budget = _Budget(archive, source)
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            budget.take(member.file_size)
        packed.extractall(directory)  # noqa: S202 -- it leaves out roots and ".." of names, and no file gets larger


def _unpack_tar(archive: Path, directory: Path, source: str) -> None:
    """The size of each file is told before the file, so none is read that is too much."""
    budget = _Budget(archive, source)
    directory.mkdir()
    with tarfile.open(archive) as packed:
        for member in packed:
            budget.take(member.size)
            packed.extract(member, directory, filter="data")
