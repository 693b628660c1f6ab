"""Describe a missing file or directory: what exists near it, in the terms of the spec."""

import difflib
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Final

from sftjob_contract.layout import PVC_SCHEME

_MAX_ENTRIES: Final = 1000
"""Maximum number of directory entries searched for a name similar to the missing one."""
_MAX_SHOWN: Final = 8
_SHOWN_CHARACTERS: Final = 80


def missing_path_message(source: str, path: Path) -> str:
    """A message that `source`, which is `path` in the container, does not exist, with what exists near it."""
    if "://" in source and not source.startswith(PVC_SCHEME):
        return f"{source} is no longer in the cache"
    parts = PurePosixPath(source.removeprefix(PVC_SCHEME)).parts
    levels = len(parts) - 1 if source.startswith(PVC_SCHEME) else 1
    uri, location = source.rstrip("/"), path
    for _ in range(levels):
        name = location.name
        uri, location = uri.rpartition("/")[0], location.parent
        if location.is_dir():
            return f"{source} does not exist; {_suggestion(name, uri, location)}"
    return f"{source} does not exist"


def list_content(directory: Path) -> str:
    """The content of `directory`, by its first names."""
    names = _names(directory)
    shown = ", ".join(name[:_SHOWN_CHARACTERS] for name in names[:_MAX_SHOWN]) or "nothing"
    return f"{shown} and more" if len(names) > _MAX_SHOWN else shown


def _suggestion(name: str, uri: str, directory: Path) -> str:
    names = {found.rstrip("/"): found for found in _names(directory)}
    close = difflib.get_close_matches(name, names, n=1) or [found for found in names if found.lower() == name.lower()]
    question = f"did you mean {uri}/{close[0]}? " if close else ""
    return f"{question}{uri or '/'} has {list_content(directory)}"


def _names(directory: Path) -> list[str]:
    """Names in a directory without hidden ones; directory names end with a slash."""
    try:
        entries = sorted(islice(directory.iterdir(), _MAX_ENTRIES))
        return [f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries if entry.name[0] != "."]
    except OSError:
        return []
