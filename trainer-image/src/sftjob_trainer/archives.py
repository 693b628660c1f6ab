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


def is_archive(name: str) -> bool:
    """Whether the name says so."""
    return name.endswith(SUFFIXES)


def unpacked(archive: Path, source: str) -> Path:
    """The directory in `archive`, unpacked anew; if all in it lies in one folder, that folder.

    Nothing is written outside: links and names that lead out of an archive are refused.

    Raises:
        Failure: it can not be unpacked.
    """
    directory = archive.with_name(f"{archive.name}.unpacked")
    shutil.rmtree(directory, ignore_errors=True)
    try:
        if archive.name.endswith(".zip"):
            with zipfile.ZipFile(archive) as packed:
                packed.extractall(directory)  # noqa: S202 -- zipfile leaves out roots and ".." of names itself
        else:
            with tarfile.open(archive) as packed_tar:
                packed_tar.extractall(directory, filter="data")
    except (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise Failure(
            Reason.CONFIG_INVALID, f"{source} can not be unpacked ({type(error).__name__}); make the archive anew"
        ) from error
    entries = list(directory.iterdir())
    return entries[0] if len(entries) == 1 and entries[0].is_dir() else directory
