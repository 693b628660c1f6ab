"""How weights are adapted: part of the run config."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


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
