"""How weights are adapted: part of the run config."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

INIT_LORA_WEIGHTS: Final = "init_lora_weights"
"""PEFT's option for the initialization of an adapter."""
EVA: Final = "eva"
"""Its value that initializes A with directions of the layer's inputs and redistributes ranks among layers."""
LOFTQ: Final = "loftq"
"""Its value that initializes B A with the quantization error."""
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

    `extra` holds further fields of `peft.LoraConfig`, under its own names. `loraplus_lr_ratio` is the learning rate of
    B divided by that of A (LoRA+, Hayou et al. 2024); None: both are equal.
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
    """Whether the initialization moves a part of the base weights into the adapter (PiSSA, OLoRA)."""
    value = None if lora is None else lora.extra.get(INIT_LORA_WEIGHTS)
    return isinstance(value, str) and _OF_THE_BASE.fullmatch(value) is not None


def uses_eva(lora: Lora | None) -> bool:
    """Whether the adapter is initialized with directions of its inputs."""
    return lora is not None and lora.extra.get(INIT_LORA_WEIGHTS) == EVA


def uses_loftq(lora: Lora | None) -> bool:
    """Whether the adapter is initialized with the error of the base's quantization."""
    return lora is not None and lora.extra.get(INIT_LORA_WEIGHTS) == LOFTQ


def keeps_initial_adapter(lora: Lora | None) -> bool:
    """Whether a checkpoint also stores the initial adapter, and the output has twice the rank."""
    return takes_from_base(lora) or uses_loftq(lora)


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """Quantized base weights (bitsandbytes). `type`, `double_quantization` and `compute_dtype` apply to 4 bits."""

    bits: int
    type: QuantizationType
    double_quantization: bool
    compute_dtype: ComputeDtype


@dataclass(frozen=True, kw_only=True)
class Teacher:
    """The teacher model; `source` as in `Model`."""

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
    """How weights are adapted. Without `lora`, every weight is trained, or those that match `unfrozen_parameters`.

    `unfrozen_parameters` are regular expressions (Python's), of which at least one must match the beginning of a
    weight's name; None: all weights are trained. `quantization` requires LoRA (QLoRA).
    """

    lora: Lora | None
    quantization: Quantization | None
    distillation: Distillation | None
    unfrozen_parameters: tuple[str, ...] | None = None
