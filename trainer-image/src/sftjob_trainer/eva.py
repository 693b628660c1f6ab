"""EVA: the A of a layer begins as the main directions of the layer's inputs, found in a few batches of the data.

Layers whose inputs vary more get a part of the rank of the others, as far as `eva_config.rho` allows (Paischer et al.
2024, https://huggingface.co/papers/2410.07170). PEFT computes it; here are the batches, an end, and one result for all
processes.
"""

import copy
import json
import logging
import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final

from sftjob_contract.method import EVA, Lora
from sftjob_contract.progress import Activity
from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure
from sftjob_trainer.lora import PREFIX, adapted_layers
from sftjob_trainer.run import Run
from sftjob_trainer.start import ADAPTER_CONFIG
from sftjob_trainer.tokenization import NOT_TRAINED
from sftjob_trainer.trained_weights import train_in_fp32

logger = logging.getLogger(__name__)

FIELD: Final = f"method.lora.extra.init_lora_weights: {EVA}"
BATCHES: Final = 32
"""Different batches at most; they are used again and again until the directions stay as they are."""
MOST_PASSES: Final = 64
"""Forward passes after which the directions are taken as they are: PEFT would go on for ever."""
_ENOUGH: Final = 1024
"""Positions of a batch that are looked at."""
_TOKENS: Final = 4096
"""Tokens of a batch, with padding: there is no backward pass and no head."""
_MOST_TOKENS: Final = 16384
"""The same where few of them count."""
_ROWS: Final = 8192
"""Rows looked through at most."""
_KEPT: Final = ("rank_pattern", "alpha_pattern", "target_modules")
_ANY: Final = -2.0
"""A cosine that every two directions exceed."""
_BIASES: Final = "Careful, disabling adapter layers with bias"
"""PEFT's warning is about biases that were trained."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """Tokens of a row, and the positions among them whose inputs count."""

    tokens: int
    counted: int


def kept_shape(checkpoint: Path) -> Mapping[str, Any]:
    """What EVA had decided of PEFT's config when `checkpoint` was taken: the layers, and rank and alpha of each."""
    settings = json.loads((checkpoint / ADAPTER_CONFIG).read_text(encoding="utf-8"))
    return {name: settings[name] for name in _KEPT}


def batches(
    order: Iterable[int], row: Callable[[int], Row], *, least: int, most: int = BATCHES
) -> Iterator[Sequence[int]]:
    """Rows that are looked at together, in the `order` given: at most `most` batches of at least `least` positions."""
    found, together, longest, counted = 0, list[int](), 0, 0
    for index in order:
        sizes = row(index)
        tokens = max(longest, sizes.tokens) * (len(together) + 1)
        if together and tokens > (_TOKENS if counted >= least else _MOST_TOKENS):
            if counted >= least:
                yield together
                found += 1
            together, longest, counted = [], 0, 0
        if found == most:
            return
        together, longest, counted = [*together, index], max(longest, sizes.tokens), counted + sizes.counted
        if counted >= max(_ENOUGH, least):
            yield together
            found, together, longest, counted = found + 1, [], 0, 0
    if counted >= least and found < most:
        yield together


def check_directions(model: Any, lora: Lora) -> None:
    """See that every layer of `model`, which has an adapter, has enough inputs for the directions that EVA looks for.

    Raises:
        Failure: one has not.
    """
    narrowest = min(((layer.in_features, name) for name, layer in adapted_layers(model)), default=None)
    wanted = _directions(model)
    if narrowest is None or 2 * wanted <= narrowest[0]:
        return
    inputs, name = narrowest
    raise Failure(
        Reason.CONFIG_INVALID,
        f"{FIELD} looks for rank x rho = {wanted} directions ({lora.rank} x {_settings(model).rho:g}) among the inputs "
        f"of a layer, of which {name.removeprefix(PREFIX)} has {inputs}, and there must be twice as many; "
        f"lower method.lora.rank, or write a lower rho in method.lora.extra.eva_config",
    )


def initialize(trainer: Any, run: Run) -> None:
    """Let the adapter of `trainer` begin as EVA has it. Collective.

    Every process computes it, so that none waits for long, and takes what the leader found, so that all have the same.

    Raises:
        Failure: the data or the model does not allow it.
    """
    import torch
    from peft import initialize_lora_eva_weights

    model = trainer.model
    found = run.world.share(_found(trainer, run))
    with warnings.catch_warnings(record=True, action="always") as told:
        initialize_lora_eva_weights(model, eva_state_dict=dict(found))
    for warning in told:
        logger.info("EVA: %s", warning.message)
    name_layers(model)
    train_in_fp32(model)
    ranks = []
    with torch.no_grad():
        for name, directions in found.items():
            ranks.append(len(directions))
            if len(directions):  # PEFT has put it through the dtype of the base
                model.get_submodule(name).lora_A["default"].weight.copy_(directions)
    logger.info("EVA: %d layers have ranks of %d to %d, %d together", len(ranks), min(ranks), max(ranks), sum(ranks))


