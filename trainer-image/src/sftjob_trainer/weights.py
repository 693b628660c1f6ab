"""Which files of a model's directory or repository hold its weights, as transformers chooses them. Pure."""

import json
from collections.abc import Callable, Sequence
from typing import Final

Read = Callable[[str], bytes]
"""The content of a file by its name."""

SAFE_WEIGHTS: Final = "model.safetensors"
SAFE_INDEX: Final = "model.safetensors.index.json"
_SAFE: Final = (SAFE_WEIGHTS, SAFE_INDEX, ".safetensors")
_PICKLED: Final = ("pytorch_model.bin", "pytorch_model.bin.index.json", ".bin")
"""Name of the only file, of the index of several, and how files of the format end."""
_ADAPTER: Final = ("adapter_model.safetensors", "adapter_model.bin")
MOST_INDEX_BYTES: Final = 64 << 20
"""Largest index that is read; that of a model of 1,000 layers has less than 10 MiB."""


def weight_files(names: Sequence[str], read: Read) -> list[str]:
    """The names of a model's weights: one file, else those that its index names, else all of one format.

    Many repositories hold the same weights twice, such as in `consolidated.safetensors`; those are loaded by no index.
    Names in an index that are not among `names` are returned as well.
    """
    for only, index, suffix in (_SAFE, _PICKLED):
        if only in names:
            return [only]
        if index in names and (indexed := _indexed(read, index)):
            return indexed
        if found := [name for name in names if name.endswith(suffix) and name not in _ADAPTER]:
            return found
    return []


def safe_weight_files(names: Sequence[str], read: Read) -> list[str]:
    """Those of `weight_files` whose headers say what is in them, if nothing but that is loaded."""
    return weight_files(names, read) if {SAFE_WEIGHTS, SAFE_INDEX} & set(names) else []


def _indexed(read: Read, index: str) -> list[str]:
    """The files that an index names, none if it is no index."""
    try:
        files = json.loads(read(index))["weight_map"].values()
        return sorted({str(name) for name in files if "/" not in str(name)})
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []
