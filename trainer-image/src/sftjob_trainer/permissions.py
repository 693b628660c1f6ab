"""Files that the container's user may not read or write: found out before they are needed, and told in a sentence."""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure


def check_readable(paths: Iterable[Path], source: str) -> None:
    """Refuse files and directories that this process may not read.

    Raises:
        Failure: one of them is such.
    """
    for path in paths:
        if not _is_readable(path):
            raise _unreadable(path, source)


def denied(error: Exception, volume: Path) -> Failure | None:
    """The verdict on `error` where it comes from a file that may not be read, or from a volume that may not be written.

    What a library may not write elsewhere is no fault of the user's.
    """
    if not isinstance(error, OSError) or not isinstance(error.filename, str | bytes):
        return None
    path = Path(os.fsdecode(error.filename)).absolute()
    if not path.is_relative_to(volume):
        denies = error.errno == errno.EACCES and not _is_readable(_nearest(path))
        return _unreadable(path, str(path)) if denies else None
    if error.errno == errno.EROFS:
        return Failure(Reason.ACCESS_DENIED, f"the volume is mounted read-only: {path} can not be written")
    return _unusable(path, volume) if isinstance(error, PermissionError) else None


@contextmanager
def denied_access_is_told(volume: Path) -> Iterator[None]:
    """Turn the error of a file that may not be read or written into its verdict.

    Raises:
        Failure: there was such a file.
    """
    try:
        yield
    except OSError as error:
        failure = denied(error, volume)
        if failure is None:
            raise
        raise failure from error


def _unreadable(path: Path, source: str) -> Failure:
    what = source if source.endswith(path.name) else f"{source}: {path.name}"
    return Failure(
        Reason.ACCESS_DENIED,
        f"{what} may not be read by {_who()}: {_about(path)}; chmod -R a+rX makes it readable",
    )


def _unusable(path: Path, volume: Path) -> Failure:
    return Failure(
        Reason.ACCESS_DENIED,
        f"the volume may not be used by {_who()}: {_about(path)} ({path.relative_to(volume)}); "
        "take a storage class that heeds fsGroup, or make the volume's directory writable for that group",
    )


def _who() -> str:
    return f"the Pod's user {os.geteuid()} of group {os.getegid()}"


def _is_readable(path: Path) -> bool:
    return os.access(path, os.R_OK | os.X_OK if path.is_dir() else os.R_OK, effective_ids=True)


def _nearest(path: Path) -> Path:
    """`path`, or of the directories above it the nearest that can be looked at."""
    for found in (path, *path.parents):
        try:
            found.stat()
        except OSError:
            continue
        return found
    return Path("/")


def _about(path: Path) -> str:
    """Whose `path` is, or the nearest directory above it, and who may do what with it."""
    found = _nearest(path)
    status = found.stat()
    what = "it" if found == path else f"its directory {found}"
    return f"{what} is of user {status.st_uid} and group {status.st_gid} with mode {stat.S_IMODE(status.st_mode):04o}"
