"""How weights are adapted: part of the run config."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

INIT_LORA_WEIGHTS: Final = "init_lora_weights"
"""PEFT's option for how an adapter begins."""
EVA: Final = "eva"
"""Its value for which A begins with directions of the layer's inputs, and layers share their ranks out."""
LOFTQ: Final = "loftq"
"""Its value for which B A begins with the error of the quantization."""
_OF_THE_BASE: Final = re.compile(r"pissa(_niter_\d+)?|olora")


class LoraBias(StrEnum):
    """Which biases LoRA trains, under PEFT's names (`bias`)."""

    NONE = "none"
    ALL = "all"
    LORA_ONLY = "lora_only"


class QuantizationType(StrEnum):
    """4-bit data type, under bitsandbytes' names (`bnb_4bit_quant_type`)."""

    NF4 = "nf4"
    FP4 = "fp4"


class ComputeDtype(StrEnum):
    """Dtype of the matrix products on quantized weights (`bnb_4bit_compute_dtype`)."""

    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


@dataclass(frozen=True, kw_only=True)
class Lora:
    """LoRA, under PEFT's names (`r`, `lora_alpha`, ..., `use_rslora`, `use_dora`, `modules_to_save`).

    `extra` are more fields of `peft.LoraConfig`, in its own names. `loraplus_lr_ratio` is how much larger the learning
    rate of B is than that of A (LoRA+, Hayou et al. 2024); None: not at all.
    """

    rank: int
    alpha: int
    dropout: float
    target_modules: tuple[str, ...]
    bias: LoraBias
    rslora: bool
    dora: bool
    modules_to_save: tuple[str, ...]
    extra: Mapping[str, Any] = field(hash=False)
    loraplus_lr_ratio: float | None = None


def takes_from_base(lora: Lora | None) -> bool:
    """Whether the initialization takes a part of the base's weights into the adapter (PiSSA, OLoRA)."""
    value = None if lora is None else lora.extra.get(INIT_LORA_WEIGHTS)
    return isinstance(value, str) and _OF_THE_BASE.fullmatch(value) is not None


def uses_eva(lora: Lora | None) -> bool:
    """Whether the adapter begins with directions of its inputs."""
    return lora is not None and lora.extra.get(INIT_LORA_WEIGHTS) == EVA


def uses_loftq(lora: Lora | None) -> bool:
    """Whether the adapter begins with the error of the base's quantization."""
    return lora is not None and lora.extra.get(INIT_LORA_WEIGHTS) == LOFTQ


def keeps_initial_adapter(lora: Lora | None) -> bool:
    """Whether a checkpoint has the adapter before its first step too, and the output is of twice the rank."""
    return takes_from_base(lora) or uses_loftq(lora)


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """Quantized base weights (bitsandbytes). `type`, `double_quantization` and `compute_dtype` are for 4 bits."""

    bits: int
    type: QuantizationType
    double_quantization: bool
    compute_dtype: ComputeDtype


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """The model to learn from; `source` as that of `Model`."""

    source: str
    revision: str | None


@dataclass(frozen=True, kw_only=True)
class Distillation:
    """Loss = alpha * T^2 * KL(teacher || student, both at T) + (1 - alpha) * cross entropy (Hinton et al. 2015)."""

    teacher: Teacher
    temperature: float
    alpha: float


@dataclass(frozen=True, kw_only=True)
class Method:
    """How weights are adapted. No `lora`: every weight is trained, or those that `unfrozen_parameters` match.

    `unfrozen_parameters` are regular expressions (Python's) that the names of weights must begin with, at least one of
    them; None: all are trained. `quantization` is for LoRA only (QLoRA).
    """

    lora: Lora | None
    quantization: Quantization | None
    distillation: Distillation | None
    unfrozen_parameters: tuple[str, ...] | None = None
