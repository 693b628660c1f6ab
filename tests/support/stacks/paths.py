"""Which fields of JSON data another one lacks."""

from collections.abc import Iterator, Mapping
from typing import Any


def missing_paths(before: Any, after: Any) -> list[str]:
    """Paths of fields and entries that `before` has and `after` has not; what they hold may differ."""
    return sorted(set(_paths(before)) - set(_paths(after)))


def _paths(node: Any, at: str = "") -> Iterator[str]:
    if isinstance(node, Mapping):
        for key, value in node.items():
            path = f"{at}.{key}" if at else str(key)
            yield path
            yield from _paths(value, path)
    elif isinstance(node, list):
        for number, item in enumerate(node):
            yield f"{at}[{number}]"
            yield from _paths(item, f"{at}[{number}]")
