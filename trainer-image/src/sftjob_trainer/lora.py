"""LoRA: PEFT's config from ours, and whether the model has the layers that it names."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Final

from sftjob_contract.method import Lora, uses_eva, uses_loftq
from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure
from sftjob_trainer.initial_adapter import EVA_CONFIG

ALL_LINEAR: Final = "all-linear"
"""PEFT's word for every linear layer but the output head."""
PREFIX: Final = "base_model.model."
"""With which the names of all layers begin in PEFT's model."""
_SHOWN: Final = 24


def lora_config(lora: Lora, kept: Mapping[str, Any] = MappingProxyType({})) -> Any:
    """PEFT's LoraConfig; `kept` are fields of an adapter that is there already.

    Raises:
        Failure: PEFT does not take a value of `lora.extra`.
    """
    from peft import EvaConfig, LoraConfig

    modules = list(lora.target_modules)
    given = {
        "target_modules": ALL_LINEAR if modules == [ALL_LINEAR] else modules,
        **lora.extra,
        **kept,
    }
    if uses_loftq(lora):  # PEFT would quantize the base itself
        given["init_lora_weights"] = True
    try:
        if uses_eva(lora):
            given[EVA_CONFIG] = EvaConfig(**(lora.extra.get(EVA_CONFIG) or {}))
        return LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            bias=lora.bias.value,
            use_rslora=lora.rslora,
            use_dora=lora.dora,
            modules_to_save=list(lora.modules_to_save) or None,
            task_type="CAUSAL_LM",
            **given,
        )
    except (ValueError, TypeError) as error:
        if not lora.extra:
            raise
        raise Failure(
            Reason.CONFIG_INVALID, f"method.lora.extra: {', '.join(lora.extra)}: PEFT refuses it: {error}"
        ) from error


def adapted_layers(model: Any) -> Iterator[tuple[str, Any]]:
    """Layers of PEFT's `model` with an A and a B, by name; those of embeddings are others."""
    from peft.tuners.lora import LoraLayer

    return ((name, one) for name, one in model.named_modules() if isinstance(one, LoraLayer) and one.lora_A)


def check_beginning(model: Any, lora: Lora) -> None:
    """See that every adapter in PEFT's `model` can begin as `lora` has it: those of experts have an A for each.

    Raises:
        Failure: one cannot.
    """
    from peft.tuners.lora import ParamWrapper

    if not (uses_eva(lora) or uses_loftq(lora)):
        return
    experts = next((name for name, one in model.named_modules() if isinstance(one, ParamWrapper)), None)
    if experts is not None:
        raise _refused(
            f"method.lora.extra.init_lora_weights: {lora.extra['init_lora_weights']} is not for weights of experts, "
            f"such as {experts.removeprefix(PREFIX)}; write linear layers in method.lora.targetModules, such as q_proj "
            "and v_proj, or remove it"
        )


@dataclass(frozen=True, kw_only=True)
class Layers:
    """Dotted names of a model's modules.

    `every` are all of them, `linear` its linear layers, `weighted` those with parameters of their own, and `head` turns
    hidden states into logits.
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
    """Refuse names that a model has no layer of, before PEFT passes over some of them in silence.

    Raises:
        Failure: a name fits no layer, or one that can not be adapted.
    """
    for target in lora.target_modules:
        if target == ALL_LINEAR:
            continue
        if layers.head is not None and _fits(layers.head, target):
            raise _refused(
                f"method.lora.targetModules: {target} is the model's output head, which can not be adapted; "
                "name it in method.lora.modulesToSave to train it as a whole"
            )
        if not any(_fits(name, target) for name in layers.every):
            others = [name for name in layers.linear if name != layers.head]
            raise _refused(f"method.lora.targetModules: {target} is no layer of the model; it has {_listed(others)}")
    for wanted in lora.modules_to_save:
        if not any(_fits(name, wanted) for name in layers.every):
            raise _refused(
                f"method.lora.modulesToSave: {wanted} is no layer of the model; it has {_listed(layers.weighted)}"
            )


def check_tokens(lora: Lora, rows: int) -> None:
    """Refuse tokens to train that an embedding of so many `rows` does not have.

    Raises:
        Failure: a token of trainable_token_indices is out of range.
    """
    given = lora.extra.get("trainable_token_indices") or ()
    tokens = [token for listed in given.values() for token in listed] if isinstance(given, Mapping) else given
    for token in tokens:
        if not isinstance(token, int) or isinstance(token, bool) or not 0 <= token < rows:
            raise _refused(
                f"method.lora.extra.trainable_token_indices: {token!r} is no token of the model; its embedding has "
                f"{rows} rows, so write numbers from 0 to {rows - 1}"
            )


def _fits(name: str, target: str) -> bool:
    """Whether PEFT takes `target` to mean the layer `name`: it is the whole name, or its end."""
    return name == target or name.endswith(f".{target}")


def _listed(names: Iterable[str]) -> str:
    """The distinct last parts of `names`, in order."""
    distinct = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
    return ", ".join(distinct[:_SHOWN] + ["..."] * (len(distinct) > _SHOWN))


def _refused(sentence: str) -> Failure:
    return Failure(Reason.CONFIG_INVALID, sentence)
