"""Files and directories that are either complete or absent on disk, whatever interrupts writing them."""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Final

_FILE_MODE: Final = 0o644
_DIRECTORY_MODE: Final = 0o755


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to `path` so that a crash at any moment leaves either the old or the new file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.staging")
    with staging.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    staging.replace(path)
    sync(path.parent)


def replace_directory(staging: Path, target: Path, *, backup: Path) -> None:
    """Rename the complete directory `staging` to `target`. An older `target` is moved `backup` first, then deleted."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(backup, ignore_errors=True)
    if target.exists():
        target.rename(backup)
    staging.rename(target)
    sync(target.parent)
    shutil.rmtree(backup, ignore_errors=True)


def sync_tree(directory: Path) -> None:
    """Flush every file below `directory` to disk, readable by any user who mounts the volume later.

    safetensors creates its files with mode 0600, regardless of the umask.
    """
    for root, _, files in os.walk(directory, topdown=False):
        for name in files:
            path = Path(root, name)
            path.chmod(_FILE_MODE)
            sync(path)
        Path(root).chmod(_DIRECTORY_MODE)
        sync(Path(root))


def sha256(path: Path) -> str:
    """SHA-256 of a file's content, in hex."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flush one file, or a directory's entries, to disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
