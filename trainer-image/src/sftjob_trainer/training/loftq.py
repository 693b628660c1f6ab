"""LoftQ: initialize the adapter of a 4-bit base with the quantization error.

The scale of a layer times B A is the nearest matrix of the adapter's rank to W - Q (Li et al. 2023,
https://huggingface.co/papers/2310.08659; one step, since Q is given). PEFT's `replace_lora_weights_loftq` does the same
if alpha is the rank, and only on a GPU.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from sftjob_contract.reasons import Reason
from sftjob_contract.reports.progress import Activity
from sftjob_contract.run.config import RunConfig
from sftjob_contract.run.method import LOFTQ, uses_loftq
from sftjob_trainer.models.lora import PREFIX, adapted_layers
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.run.context import Run
from sftjob_trainer.sources.weights import safe_weight_files

logger = logging.getLogger(__name__)

FIELD: Final = f"method.lora.extra.init_lora_weights: {LOFTQ}"
_LARGEST_ERROR: Final = 0.5
"""Largest quantization error relative to the weights; that of nf4 is about a tenth."""


def check_weight_files(config: RunConfig, directory: Path) -> None:
    """Check that the weights in `directory` can be read one by one.

    Raises:
        StageError: they are not in safetensors.
    """
    if uses_loftq(config.method.lora) and not _files(directory):
        raise StageError(
            Reason.CONFIG_INVALID,
            f"{FIELD} reads the weights from safetensors, which {config.model.source} does not have; remove it, or "
            "name a model with model.safetensors in model.source",
        )


def check_names(model: Any, directory: Path) -> None:
    """Check that the files in `directory` contain the weights of every adapted layer of `model`.

    Raises:
        StageError: weights are missing.
    """
    stored = stored_weights(directory)
    for name, _ in adapted_layers(model):
        _key(model, name, stored)


def initialize(trainer: Any, run: Run, directory: Path) -> None:
    """Initialize the adapter of `trainer` with LoftQ, the same in every process. Collective.

    Raises:
        StageError: the weights in `directory` are not those that were quantized.
    """
    import torch
    from peft.tuners.lora import Linear4bit

    model, stored, found = trainer.model, stored_weights(directory), {}
    for name, layer in adapted_layers(model):
        if not isinstance(layer, Linear4bit):
            continue
        run.watchdog.heartbeat(Activity.LOADING)
        key = _key(model, name, stored)
        found[name] = _factors(layer, _read(stored[key], key))
    with torch.no_grad():
        for name, (a, b) in run.world.broadcast(found).items():
            layer = model.get_submodule(name)
            layer.lora_A["default"].weight.copy_(a)
            layer.lora_B["default"].weight.copy_(b)
    logger.info("LoftQ: the adapters of %d layers begin with the error of their quantization", len(found))


def stored_weights(directory: Path) -> Mapping[str, Path]:
    """The file of every weight in `directory`, by the weight's name there."""
    from safetensors import safe_open

    found: dict[str, Path] = {}
    for file in _files(directory):
        with safe_open(directory / file, framework="pt") as tensors:
            found |= dict.fromkeys(tensors.keys(), directory / file)
    return found


def nearest_low_rank(matrix: Any, rank: int) -> tuple[Any, Any]:
    """A and B in fp32, (rank, columns) and (rows, rank): B A is nearest to `matrix`, and both have equal norms."""
    import torch

    matrix = matrix.double()
    if matrix.shape[0] > matrix.shape[1]:
        b, a = nearest_low_rank(matrix.T, rank)
        return a.T.contiguous(), b.T.contiguous()
    squares, vectors = torch.linalg.eigh(matrix @ matrix.T)
    taken = min(rank, len(squares))
    vectors, values = vectors[:, -taken:].flip(1), squares[-taken:].flip(0).clamp(min=0).sqrt()
    root = values.sqrt()
    a, b = matrix.new_zeros(rank, matrix.shape[1]), matrix.new_zeros(matrix.shape[0], rank)
    a[:taken] = (vectors.T @ matrix) / root.clamp(min=torch.finfo(torch.float64).tiny).unsqueeze(1)
    b[:, :taken] = vectors * root
    return a.float(), b.float()


def _factors(layer: Any, weights: Any) -> tuple[Any, Any]:
    """The initial A and B of `layer`, on the CPU; `weights` are its weights before quantization."""
    import torch
    from bitsandbytes.functional import dequantize_4bit
    from transformers import Conv1D

    base = layer.get_base_layer()
    with torch.no_grad():
        quantized = dequantize_4bit(base.weight.data, base.weight.quant_state).float()
        original = weights.to(quantized)
        if issubclass(getattr(base, "source_cls", torch.nn.Linear), Conv1D):
            original = original.T
        error = original - quantized if original.shape == quantized.shape else original
        if not error.norm() <= _LARGEST_ERROR * original.norm():
            raise StageError(
                Reason.CONFIG_INVALID,
                f"{FIELD}: weights in the files of the model differ from those that were loaded from them by more than "
                "a quantization; remove it",
            )
        a, b = nearest_low_rank(error, layer.r["default"])
        root = layer.scaling["default"] ** 0.5
    return (a / root).cpu(), (b / root).cpu()


def _key(model: Any, name: str, stored: Mapping[str, Path]) -> str:
    """The stored name of the weight of layer `name` of PEFT's `model`; some files omit the model's own prefix."""
    full = f"{name.removeprefix(PREFIX)}.weight"
    short = full.removeprefix(f"{model.get_base_model().base_model_prefix}.")
    for key in (full, short):
        if key in stored:
            return key
    raise StageError(
        Reason.CONFIG_INVALID,
        f"{FIELD}: the model's files do not have {full} under this name, so it cannot be compared with what was "
        "quantized; remove it",
    )


def _read(file: Path, key: str) -> Any:
    from safetensors import safe_open

    with safe_open(file, framework="pt") as tensors:
        return tensors.get_tensor(key)


def _files(directory: Path) -> list[str]:
    names = sorted(path.name for path in directory.iterdir() if path.is_file())
    return safe_weight_files(names, lambda name: (directory / name).read_bytes())
