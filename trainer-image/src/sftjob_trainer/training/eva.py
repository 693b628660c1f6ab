"""EVA: initialize the A of a layer with the main directions of the layer's inputs, from a few batches of the data.

Layers whose inputs vary more receive part of the rank of the others, within `eva_config.rho` (Paischer et al. 2024,
https://huggingface.co/papers/2410.07170). PEFT computes it; this module provides the batches, a limit, and the same
result for all processes.
"""

import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from sftjob_contract.reasons import Reason
from sftjob_contract.reports.progress import Activity
from sftjob_contract.run.method import EVA, Lora
from sftjob_trainer.models.lora import PREFIX, adapted_layers
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.run.context import Run
from sftjob_trainer.tokens.tokenizer import NOT_TRAINED
from sftjob_trainer.training.starting_point import ADAPTER_CONFIG
from sftjob_trainer.training.trained_weights import train_in_fp32

logger = logging.getLogger(__name__)

FIELD: Final = f"method.lora.extra.init_lora_weights: {EVA}"
BATCHES: Final = 32
"""Maximum number of different batches; they are reused until the directions converge."""
MAX_PASSES: Final = 64
"""Forward passes after which the current directions are used: PEFT has no limit of its own."""
_ENOUGH_POSITIONS: Final = 1024
"""Positions of a batch that are used."""
_TOKENS: Final = 4096
"""Tokens of a batch, including padding: there is no backward pass and no head."""
_MAX_TOKENS: Final = 16384
"""The same limit if only a few of them count."""
_ROWS: Final = 8192
"""Maximum number of rows examined."""
_KEPT: Final = ("rank_pattern", "alpha_pattern", "target_modules")
_ANY: Final = -2.0
"""A cosine that every two directions exceed."""
_BIASES: Final = "Careful, disabling adapter layers with bias"
"""PEFT's warning is about trained biases."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """The tokens of a row, and the positions among them whose inputs count."""

    tokens: int
    counted: int


def kept_shape(checkpoint: Path) -> Mapping[str, Any]:
    """The PEFT config fields that EVA had set when `checkpoint` was taken: the layers, and rank and alpha of each."""
    settings = json.loads((checkpoint / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    return {name: settings[name] for name in _KEPT}


def batches(
    order: Iterable[int], row_size: Callable[[int], Row], *, minimum: int, max_batches: int = BATCHES
) -> Iterator[Sequence[int]]:
    """Batches of rows in the given `order`: at most `max_batches` batches of at least `minimum` positions."""
    found, batch, longest, counted = 0, list[int](), 0, 0
    for index in order:
        sizes = row_size(index)
        tokens = max(longest, sizes.tokens) * (len(batch) + 1)
        if batch and tokens > (_TOKENS if counted >= minimum else _MAX_TOKENS):
            if counted >= minimum:
                yield batch
                found += 1
            batch, longest, counted = [], 0, 0
        if found == max_batches:
            return
        batch, longest, counted = [*batch, index], max(longest, sizes.tokens), counted + sizes.counted
        if counted >= max(_ENOUGH_POSITIONS, minimum):
            yield batch
            found, batch, longest, counted = found + 1, [], 0, 0
    if counted >= minimum and found < max_batches:
        yield batch


def check_directions(model: Any, lora: Lora) -> None:
    """Check that every adapted layer of `model` has enough input features for the directions that EVA looks for.

    Raises:
        StageError: a layer has too few.
    """
    narrowest = min(((layer.in_features, name) for name, layer in adapted_layers(model)), default=None)
    wanted = _directions(model)
    if narrowest is None or 2 * wanted <= narrowest[0]:
        return
    inputs, name = narrowest
    raise StageError(
        Reason.CONFIG_INVALID,
        f"{FIELD} looks for rank x rho = {wanted} directions ({lora.rank} x {_settings(model).rho:g}) among the inputs "
        f"of a layer, of which {name.removeprefix(PREFIX)} has {inputs}, and there must be twice as many; "
        f"lower method.lora.rank, or write a lower rho in method.lora.extra.eva_config",
    )


def initialize(trainer: Any, run: Run) -> None:
    """Initialize the adapter of `trainer` with EVA. Collective.

    Every process computes it, so that none waits for long, and all use the leader's result, so that they agree.

    Raises:
        StageError: the data or the model does not allow it.
    """
    import torch
    from peft import initialize_lora_eva_weights

    model = trainer.model
    found = run.world.broadcast(_compute_directions(trainer, run))
    with warnings.catch_warnings(record=True, action="always") as caught:
        initialize_lora_eva_weights(model, eva_state_dict=dict(found))
    for warning in caught:
        logger.info("EVA: %s", warning.message)
    name_layers(model)
    train_in_fp32(model)
    ranks = []
    with torch.no_grad():
        for name, directions in found.items():
            ranks.append(len(directions))
            if len(directions):  # PEFT has cast it to the dtype of the base and back
                model.get_submodule(name).lora_A["default"].weight.copy_(directions)
    logger.info("EVA: %d layers have ranks of %d to %d, %d together", len(ranks), min(ranks), max(ranks), sum(ranks))


def name_layers(model: Any) -> None:
    """List the full names of the adapted layers of `model` in PEFT's config.

    PEFT shortens the names as if layers that lost their adapter did not exist. Another model loaded with such a config
    would adapt them again.
    """
    from peft.tuners.lora import LoraLayer

    layers = [name for name, module in model.named_modules() if isinstance(module, LoraLayer)]
    model.peft_config["default"].target_modules = sorted(name.removeprefix(PREFIX) for name in layers)


def _compute_directions(trainer: Any, run: Run) -> dict[str, Any]:
    """The first directions of each layer, by its name in the model: as many as the layer's rank, on the CPU in fp32."""
    import torch
    from peft import get_eva_state_dict
    from transformers import BatchEncoding

    model = trainer.model
    data = [
        BatchEncoding(trainer.data_collator([trainer.train_dataset[index] for index in rows]))  # PEFT moves its tensors
        for rows in _choose_batches(trainer, run)
    ]
    threshold = torch.tensor(float(_settings(model).tau))
    passes = _ForwardPasses(trainer, run, threshold)
    config = copy.copy(model.peft_config["default"])
    config.eva_config = replace(config.eva_config, tau=threshold)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=_BIASES)
        found: dict[str, torch.Tensor] = get_eva_state_dict(
            model,
            data,
            peft_config=config,
            forward_fn=passes,
            prepare_model_inputs_fn=counted_positions,
            prepare_layer_inputs_fn=inputs_at,
            gather_distributed_inputs=False,
            show_progress_bar=False,
        )
    logger.info("EVA: %d forward passes over %d batches of the training data", passes.count, len(data))
    if passes.count > MAX_PASSES:
        logger.warning("EVA: some directions had not converged after %d passes and are used as they were", MAX_PASSES)
    if infinite := [name for name, directions in found.items() if not directions.isfinite().all()]:
        raise StageError(
            Reason.CONFIG_INVALID,
            f"{FIELD}: the inputs of {infinite[0]} vary in too few directions; lower method.lora.rank, or remove "
            "whiten from method.lora.extra.eva_config",
        )
    return {name: directions.float().cpu() for name, directions in found.items()}