def name_layers(model: Any) -> None:
    """Have PEFT's config name the layers of `model` that have an adapter in full.

    PEFT shortens the names as if layers that have lost theirs did not exist, so another model loaded by such a config
    would have them again.
    """
    from peft.tuners.lora import LoraLayer

    layers = [name for name, one in model.named_modules() if isinstance(one, LoraLayer)]
    model.peft_config["default"].target_modules = sorted(name.removeprefix(PREFIX) for name in layers)


def _found(trainer: Any, run: Run) -> dict[str, Any]:
    """The first directions of each layer by its name in the model, as many as the layer's rank, on the CPU in fp32."""
    import torch
    from peft import get_eva_state_dict
    from transformers import BatchEncoding

    model = trainer.model
    data = [
        BatchEncoding(trainer.data_collator([trainer.train_dataset[index] for index in rows]))  # PEFT moves its tensors
        for rows in _chosen(trainer, run)
    ]
    threshold = torch.tensor(float(_settings(model).tau))
    passes = _Passes(trainer, run, threshold)
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
    logger.info("EVA: %d forward passes over %d batches of the training data", passes.taken, len(data))
    if passes.taken > MOST_PASSES:
        logger.warning("EVA: some directions still turned after %d passes and are taken as they were", MOST_PASSES)
    if infinite := [name for name, directions in found.items() if not directions.isfinite().all()]:
        raise Failure(
            Reason.CONFIG_INVALID,
            f"{FIELD}: the inputs of {infinite[0]} vary in too few directions; lower method.lora.rank, or remove "
            "whiten from method.lora.extra.eva_config",
        )
    return {name: directions.float().cpu() for name, directions in found.items()}


class _Passes:
    """The forward passes, in the arithmetic of a step; after the last that is allowed every direction is taken."""

    def __init__(self, trainer: Any, run: Run, threshold: Any) -> None:
        self._trainer, self._run, self._threshold = trainer, run, threshold
        self.taken = 0

    def __call__(self, model: Any, inputs: Mapping[str, Any]) -> None:
        self._run.watchdog.heard(Activity.LOADING)
        self.taken += 1
        if self.taken > MOST_PASSES:
            self._threshold.fill_(_ANY)
        if self.taken > 2 * MOST_PASSES:
            raise Failure(Reason.DIVERGED, f"{FIELD}: inputs of layers are not finite numbers before the first step")
        given = {name: value for name, value in inputs.items() if name != "labels"}
        with self._trainer.compute_loss_context_manager():
            model.get_decoder()(**given, use_cache=False)


def counted_positions(inputs: Mapping[str, Any], config: Any) -> Any:
    """Which positions of a batch count, (batch, length): tokens, and with `use_label_mask` those that are trained."""
    import torch

    mask = inputs.get("attention_mask", torch.ones_like(inputs["input_ids"])).bool()
    return mask & (inputs["labels"] != NOT_TRAINED) if config.eva_config.use_label_mask else mask


def inputs_at(given: Any, positions: Any, name: str) -> Any:
    """What the layer `name` was given at `positions`, (positions, features).

    Raises:
        Failure: it sees other tokens than those of the batch, as an expert does.
    """
    states = given[0] if isinstance(given, tuple | list) else given
    rows = states.reshape(-1, states.size(-1))
    if len(rows) != positions.numel():
        raise Failure(
            Reason.CONFIG_INVALID,
            f"{FIELD} needs layers that see every token, which {name.removeprefix(PREFIX)} does not; "
            "write other layers in method.lora.targetModules",
        )
    return rows[positions.reshape(-1)]


def _chosen(trainer: Any, run: Run) -> list[Sequence[int]]:
    """Rows of the training data, batch by batch, the same for any number of processes and size of their batches."""
    import torch

    masked, least = bool(_settings(trainer.model).use_label_mask), 2 * _directions(trainer.model)
    seed = torch.Generator().manual_seed(run.config.training.seed)
    order = torch.randperm(run.stats.sequences, generator=seed)[:_ROWS].tolist()

    def row(index: int) -> Row:
        found = trainer.train_dataset[index]
        tokens = len(found["input_ids"])
        trained = sum(label != NOT_TRAINED for label in found["labels"])
        return Row(tokens=tokens, counted=trained if masked else tokens)

    if chosen := list(batches(order, row, least=least)):
        return chosen
    kind, instead = ("trained ", ", or use_label_mask: false in method.lora.extra.eva_config") if masked else ("", "")
    raise Failure(
        Reason.DATA_INVALID,
        f"{FIELD} needs {least} {kind}tokens at a time, which the rows to train on do not have together; lower "
        f"method.lora.rank, write a lower rho{instead}",
    )


def _settings(model: Any) -> Any:
    """PEFT's EvaConfig of the adapter of `model`."""
    return model.peft_config["default"].eva_config


def _directions(model: Any) -> int:
    """The largest rank that a layer may get."""
    rank: int = max((layer.r["default"] for _, layer in adapted_layers(model)), default=0)
    return round(rank * float(_settings(model).rho))
