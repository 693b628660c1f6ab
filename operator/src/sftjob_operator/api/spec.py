"""What a user asks for. Names are the field's own in camelCase; a description ends with the upstream option's name.

Numbers and texts are bounded here, choices between fields by the CEL rules beside them; both reach the API server in
the generated CRD, which is where they are enforced. Defaults that depend on other fields are resolved in
`render/config.py` and told in the field's description.
"""

from typing import Annotated, Final, Literal

from pydantic import AfterValidator, ConfigDict, Field

from sftjob_contract.config import ComputeDtype, DataFormat, Optimizer, Precision, QuantizationType, Scheduler
from sftjob_contract.layout import PVC_SCHEME, ClaimPath
from sftjob_operator.api.types import Model, ObjectName, rule, rules

_REPOSITORY: Final = "hf://[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*"
_CLAIM_OR_PATH: Final = "pvc://[a-z0-9]([a-z0-9.-]*[a-z0-9])?(/.*)?|/.+"
_NO_CLIMBING: Final = rule("!self.matches('(^|/)[.][.](/|$)')", "must not contain '..': name the place itself")


def _readable(source: str) -> str:
    if source.startswith(PVC_SCHEME):
        ClaimPath.parse(source)
    return source


ModelSource = Annotated[
    str,
    Field(
        max_length=1024,
        json_schema_extra=rules(
            rule(
                f"self.matches('^({_REPOSITORY}|{_CLAIM_OR_PATH})$')",
                "must be hf://ORG/NAME for a model on the hub, pvc://CLAIM/PATH for one on a PersistentVolumeClaim, "
                "or an absolute path in the image such as /models/base",
            ),
            _NO_CLIMBING,
        ),
    ),
    AfterValidator(_readable),
]
DatasetSource = Annotated[
    str,
    Field(
        max_length=1024,
        json_schema_extra=rules(
            rule(
                f"self.matches('^({_REPOSITORY}/.+|{_CLAIM_OR_PATH})$')",
                "must be hf://ORG/NAME/PATH for a file or folder of a data set on the hub, pvc://CLAIM/PATH for one "
                "on a PersistentVolumeClaim, or an absolute path in the image such as /data/train.jsonl",
            ),
            _NO_CLIMBING,
        ),
    ),
    AfterValidator(_readable),
]
Column = Annotated[str, Field(min_length=1, max_length=128)]
Revision = Annotated[str, Field(min_length=1, max_length=256)]
_HUB_ONLY: Final = (
    rule(
        "!has(self.revision) || self.source.startsWith('hf://')",
        "revision is for an hf:// source only: remove it, or take the source from the hub",
    ),
    rule(
        "!has(self.tokenSecretRef) || self.source.startsWith('hf://')",
        "tokenSecretRef is for an hf:// source only: remove it, or take the source from the hub",
    ),
)


class SecretKeyRef(Model):
    """A key of a Secret in the job's namespace."""

    name: ObjectName
    """Name of the Secret."""
    key: Annotated[
        str,
        Field(
            max_length=253,
            json_schema_extra=rules(
                rule(
                    "self.matches('^[-._a-zA-Z0-9]+$')",
                    "must be a key of the Secret: letters, digits, '-', '_' and '.'",
                )
            ),
        ),
    ]
    """Key within the Secret."""


class ModelSpec(Model):
    """The model to start from."""

    model_config = ConfigDict(json_schema_extra=rules(*_HUB_ONLY))

    source: ModelSource
    """Where the model lies: hf://ORG/NAME, pvc://CLAIM/PATH, or an absolute path in the image."""
    revision: Revision | None = None
    """Branch, tag or commit on the hub. Absent: the default branch as it is when the job prepares."""
    trust_remote_code: bool = False
    """Run Python code that comes with the model. Only for a model whose code you have read.
    transformers: trust_remote_code."""
    token_secret_ref: SecretKeyRef | None = None
    """Secret with a hub token, for private and gated models. Only the Prepare Pod sees it."""


class Columns(Model):
    """Names of the columns that hold each part of a row."""

    text: Column = "text"
    """The whole text of a row."""
    prompt: Column = "prompt"
    """The part that is not trained on."""
    completion: Column = "completion"
    """The part that is trained on."""
    messages: Column = "messages"
    """A list of {role, content}; assistant turns are trained on."""


