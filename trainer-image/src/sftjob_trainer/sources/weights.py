"""Select the weight files of a model directory or repository as transformers does. Pure."""

import json
from collections.abc import Callable, Sequence
from typing import Final

ReadFile = Callable[[str], bytes]
"""The content of a file by its name."""

SAFE_WEIGHTS: Final = "model.safetensors"
SAFE_INDEX: Final = "model.safetensors.index.json"
_SAFE: Final = (SAFE_WEIGHTS, SAFE_INDEX, ".safetensors")
_PICKLED: Final = ("pytorch_model.bin", "pytorch_model.bin.index.json", ".bin")
"""Name of the single file, name of the index of several, and suffix of the format's files."""
_ADAPTER: Final = ("adapter_model.safetensors", "adapter_model.bin")
MAX_INDEX_BYTES: Final = 64 << 20
"""Maximum size of an index; that of a model with 1,000 layers has less than 10 MiB."""


def weight_files(names: Sequence[str], read: ReadFile) -> list[str]:
    """The names of a model's weight files: a single file, else those in its index, else all of one format.

    Many repositories contain the same weights twice, such as in `consolidated.safetensors`; no index lists those. Names
    in an index that are not among `names` are returned as well.
    """
    for single, index, suffix in (_SAFE, _PICKLED):
        if single in names:
            return [single]
        if index in names and (indexed := _indexed(read, index)):
            return indexed
        if found := [name for name in names if name.endswith(suffix) and name not in _ADAPTER]:
            return found
    return []


def safe_weight_files(names: Sequence[str], read: ReadFile) -> list[str]:
    """Those of `weight_files` with self-describing headers, if only such files are loaded."""
    return weight_files(names, read) if {SAFE_WEIGHTS, SAFE_INDEX} & set(names) else []


def _indexed(read: ReadFile, index: str) -> list[str]:
    """The files that an index lists; empty if it is not an index."""
    try:
        files = json.loads(read(index))["weight_map"].values()
        return sorted({str(name) for name in files if "/" not in str(name)})
    except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        return []
