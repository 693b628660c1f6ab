"""Copies of JSON values; several times faster than copy.deepcopy."""

from typing import Any


def copied(value: Any) -> Any:
    """A deep copy of dicts, lists and scalars."""
    if isinstance(value, dict):
        return {key: copied(item) if isinstance(item, dict | list) else item for key, item in value.items()}
    if isinstance(value, list):
        return [copied(item) if isinstance(item, dict | list) else item for item in value]
    return value
