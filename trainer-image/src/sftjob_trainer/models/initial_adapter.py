"""Adapters with a special initialization: options they cannot be combined with, and the form they are published in.

PiSSA and OLoRA move B0 A0 from the base into the adapter. LoftQ puts the quantization error into the adapter. What is
trained therefore fits that base only. On the base itself, the same model is the adapter [B | -B0] [A / A0] of twice the
rank (PEFT, `LoraModel.subtract_mutated_init`; Meng et al. 2024, appendix C); with LoftQ, up to its remaining error.
"""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from sftjob_contract.run.method import (
    EVA,
    Lora,
    Method,
    Quantization,
    QuantizationType,
    keeps_initial_adapter,
    takes_from_base,
    uses_eva,
    uses_loftq,
)
from sftjob_trainer.process.wording import type_name

INITIAL_ADAPTER: Final = "initial_adapter.safetensors"
"""File of a checkpoint: the adapter before its first step."""
WEIGHTS: Final = "adapter_model.safetensors"
_FIELD: Final = "method.lora.extra.init_lora_weights"
EVA_CONFIG: Final = "eva_config"
_EMBEDDING_A: Final = ".lora_embedding_A"


def eva_problems(lora: Lora, resume_from: str | None) -> Iterator[str]:
    """Options that cannot be combined with EVA, or that require it, one sentence each."""
    if not uses_eva(lora):
        if EVA_CONFIG in lora.extra:
            yield f"method.lora.extra.{EVA_CONFIG} is for {_FIELD}: {EVA} only: remove it, or write that"
        return
    if resume_from is not None:
        yield (
            f"{_FIELD}: {EVA} cannot be combined with checkpoints.resumeFrom, which starts from an adapter: "
            "remove one of them"
        )
    for name in ("target_parameters", "trainable_token_indices"):
        if lora.extra.get(name):
            yield (
                f"{_FIELD}: {EVA} cannot be combined with method.lora.extra.{name}, whose weights PEFT cannot begin "
                "with EVA: remove one of them"
            )
    given = lora.extra.get(EVA_CONFIG)
    if given is not None and not isinstance(given, Mapping):
        yield f"method.lora.extra.{EVA_CONFIG} must be a map, such as {{rho: 1}}, not {type_name(given)}"


def initialization_problems(method: Method, resume_from: str | None) -> Iterator[str]:
    """Options that cannot be combined with an initialization that changes the base, one sentence each."""
    lora = method.lora
    if lora is None or not keeps_initial_adapter(lora):
        return
    option = f"{_FIELD}: {lora.extra['init_lora_weights']}"
    if uses_loftq(lora) and (problem := _nf4_problem(method.quantization)):
        yield f"{option} needs method.quantization with bits: 4 and type: nf4, {problem}"
    for name, given in (
        ("method.quantization", method.quantization is not None and takes_from_base(lora)),
        ("method.lora.dora", lora.dora),
        ("method.lora.rslora", lora.rslora),
        ("method.lora.extra.rank_pattern", bool(lora.extra.get("rank_pattern"))),
        ("method.lora.extra.alpha_pattern", bool(lora.extra.get("alpha_pattern"))),
        ("method.lora.extra.lora_bias", bool(lora.extra.get("lora_bias"))),
        ("method.lora.extra.trainable_token_indices", bool(lora.extra.get("trainable_token_indices"))),
        ("method.lora.extra.target_parameters", bool(lora.extra.get("target_parameters"))),
        ("checkpoints.resumeFrom", resume_from is not None),
    ):
        if given:
            yield (
                f"{option} cannot be combined with {name}: the adapter could not be published for the base; "
                "remove one of them"
            )


def _nf4_problem(quantization: Quantization | None) -> str | None:
    if quantization is None:
        return "which is missing: write it, or remove this"
    if quantization.bits != 4:
        return f"not bits: {quantization.bits}: change that, or remove this"
    found = quantization.type
    return None if found is QuantizationType.NF4 else f"not type: {found}: change that, or remove this"


def initial_adapter(model: Any, lora: Lora | None, checkpoint: Path | None) -> dict[str, Any] | None:
    """The weights of A and B in `model` before its first step, under the names of adapter files; None if not needed.

    LoftQ computes them for step 0 only; a `checkpoint` to resume from contains them.
    """
    if not keeps_initial_adapter(lora):
        return None
    if uses_loftq(lora) and checkpoint is not None:
        from safetensors.torch import load_file

        return dict(load_file(checkpoint / INITIAL_ADAPTER))
    from peft import get_peft_model_state_dict

    return {
        name: weights.detach().float().cpu().clone().contiguous()
        for name, weights in get_peft_model_state_dict(model).items()
        if ".lora_" in name
    }


def save_initial_adapter(initial: dict[str, Any], checkpoint: Path) -> None:
    """Save `initial` in a checkpoint, which is published without loading the model."""
    from safetensors.torch import save_file

    save_file(initial, checkpoint / INITIAL_ADAPTER)


def convert_to_original_base(initial: Path, adapter: Path, config_file: str) -> None:
    """Convert the adapter in `adapter`, which started as the file `initial`, into one for the base itself."""
    import torch
    from safetensors.torch import load_file, save_file

    trained, before = load_file(adapter / WEIGHTS), load_file(initial)
    for name, weights in before.items():
        now = trained[name].float()
        is_a = ".lora_A." in name or name.endswith(_EMBEDDING_A)
        extended = torch.cat((now, weights), 0) if is_a else torch.cat((now, -weights), 1)
        trained[name] = extended.contiguous()
    save_file(trained, adapter / WEIGHTS, metadata={"format": "pt"})
    path = adapter / config_file
    settings = json.loads(path.read_text(encoding="utf-8"))
    doubled = {"r": 2 * settings["r"], "lora_alpha": 2 * settings["lora_alpha"], "init_lora_weights": True}
    path.write_text(json.dumps({**settings, **doubled}, indent=2, sort_keys=True) + "\n", encoding="utf-8")
