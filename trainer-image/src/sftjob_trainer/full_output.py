"""The output of full fine-tuning in the form of its base: fp32 weights without a cache are for training only."""

import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sftjob_contract.config import ModelDtype

logger = logging.getLogger(__name__)

_CONFIG: Final = "config.json"
_WEIGHTS: Final = "*.safetensors"
_NAMES: Final = ("dtype", "torch_dtype")
"""In config.json, today's and the one before."""
_IN_FILES: Final = {"BF16": "bfloat16", "F16": "float16", "F32": "float32"}
"""How safetensors names them."""


def as_its_base(output: Path, base: Path, asked: ModelDtype) -> None:
    """Give the model in `output` the dtype and the `use_cache` of the one in `base`, or say why not.

    A model whose dtype the job names has that one. One file of weights is in memory at a time.
    """
    wanted = base_dtype(base) if asked is ModelDtype.AUTO else None
    why = f"model.dtype: {asked}" if wanted is None else "as its base"
    if wanted is not None and not _cast(output, wanted):
        why = f"a trained weight is too large for {wanted}, the dtype of its base"
        wanted = None
    settings = json.loads((output / _CONFIG).read_bytes())
    if wanted is not None:
        settings = {**{name: value for name, value in settings.items() if name not in _NAMES}, "dtype": wanted}
    before = json.loads((base / _CONFIG).read_bytes())
    for name in _parts(settings):
        _keep_cache(_at(settings, name), _at(before, name))
    (output / _CONFIG).write_text(json.dumps(settings, indent=2, sort_keys=True) + "\n", encoding="utf-8")
    logger.info("weights of the output are %s: %s", _dtype(settings) or "of the dtype that they were trained in", why)


def base_dtype(base: Path) -> str | None:
    """The dtype of a model's weights by its config, or by its files; None where neither says one of the usual ones."""
    from safetensors import safe_open

    named = _dtype(json.loads((base / _CONFIG).read_bytes()))
    if named is None:
        for path in sorted(base.glob(_WEIGHTS)):
            with safe_open(path, "pt") as file:
                first = next(iter(file.keys()), None)
                named = None if first is None else _IN_FILES.get(file.get_slice(first).get_dtype())
            break
    return named if named in _IN_FILES.values() else None


def _dtype(settings: dict[str, Any]) -> str | None:
    found = next((settings[name] for name in _NAMES if settings.get(name)), None)
    if found is None and isinstance(text := settings.get("text_config"), dict):
        return _dtype(text)
    return None if found is None else str(found).removeprefix("torch.")


def _parts(settings: dict[str, Any]) -> Iterator[str | None]:
    """The config itself, and that of its language model where it has one of its own."""
    yield None
    if isinstance(settings.get("text_config"), dict):
        yield "text_config"


def _at(settings: dict[str, Any], name: str | None) -> dict[str, Any]:
    found = settings if name is None else settings.get(name)
    return found if isinstance(found, dict) else {}


def _keep_cache(settings: dict[str, Any], before: dict[str, Any]) -> None:
    settings.pop("use_cache", None)
    if "use_cache" in before:
        settings["use_cache"] = before["use_cache"]


def _cast(output: Path, wanted: str) -> bool:
    """Cast all weights to a dtype, file by file; False, and nothing is changed, where one is too large for it."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import load_file, save_file

    dtype = getattr(torch, wanted)
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