class HeldOutSpec(Model):
    """What to evaluate on: exactly one of the two."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.fraction) != has(self.source)",
                "must have exactly one of fraction and source: write fraction: 0 for no evaluation",
            )
        )
    )

    fraction: Annotated[float, Field(ge=0, le=0.9)] | None = None
    """Share of the rows to hold out for evaluation, chosen by the seed. 0: no evaluation."""
    source: DatasetSource | None = None
    """A data set of its own, in the same format and with the same columns."""


class DatasetSpec(Model):
    """The data to train on: .jsonl, .csv or .parquet, one file or a folder of them."""

    model_config = ConfigDict(json_schema_extra=rules(*_HUB_ONLY))

    source: DatasetSource
    """Where the data lies: hf://ORG/NAME/PATH, pvc://CLAIM/PATH, or an absolute path in the image."""
    revision: Revision | None = None
    """Branch, tag or commit on the hub. Absent: the default branch as it is when the job prepares."""
    format: DataFormat = DataFormat.AUTO
    """Shape of a row; auto decides from the columns that are there. messages are rendered with the model's chat
    template."""
    columns: Columns = Columns()
    """Names of the columns, where they differ from the usual ones."""
    max_samples: Annotated[int, Field(ge=1, le=1_000_000_000)] | None = None
    """Use only the first rows, this many of them. Absent: all."""
    evaluation: HeldOutSpec = HeldOutSpec(fraction=0.05)
    """What to evaluate on."""
    token_secret_ref: SecretKeyRef | None = None
    """Secret with a hub token, for private and gated data sets. Only the Prepare Pod sees it."""


class FullSpec(Model):
    """Full fine-tuning has no options of its own."""


class LoraSpec(Model):
    """LoRA: small matrices beside frozen weights."""

    rank: Annotated[int, Field(ge=1, le=1024)] = 16
    """Rank of the matrices. PEFT: r."""
    alpha: Annotated[int, Field(ge=1, le=4096)] = 32
    """Scale: updates are multiplied by alpha / rank. PEFT: lora_alpha."""
    dropout: Annotated[float, Field(ge=0, le=0.9)] = 0.05
    """Share of inputs dropped while training. PEFT: lora_dropout."""
    target_modules: Annotated[
        tuple[Annotated[str, Field(min_length=1, max_length=128)], ...],
        Field(
            min_length=1,
            max_length=64,
            json_schema_extra={
                "x-kubernetes-list-type": "set",
                **rules(
                    rule(
                        "!('all-linear' in self) || self.size() == 1",
                        "all-linear already means every linear layer: remove the other names, or name layers only",
                    )
                ),
            },
        ),
    ] = ("all-linear",)
    """Layers to adapt: names such as q_proj, or all-linear for every linear layer but the head. PEFT:
    target_modules."""


class QuantizationSpec(Model):
    """Frozen base weights in few bits (QLoRA)."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "self.bits == 4 || (self.type == 'nf4' && self.doubleQuantization && self.computeDtype == 'bfloat16')",
                "type, doubleQuantization and computeDtype are for bits: 4 only: remove them",
            )
        )
    )

    bits: Literal[4, 8] = 4
    """Bits per weight. transformers: load_in_4bit, load_in_8bit."""
    type: QuantizationType = QuantizationType.NF4
    """4-bit data type. transformers: bnb_4bit_quant_type."""
    double_quantization: bool = True
    """Quantize the 4-bit scales too, which saves about 0.4 bits per weight. transformers: bnb_4bit_use_double_quant."""
    compute_dtype: ComputeDtype = ComputeDtype.BFLOAT16
    """Dtype of the matrix products on 4-bit weights. transformers: bnb_4bit_compute_dtype."""


class MethodSpec(Model):
    """How weights are adapted: exactly one of full and lora."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "has(self.full) != has(self.lora)",
                "must have exactly one of full and lora: write full: {} to train every weight, or lora: {} for LoRA",
            ),
            rule(
                "!has(self.quantization) || has(self.lora)",
                "quantization needs lora, since quantized weights can not be trained themselves: write lora: {} "
                "instead of full, or remove quantization",
            ),
        )
    )

    full: FullSpec | None = None
    """Train every weight."""
    lora: LoraSpec | None = None
    """Train LoRA matrices only; the output is an adapter."""
    quantization: QuantizationSpec | None = None
    """Quantize the frozen weights (QLoRA). Needs lora."""


