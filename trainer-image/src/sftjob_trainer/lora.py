"""LoRA: PEFT's config from ours, and whether the model has the layers that it names."""

from collections.abc import Iterable
from typing import Any, Final

from sftjob_contract.method import Lora
from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure

ALL_LINEAR: Final = "all-linear"
"""PEFT's word for every linear layer but the output head."""
_SHOWN: Final = 24


def lora_config(lora: Lora) -> Any:
    """PEFT's LoraConfig.

    Raises:
        Failure: PEFT does not take a value of `lora.extra`.
    """
    from peft import LoraConfig

    modules = list(lora.target_modules)
    try:
        return LoraConfig(
            r=lora.rank,
            lora_alpha=lora.alpha,
            lora_dropout=lora.dropout,
            target_modules=ALL_LINEAR if modules == [ALL_LINEAR] else modules,
            bias=lora.bias.value,
            use_rslora=lora.rslora,
            use_dora=lora.dora,
            modules_to_save=list(lora.modules_to_save) or None,
            task_type="CAUSAL_LM",
            **lora.extra,
        )
    except (ValueError, TypeError) as error:
        if not lora.extra:
            raise
        raise Failure(
            Reason.CONFIG_INVALID, f"method.lora.extra: {', '.join(lora.extra)}: PEFT refuses it: {error}"
        ) from error


def check_layers(model: Any, lora: Lora) -> None:
    """Refuse names that `model` has no layer of, before PEFT passes over some of them in silence.

    Raises:
        Failure: a name fits no layer, or one that can not be adapted.
    """
    from torch import nn

    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    head = _output_head(model)
    for target in lora.target_modules:
        if target == ALL_LINEAR:
            continue
        if head is not None and _fits(head, target):
            raise _refused(
                f"method.lora.targetModules: {target} is the model's output head, which can not be adapted; "
                "name it in method.lora.modulesToSave to train it as a whole"
            )
        if not any(_fits(name, target) for name, _ in model.named_modules()):
            others = [name for name in linear if name != head]
            raise _refused(f"method.lora.targetModules: {target} is no layer of the model; it has {_layers(others)}")
    for wanted in lora.modules_to_save:
        if not any(_fits(name, wanted) for name, _ in model.named_modules()):
            names = [
                name
                for name, module in model.named_modules()
                if next(module.parameters(recurse=False), None) is not None
            ]
            raise _refused(f"method.lora.modulesToSave: {wanted} is no layer of the model; it has {_layers(names)}")


def _output_head(model: Any) -> str | None:
    """The name of the layer that turns hidden states into logits."""
    head = model.get_output_embeddings()
    return next((name for name, module in model.named_modules() if module is head), None)


def _fits(name: str, target: str) -> bool:
    """Whether PEFT takes `target` to mean the layer `name`: it is the whole name, or its end."""
    return name == target or name.endswith(f".{target}")


def _layers(names: Iterable[str]) -> str:
    """The distinct last parts of `names`, in order."""
    distinct = list(dict.fromkeys(name.rpartition(".")[2] for name in names))
    return ", ".join(distinct[:_SHOWN] + ["..."] * (len(distinct) > _SHOWN))


def _refused(sentence: str) -> Failure:
    return Failure(Reason.CONFIG_INVALID, sentence)