class _ForwardPasses:
    """The forward passes, in the arithmetic of a training step. After the last pass, every direction is accepted."""

    def __init__(self, trainer: Any, run: Run, threshold: Any) -> None:
        self._trainer, self._run, self._threshold = trainer, run, threshold
        self.count = 0

    def __call__(self, model: Any, inputs: Mapping[str, Any]) -> None:
        self._run.watchdog.heartbeat(Activity.LOADING)
        self.count += 1
        if self.count > MAX_PASSES:
            self._threshold.fill_(_ANY)
        if self.count > 2 * MAX_PASSES:
            raise StageError(Reason.DIVERGED, f"{FIELD}: inputs of layers are not finite numbers before the first step")
        given = {name: value for name, value in inputs.items() if name != "labels"}
        with self._trainer.compute_loss_context_manager():
            model.get_decoder()(**given, use_cache=False)


def counted_positions(inputs: Mapping[str, Any], config: Any) -> Any:
    """Mask of the positions that count, (batch, length): tokens, and with `use_label_mask` only trained ones."""
    import torch

    mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
    return mask & (inputs["labels"] != NOT_TRAINED) if config.eva_config.use_label_mask else mask


def inputs_at(given: Any, positions: Any, name: str) -> Any:
    """Inputs of the layer `name` at `positions`, (positions, features).

    Raises:
        StageError: the layer sees other tokens than those of the batch, as an expert does.
    """
    states = given[0] if isinstance(given, tuple | list) else given
    rows = states.reshape(-1, states.size(-1))
    if len(rows) != positions.numel():
        raise StageError(
            Reason.CONFIG_INVALID,
            f"{FIELD} needs layers that see every token, which {name.removeprefix(PREFIX)} does not; "
            "write other layers in method.lora.targetModules",
        )
    return rows[positions.reshape(-1)]


def _choose_batches(trainer: Any, run: Run) -> list[Sequence[int]]:
    """Rows of the training data by batch, independent of the number of processes and their batch size."""
    import torch

    masked, minimum = bool(_settings(trainer.model).use_label_mask), 2 * _directions(trainer.model)
    seed = torch.Generator().manual_seed(run.config.training.seed)
    order = torch.randperm(run.stats.sequences, generator=seed)[:_ROWS].tolist()

    def row_size(index: int) -> Row:
        found = trainer.train_dataset[index]
        tokens = len(found["input_ids"])
        trained = sum(label != NOT_TRAINED for label in found["labels"])
        return Row(tokens=tokens, counted=trained if masked else tokens)

    if chosen := list(batches(order, row_size, minimum=minimum)):
        return chosen
    kind, instead = ("trained ", ", or use_label_mask: false in method.lora.extra.eva_config") if masked else ("", "")
    raise StageError(
        Reason.DATA_INVALID,
        f"{FIELD} needs {minimum} {kind}tokens at a time, which the rows to train on do not have together; lower "
        f"method.lora.rank, write a lower rho{instead}",
    )


def _settings(model: Any) -> Any:
    """PEFT's EvaConfig of the adapter of `model`."""
    return model.peft_config["default"].eva_config


def _directions(model: Any) -> int:
    """The largest rank that a layer may get."""
    rank: int = max((layer.r["default"] for _, layer in adapted_layers(model)), default=0)
    return round(rank * float(_settings(model).rho))
