"""LoRA: convert the run config to PEFT's config, and check that the model has the layers that it names."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from sftjob_contract.reasons import Reason
from sftjob_contract.run.method import Lora, uses_eva, uses_loftq
from sftjob_trainer.models.initial_adapter import EVA_CONFIG
from sftjob_trainer.process.errors import StageError

ALL_LINEAR: Final = "all-linear"
"""PEFT's name for every linear layer except the output head."""
PREFIX: Final = "base_model.model."
"""Prefix of all layer names in PEFT's model."""
_MAX_SHOWN: Final = 24


def lora_config(lora: Lora, adapter_fields: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """PEFT's LoraConfig; `adapter_fields` are the fields of an existing adapter.

    Raises:
        StageError: PEFT refuses a value of `lora.extra`.
    """
    from peft import EvaConfig, LoraConfig

    modules = list(lora.target_modules)
    options = {
        "target_modules": ALL_LINEAR if modules == [ALL_LINEAR] else modules,
        **lora.extra,
        **adapter_fields,
    }
    if uses_loftq(lora):  # PEFT would quantize the base itself
        options["init_lora_weights"] = True
    try:
        if uses_eva(lora):
            options[EVA_CONFIG] = EvaConfig(**(lora.extra.get(EVA_CONFIG) or {}))
        return LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            bias=lora.bias.value,
            use_rslora=lora.rslora,
            use_dora=lora.dora,
            modules_to_save=list(lora.modules_to_save) or None,
            task_type="CAUSAL_LM",
            **options,
        )
    except (ValueError, TypeError) as error:
        if not lora.extra:
            raise
        raise StageError(
            Reason.CONFIG_INVALID, f"method.lora.extra: {', '.join(lora.extra)}: PEFT refuses it: {error}"
        ) from error


def adapted_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Layers of PEFT's `model` with an A and a B, by name; embedding adapters are excluded."""
    from peft.tuners.lora import LoraLayer

    return ((name, module) for name, module in model.named_modules() if isinstance(module, LoraLayer) and module.lora_A)


def check_initialization(model: Any, lora: Lora) -> None:
    """Check that every adapter in PEFT's `model` supports the initialization of `lora`: experts have one A each.

    Raises:
        StageError: one does not.
    """
    from peft.tuners.lora import ParamWrapper

    if not (uses_eva(lora) or uses_loftq(lora)):
        return
    experts = next((name for name, module in model.named_modules() if isinstance(module, ParamWrapper)), None)
    if experts is not None:
        raise _config_error(
            f"method.lora.extra.init_lora_weights: {lora.extra['init_lora_weights']} is not for weights of experts, "
            f"such as {experts.removeprefix(PREFIX)}; write linear layers in method.lora.targetModules, such as q_proj "
            "and v_proj, or remove it"
        )


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Dotted names of a model's modules.

    `every` are all of them, `linear` its linear layers, `weighted` those with parameters of their own, and `head` maps
    hidden states to logits.
    """

    every: Sequence[str]
    linear: Sequence[str]
    weighted: Sequence[str]
    head: str | None


def layers_of(model: Any) -> Layers:
    """The layers of a loaded model."""
    from torch import nn
    from transformers import Conv1D

    modules = list(model.named_modules())
    output = model.get_output_embeddings()
    return Layers(
        every=[name for name, _ in modules],
        linear=[name for name, module in modules if isinstance(module, nn.Linear | Conv1D)],
        weighted=[name for name, module in modules if next(module.parameters(recurse=False), None) is not None],
        head=next((name for name, module in modules if module is output), None),
    )


def check_layers(lora: Lora, layers: Layers) -> None:
    """Refuse names that match no layer of the model; PEFT silently ignores some of them.

    Raises:
        StageError: a name matches no layer, or a layer that cannot be adapted.
    """
    for target in lora.target_modules:
        if target == ALL_LINEAR:
            continue
        if layers.head is not None and _matches(layers.head, target):
            raise _config_error(
                f"method.lora.targetModules: {target} is the model's output head, which cannot be adapted; "
                "name it in method.lora.modulesToSave to train it as a whole"
            )
        if not any(_matches(name, target) for name in layers.every):
            others = [name for name in layers.linear if name != layers.head]
            raise _config_error(
                f"method.lora.targetModules: {target} is not a layer of the model; it has {_list_names(others)}"
            )
    for wanted in lora.modules_to_save:
        if not any(_matches(name, wanted) for name in layers.every):
            raise _config_error(
                f"method.lora.modulesToSave: {wanted} is not a layer of the model; it has "
                f"{_list_names(layers.weighted)}"
            )


def check_tokens(lora: Lora, rows: int) -> None:
    """Refuse trainable tokens outside an embedding of `rows` rows.

    Raises:
        StageError: a token of trainable_token_indices is out of range.
    """
    options = lora.extra.get("trainable_token_indices") or ()
    tokens = [token for listed in options.values() for token in listed] if isinstance(options, Mapping) else options
    for token in tokens:
        if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < rows:
            raise _config_error(
                f"method.lora.extra.trainable_token_indices: {token!r} is not a token of the model; its embedding has "
                f"{rows} rows, so write numbers from 0 to {rows - 1}"
            )


def _matches(name: str, target: str) -> bool:
    """Whether PEFT matches `target` to the layer `name`: it is the whole name, or its end."""
    return name == target or name.endswith(f".{target}")


def _list_names(names: Iterable[str]) -> str:
    """The distinct last parts of `names`, in order."""
    distinct = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
    return ", ".join(distinct[:_MAX_SHOWN] + ["..."] * (len(distinct) > _MAX_SHOWN))


def _config_error(message: str) -> StageError:
    return StageError(Reason.CONFIG_INVALID, message)
