"""Archives of a directory (.tar, .tar.gz, .tgz, .zip), unpacked next to the archive file."""

import shutil
import tarfile
import zipfile
import zlib
from pathlib import Path
from typing import Final

from sftjob_contract.reasons import Reason
from sftjob_trainer.process.errors import StageError

SUFFIXES: Final = (".tar", ".tar.gz", ".tgz", ".zip")
MAX_EXPANSION_RATIO: Final = 100
"""Largest allowed ratio of unpacked to packed size. Text rarely shrinks to less than a tenth or twentieth."""
MIN_ALLOWED_BYTES: Final = 1 << 30
"""Unpacked size that every archive may have, however small the archive is."""
MAX_FILES: Final = 1_000_000
_UNUSABLE: Final = (
    tarfile.TarError,
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    FileExistsError,
    NotADirectoryError,
    IsADirectoryError,
)
"""Errors of archives that are damaged, point outside, or hold a file where another entry needs a directory."""


def is_archive(name: str) -> bool:
    """Whether the name has an archive suffix."""
    return name.endswith(SUFFIXES)


def unpack(archive: Path, source: str) -> Path:
    """Unpack `archive`, replacing an earlier copy, and return its directory or its only top-level folder.

    Nothing is written outside the directory: links and names that point out of an archive are refused. An archive that
    fails to unpack leaves nothing behind.

    Raises:
        StageError: the archive cannot be unpacked, or holds far more than its size suggests.
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
        raise StageError(
            Reason.CONFIG_INVALID, f"{source} cannot be unpacked ({type(error).__name__}); create the archive again"
        ) from error
    except BaseException:
        shutil.rmtree(directory, ignore_errors=True)
        raise
    entries = list(directory.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else directory


class _Budget:
    """Limits on the content of an archive."""

    def __init__(self, archive: Path, source: str) -> None:
        self._source = source
        self._max_bytes = MIN_ALLOWED_BYTES + MAX_EXPANSION_RATIO * archive.stat().st_size
        self._bytes = 0
        self._files = 0

    def count(self, size: int) -> None:
        """Count a file of `size` bytes.

        Raises:
            StageError: the archive exceeds a limit.
        """
        self._bytes += size
        self._files += 1
        if self._bytes > self._max_bytes or self._files > MAX_FILES:
            raise StageError(
                Reason.CONFIG_INVALID,
                f"{self._source} holds more than {self._max_bytes >> 20:,} MiB or {MAX_FILES:,} files, which is far "
                "too much for an archive of its size; unpack it yourself and name the directory",
            )


def _unpack_zip(archive: Path, directory: Path, source: str) -> None:
    budget = _Budget(archive, source)
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            budget.count(member.file_size)
        packed.extractall(directory)  # noqa: S202 -- it drops roots and ".." from names, and no file gets larger


def _unpack_tar(archive: Path, directory: Path, source: str) -> None:
    """Unpack a tar archive. Each file's size precedes its content, so an oversized file is never read."""
    budget = _Budget(archive, source)
    directory.mkdir()
    with tarfile.open(archive) as packed:
        for member in packed:
            budget.count(member.size)
            packed.extract(member, directory, filter="data")
