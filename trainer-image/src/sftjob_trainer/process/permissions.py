"""Detect files that the container's user may not read or write before they are needed, and report them."""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from sftjob_contract.reasons import Reason
from sftjob_trainer.process.errors import StageError


def check_readable(paths: Iterable[Path], source: str) -> None:
    """Refuse files and directories that this process may not read.

    Raises:
        StageError: one of them is not readable.
    """
    for path in paths:
        if not _is_readable(path):
            raise _read_error(path, source)


def permission_error(error: Exception, volume: Path) -> StageError | None:
    """The StageError for `error` if it comes from an unreadable file or from a volume without write permission.

    Failed writes of a library elsewhere are not the user's fault.
    """
    if not isinstance(error, OSError) or not isinstance(error.filename, str | bytes):
        return None
    path = Path(os.fsdecode(error.filename)).absolute()
    if not path.is_relative_to(volume):
        is_denied = error.errno == errno.EACCES and not _is_readable(_nearest_accessible(path))
        return _read_error(path, str(path)) if is_denied else None
    if error.errno == errno.EROFS:
        return StageError(Reason.ACCESS_DENIED, f"the volume is mounted read-only: {path} cannot be written")
    return _volume_error(path, volume) if isinstance(error, PermissionError) else None


@contextmanager
def convert_permission_errors(volume: Path) -> Iterator[None]:
    """Turn a permission error of reading or writing into its StageError.

    Raises:
        StageError: a file may not be read or written.
    """
    try:
        yield
    except OSError as error:
        failure = permission_error(error, volume)
        if failure is None:
            raise
        raise failure from error


def _read_error(path: Path, source: str) -> StageError:
    subject = source if source.endswith(path.name) else f"{source}: {path.name}"
    return StageError(
        Reason.ACCESS_DENIED,
        f"{subject} may not be read by {_pod_user()}: {_describe_permissions(path)}; chmod -R a+rX makes it readable",
    )


def _volume_error(path: Path, volume: Path) -> StageError:
    return StageError(
        Reason.ACCESS_DENIED,
        f"the volume may not be used by {_pod_user()}: {_describe_permissions(path)} ({path.relative_to(volume)}); "
        "use a storage class that supports fsGroup, or make the volume's directory writable for that group",
    )


def _pod_user() -> str:
    return f"the Pod's user {os.geteuid()} of group {os.getegid()}"


def _is_readable(path: Path) -> bool:
    return os.access(path, os.R_OK | os.X_OK if path.is_dir() else os.R_OK, effective_ids=True)


def _nearest_accessible(path: Path) -> Path:
    """`path`, or the nearest of its parent directories that is accessible."""
    for found in (path, *path.parents):
        try:
            found.stat()
        except OSError:
            continue
        return found
    return Path("/")


def _describe_permissions(path: Path) -> str:
    """Owner and permissions of `path`, or of the nearest accessible directory above it."""
    found = _nearest_accessible(path)
    status = found.stat()
    subject = "it" if found == path else f"its directory {found}"
    mode = f"{stat.S_IMODE(status.st_mode):04o}"
    return f"{subject} belongs to user {status.st_uid} and group {status.st_gid} with mode {mode}"
