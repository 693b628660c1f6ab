"""Files and directories that are either whole or absent on the disk, whatever happens while they are written."""

import hashlib
import os
import shutil
from pathlib import Path
from typing import Final

_FILE_MODE: Final = 0o644
_DIRECTORY_MODE: Final = 0o755


def write_atomically(path: Path, text: str) -> None:
    """Write `text` to `path` so that a crash at any moment leaves the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    staging = path.with_name(f".{path.name}.staging")
    with staging.open("w", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())
    staging.replace(path)
    sync(path.parent)


def replace_directory(staging: Path, target: Path, *, aside: Path) -> None:
    """Rename the complete directory `staging` to `target`; an older `target` is moved `aside` first, then deleted."""
    target.parent.mkdir(parents=True, exist_ok=True)
    shutil.rmtree(aside, ignore_errors=True)
    if target.exists():
        target.rename(aside)
    staging.rename(target)
    sync(target.parent)
    shutil.rmtree(aside, ignore_errors=True)


def sync_tree(directory: Path) -> None:
    """Write every file below `directory` through to the disk, readable by whoever mounts the volume next.

    safetensors makes its files private (0600), whatever the umask says.
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
    """Write one file through to the disk, or the names of what is in a directory."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