class TrainingSpec(Model):
    """Hyperparameters, under the names that TRL and transformers give them."""

    model_config = ConfigDict(
        json_schema_extra=rules(
            rule(
                "!has(self.epochs) || !has(self.maxSteps)",
                "must have at most one of epochs and maxSteps: remove one of them (with neither, 3 epochs)",
            ),
            rule(
                "!has(self.warmupRatio) || !has(self.warmupSteps)",
                "must have at most one of warmupRatio and warmupSteps: remove one of them (with neither, ratio 0.03)",
            ),
            rule(
                "!has(self.maxSteps) || !has(self.warmupSteps) || self.warmupSteps < self.maxSteps",
                "warmupSteps must be below maxSteps, or the learning rate never reaches its value",
            ),
            rule(
                "self.scheduler != 'constant' || !(has(self.warmupRatio) || has(self.warmupSteps))",
                "scheduler constant has no warmup: write scheduler: constant_with_warmup, or remove the warmup",
            ),
        )
    )

    epochs: Annotated[float, Field(gt=0, le=10_000)] | None = None
    """Passes over the data; may be a fraction. Neither epochs nor maxSteps: 3 epochs. TRL: num_train_epochs."""
    max_steps: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Optimizer steps, instead of epochs. TRL: max_steps."""
    per_device_batch_size: Annotated[int, Field(ge=1, le=4096)] = 4
    """Sequences per GPU and forward pass. Times gradientAccumulationSteps and GPUs, this is the batch of one step.
    TRL: per_device_train_batch_size."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1, le=4096)] = 4
    """Forward passes per optimizer step. TRL: gradient_accumulation_steps."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Peak learning rate. Absent: 2e-4 with lora, 2e-5 with full. TRL: learning_rate."""
    scheduler: Scheduler = Scheduler.COSINE
    """How the learning rate goes on after the warmup. TRL: lr_scheduler_type."""
    warmup_ratio: Annotated[float, Field(ge=0, lt=1)] | None = None
    """Share of all steps over which the learning rate rises from zero. Neither warmupRatio nor warmupSteps: 0.03,
    and none with scheduler constant. TRL: warmup_steps."""
    warmup_steps: Annotated[int, Field(ge=0, le=100_000_000)] | None = None
    """Steps over which the learning rate rises from zero, instead of warmupRatio. TRL: warmup_steps."""
    weight_decay: Annotated[float, Field(ge=0, le=1)] = 0.01
    """Decoupled weight decay. TRL: weight_decay."""
    max_grad_norm: Annotated[float, Field(ge=0, le=1000)] = 1.0
    """Gradients are scaled down to this norm. 0: no clipping. TRL: max_grad_norm."""
    optimizer: Optimizer = Optimizer.ADAMW_TORCH_FUSED
    """Optimizer; the 8-bit ones keep their state in a quarter of the memory. TRL: optim."""
    max_length: Annotated[int, Field(ge=8, le=1_048_576)] = 1024
    """Longest sequence in tokens; longer rows are cut. TRL: max_length."""
    packing: bool = False
    """Put several short rows into one sequence, without letting them see each other. TRL: packing."""
    precision: Precision = Precision.AUTO
    """Arithmetic of a step; auto is bf16 where the GPU has it, else fp32. TRL: bf16."""
    gradient_checkpointing: bool = True
    """Recompute activations instead of storing them: less memory, about a fifth slower. TRL:
    gradient_checkpointing."""
    seed: Annotated[int, Field(ge=0, le=4_294_967_295)] = 42
    """Seed of shuffling, dropout, LoRA initialization and the evaluation split. TRL: seed."""
    logging_steps: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    """Steps between two points of the loss curve. TRL: logging_steps."""


class EvaluationSpec(Model):
    """When to evaluate, besides before the first and after the last step."""

    every_steps: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Steps between two evaluations. Absent: at the end of each epoch. TRL: eval_steps."""


class CheckpointsSpec(Model):
    """When to save, and how much to keep."""

    every_steps: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Steps between two checkpoints. Absent: at the end of each epoch. TRL: save_steps."""
    keep: Annotated[int, Field(ge=1, le=100)] = 3
    """Complete checkpoints to keep, the newest ones; the best one stays as well. TRL: save_total_limit."""
