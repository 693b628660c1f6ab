"""Golden files: what a function gives out, kept beside its input and compared as data.

`SFTJOB_UPDATE_GOLDEN=1 pytest ...` writes them anew; the diff is then read like any other change.
"""

import os
from pathlib import Path
from typing import Any

import yaml


def check_golden(path: Path, actual: Any) -> None:
    """Compare `actual` (JSON data) with the YAML file `path`, or write it when asked to."""
    if os.environ.get("SFTJOB_UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dump_documents(actual), encoding="utf-8")
    expected = load_documents(path)
    assert actual == expected, f"{path.name} differs; SFTJOB_UPDATE_GOLDEN=1 writes it again"


def load_documents(path: Path) -> list[Any]:
    """Every YAML document of a file."""
    return list(yaml.load_all(path.read_text(encoding="utf-8"), yaml.CSafeLoader))


def dump_documents(documents: list[Any]) -> str:
    """YAML for people, one document per object, keys in their order."""
    return yaml.safe_dump_all(documents, sort_keys=False, width=120, allow_unicode=True)


def check_golden_text(path: Path, actual: str) -> None:
    """Compare `actual` with the text file `path`, or write it when asked to."""
    if os.environ.get("SFTJOB_UPDATE_GOLDEN"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(actual, encoding="utf-8")
    expected = path.read_text(encoding="utf-8")
    assert actual == expected, f"{path.name} differs; SFTJOB_UPDATE_GOLDEN=1 writes it again"
