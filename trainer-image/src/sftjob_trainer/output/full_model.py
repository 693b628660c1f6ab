"""Convert the output of full fine-tuning to the form of its base: fp32 without a cache is for training only."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sftjob_contract.run.config import ModelDtype

logger = logging.getLogger(__name__)

_CONFIG: Final = "config.json"
_WEIGHTS: Final = "*.safetensors"
_DTYPE_KEYS: Final = ("dtype", "torch_dtype")
"""In config.json, the current name and the previous one."""
_DTYPE_NAMES: Final = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
"""safetensors' names for them."""


def match_base_format(output: Path, base: Path, dtype: ModelDtype) -> None:
    """Give the model in `output` the dtype and `use_cache` of the one in `base`, or log why not.

    If the job names a dtype, the model has that one. One weight file is in memory at a time.
    """
    target_dtype = base_dtype(base) if dtype is ModelDtype.AUTO else None
    reason = f"model.dtype: {dtype}" if target_dtype is None else "as its base"
    if target_dtype is not None and not _cast(output, target_dtype):
        reason = f"a trained weight is too large for {target_dtype}, the dtype of its base"
        target_dtype = None
    settings = json.loads((output / _CONFIG).read_bytes())
    if target_dtype is not None:
        settings = {
            **{name: value for name, value in settings.items() if name not in _DTYPE_KEYS},
            "dtype": target_dtype,
        }
    before = json.loads((base / _CONFIG).read_bytes())
    for name in _config_keys(settings):
        _keep_cache(_section(settings, name), _section(before, name))
    (output / _CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    logger.info(
        "weights of the output are %s: %s", _dtype(settings) or "of the dtype that they were trained in", reason
    )


def base_dtype(base: Path) -> str | None:
    """The dtype of a model's weights from its config or its files; None if neither names a common one."""
    from safetensors import safe_open

    named = _dtype(json.loads((base / _CONFIG).read_bytes()))
    if named is None:
        for path in sorted(base.glob(_WEIGHTS)):
            with safe_open(path, "pt") as file:
                first = next(iter(file.keys()), None)
                named = None if first is None else _DTYPE_NAMES.get(file.get_slice(first).get_dtype())
            break
    return named if named in _DTYPE_NAMES.values() else None


def _dtype(settings: dict[str, Any]) -> str | None:
    found = next((settings[name] for name in _DTYPE_KEYS if settings.get(name)), None)
    if found is None and isinstance(text := settings.get("text_config"), dict):
        return _dtype(text)
    return None if found is None else str(found).removeprefix("torch.")


def _config_keys(settings: dict[str, Any]) -> Iterator[str | None]:
    """The config itself, and that of its language model if it has one."""
    yield None
    if isinstance(settings.get("text_config"), dict):
        yield "text_config"


def _section(settings: dict[str, Any], name: str | None) -> dict[str, Any]:
    found = settings if name is None else settings.get(name)
    return found if isinstance(found, dict) else {}


def _keep_cache(settings: dict[str, Any], before: dict[str, Any]) -> None:
    settings.pop("use_cache", None)
    if "use_cache" in before:
        settings["use_cache"] = before["use_cache"]


def _cast(output: Path, target_dtype: str) -> bool:
    """Cast all weights to a dtype, file by file. Returns False without any change if a weight is too large for it."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    dtype = getattr(torch, target_dtype)
    limit = torch.finfo(dtype).max
    files = sorted(output.glob(_WEIGHTS))
    for path in files:
        with safe_open(path, "pt") as file:
            for name in file.keys():  # noqa: SIM118 -- not a dict
                tensor = file.get_tensor(name)
                if tensor.is_floating_point() and tensor.dtype.itemsize > dtype.itemsize and tensor.abs().max() > limit:
                    return False
    total = 0
    for path in files:
        tensors = {
            name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in load_file(path).items()
        }
        total += sum(tensor.nbytes for tensor in tensors.values())
        save_file(tensors, path, metadata={"format": "pt"})
    for path in output.glob("*.safetensors.index.json"):
        index = json.loads(path.read_bytes())
        index["metadata"] = {**index.get("metadata", {}), "total_size": total}
        path.write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    return True
