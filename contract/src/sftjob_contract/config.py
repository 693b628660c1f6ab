"""The run config: everything a trainer needs to know about one run, written by the operator, nothing secret in it.

Field names are those of the resource, which are TRL's, PEFT's and Kubernetes' own. The operator resolves every default,
so nothing here has one, and a None means that the user left an optional choice open. An unknown key is refused (exit
INVALID): an option that a trainer does not know must never be dropped in silence.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

RUN_CONFIG_VERSION: Final = 1


class DataFormat(StrEnum):
    """Shape of a data set's rows."""

    AUTO = "auto"
    """Decide from the columns that are there."""
    TEXT = "text"
    PROMPT_COMPLETION = "prompt-completion"
    MESSAGES = "messages"


class Precision(StrEnum):
    """Arithmetic of the training step."""

    AUTO = "auto"
    """bf16 where the accelerator has it, else fp32."""
    BF16 = "bf16"
    FP32 = "fp32"


class Scheduler(StrEnum):
    """Learning rate schedule, under transformers' names (`lr_scheduler_type`)."""

    LINEAR = "linear"
    COSINE = "cosine"
    CONSTANT = "constant"
    CONSTANT_WITH_WARMUP = "constant_with_warmup"


class Optimizer(StrEnum):
    """Optimizer, under transformers' names (`optim`)."""

    ADAMW_TORCH = "adamw_torch"
    ADAMW_TORCH_FUSED = "adamw_torch_fused"
    ADAMW_8BIT = "adamw_8bit"
    PAGED_ADAMW_8BIT = "paged_adamw_8bit"


class QuantizationType(StrEnum):
    """4-bit data type, under bitsandbytes' names (`bnb_4bit_quant_type`)."""

    NF4 = "nf4"
    FP4 = "fp4"


class ComputeDtype(StrEnum):
    """Dtype of the matrix products on quantized weights (`bnb_4bit_compute_dtype`)."""

    BFLOAT16 = "bfloat16"
    FLOAT32 = "float32"


@dataclass(frozen=True, kw_only=True)
class JobReference:
    """Which SFTJob this run belongs to."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, kw_only=True)
class Model:
    """The model to start from. `source`: hf://ORG/NAME, pvc://CLAIM/PATH, or a path in the container."""

    source: str
    revision: str | None
    trust_remote_code: bool


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Names of the columns that hold each part of a row."""

    text: str
    prompt: str
    completion: str
    messages: str


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """What to evaluate on: a fraction of the rows (0: no evaluation) or a source of its own; exactly one is set."""

    fraction: float | None
    source: str | None


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The data. `source`: hf://ORG/NAME/PATH of a data set repository, pvc://CLAIM/PATH, or a path in the container.

    The path is a file or a directory of files: .jsonl, .csv or .parquet.
    """

    source: str
    revision: str | None
    format: DataFormat
    columns: Columns
    max_samples: int | None
    evaluation: HeldOut


@dataclass(frozen=True, kw_only=True)
class Lora:
    """LoRA, under PEFT's names (`r`, `lora_alpha`, `lora_dropout`, `target_modules`)."""

    rank: int
    alpha: int
    dropout: float
    target_modules: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Quantization:
    """Quantized base weights (bitsandbytes). `type`, `double_quantization` and `compute_dtype` are for 4 bits."""

    bits: int
    type: QuantizationType
    double_quantization: bool
    compute_dtype: ComputeDtype


@dataclass(frozen=True, kw_only=True)
class Method:
    """How weights are adapted. No `lora`: every weight is trained. `quantization` is for LoRA only (QLoRA)."""

    lora: Lora | None
    quantization: Quantization | None


@dataclass(frozen=True, kw_only=True)
class Training:
    """Hyperparameters, as TRL's SFTConfig understands them. Exactly one of epochs and max_steps is set.

    `warmup_ratio` is a fraction of all steps, `max_length` and batch sizes count tokens and sequences.
    """

    epochs: float | None
    max_steps: int | None
    per_device_batch_size: int
    gradient_accumulation_steps: int
    learning_rate: float
    scheduler: Scheduler
    warmup_ratio: float | None
    warmup_steps: int | None
    weight_decay: float
    max_grad_norm: float
    optimizer: Optimizer
    max_length: int
    packing: bool
    precision: Precision
    gradient_checkpointing: bool
    seed: int
    logging_steps: int


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """When to evaluate besides before the first and after the last step. None: at the end of each epoch."""

    every_steps: int | None


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """When to save (None: at the end of each epoch) and how many complete checkpoints to keep."""

    every_steps: int | None
    keep: int


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run. `gpus` is the number of accelerators that the Pod asked for; 0 trains on the CPU."""

    version: int
    job: JobReference
    model: Model
    dataset: Dataset
    method: Method
    training: Training
    evaluation: Evaluation
    checkpoints: Checkpoints
    gpus: int
