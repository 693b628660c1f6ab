"""Files that the container's user may not read or write: found out before they are needed, and told in a sentence."""

import errno
import os
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure

_DENIED: Final = (errno.EACCES, errno.EPERM, errno.EROFS)


def check_readable(paths: Iterable[Path], source: str) -> None:
    """Refuse files and directories that this process may not read.

    Raises:
        Failure: one of them is such.
    """
    for path in paths:
        wanted = os.R_OK | os.X_OK if path.is_dir() else os.R_OK
        if not os.access(path, wanted, effective_ids=True):
            raise _unreadable(path, source)


def denied(error: Exception, volume: Path) -> Failure | None:
    """The verdict on `error` where it comes from a file that may not be read or written."""
    if not isinstance(error, OSError) or error.errno not in _DENIED or error.filename is None:
        return None
    path = Path(os.fsdecode(error.filename))
    return _unusable(path, volume) if path.is_relative_to(volume) else _unreadable(path, str(path))


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


def _about(path: Path) -> str:
    """Whose `path` is, or the nearest directory above it that can be looked at, and who may do what with it."""
    found = path
    while True:
        try:
            status = found.stat()
        except OSError:
            found = found.parent
            continue
        break
    what = "it" if found == path else f"its directory {found}"
    return f"{what} is of user {status.st_uid} and group {status.st_gid} with mode {stat.S_IMODE(status.st_mode):04o}"
