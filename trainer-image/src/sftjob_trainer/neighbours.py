"""A file or directory that is not where it is named: what is there instead, in the words of the spec."""

import difflib
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Final

from sftjob_contract.layout import PVC_SCHEME

_LOOKED_AT: Final = 1000
"""Entries of a directory among which a name like the one that is missing is looked for."""
_SHOWN: Final = 8
_SHOWN_CHARACTERS: Final = 80


def is_missing(source: str, path: Path) -> str:
    """That there is nothing at `source`, which is `path` in the container, and what there is near it."""
    if "://" in source and not source.startswith(PVC_SCHEME):
        return f"{source} is no longer in the cache"
    parts = PurePosixPath(source.removeprefix(PVC_SCHEME)).parts
    levels = len(parts) - 1 if source.startswith(PVC_SCHEME) else 1
    uri, place = source.rstrip("/"), path
    for _ in range(levels):
        name = place.name
        uri, place = uri.rpartition("/")[0], place.parent
        if place.is_dir():
            return f"{source} does not exist; {_instead(name, uri, place)}"
    return f"{source} does not exist"


def content(directory: Path) -> str:
    """What is in `directory`, the first names of it."""
    names = _names(directory)
    shown = ", ".join(name[:_SHOWN_CHARACTERS] for name in names[:_SHOWN]) or "nothing"
    return f"{shown} and more" if len(names) > _SHOWN else shown


def _instead(name: str, uri: str, directory: Path) -> str:
    names = {found.rstrip("/"): found for found in _names(directory)}
    close = difflib.get_close_matches(name, names, n=1) or [found for found in names if found.lower() == name.lower()]
    question = f"did you mean {uri}/{close[0]}? " if close else ""
    return f"{question}{uri or '/'} has {content(directory)}"


def _names(directory: Path) -> list[str]:
    """Names in a directory, those of directories with a slash behind, hidden ones left out."""
    try:
        entries = sorted(islice(directory.iterdir(), _LOOKED_AT))
        return [f"{entry.name}/" if entry.is_dir() else entry.name for entry in entries if entry.name[0] != "."]
    except OSError:
        return []
