"""The run config: everything a trainer needs to know about one run. Written by the operator; contains no secrets.

Field names are those of the resource, which follow TRL, PEFT and Kubernetes. The operator resolves every default, so no
field has one here; None means that the user left an optional choice open. The trainer rejects unknown keys (exit
INVALID): an option that it does not know must never be silently dropped.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from sftjob_contract.run.destinations import Output, Tracking
from sftjob_contract.run.method import Method
from sftjob_contract.run.optimization import Optimizer, Scheduler
from sftjob_contract.run.rope import RopeScaling

RUN_CONFIG_VERSION: Final = 1


class DataFormat(StrEnum):
    """Format of a dataset's rows."""

    AUTO = "auto"
    """Detect the format from the columns."""
    TEXT = "text"
    PROMPT_COMPLETION = "prompt-completion"
    MESSAGES = "messages"
    ALPACA = "alpaca"
    """`instruction`, an optional `input`, and `output`."""
    SHAREGPT = "sharegpt"
    """`conversations`: a list of {from, value}."""


class ModelDtype(StrEnum):
    """Dtype of the loaded weights, under transformers' names (`dtype`)."""

    AUTO = "auto"
    """The dtype that the method and the precision require."""
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


class Attention(StrEnum):
    """Attention implementation, under transformers' names (`attn_implementation`)."""

    AUTO = "auto"
    """The fastest that the image and GPU support."""
    EAGER = "eager"
    SDPA = "sdpa"
    FLASH_ATTENTION_2 = "flash_attention_2"
    FLASH_ATTENTION_3 = "flash_attention_3"
    FLASH_ATTENTION_4 = "flash_attention_4"
    FLEX_ATTENTION = "flex_attention"


class ChatTemplateName(StrEnum):
    """Chat templates that ship with the trainer."""

    CHATML = "chatml"
    ZEPHYR = "zephyr"
    LLAMA = "llama"
    ALPACA = "alpaca"
    VICUNA = "vicuna"
    MISTRAL = "mistral"


class PaddingSide(StrEnum):
    """Side on which short rows of a batch are padded (`padding_side`)."""

    RIGHT = "right"
    LEFT = "left"


class OnInvalidRow(StrEnum):
    """How the job handles an unusable row."""

    FAIL = "Fail"
    SKIP = "Skip"


class ExistingContent(StrEnum):
    """How the job handles files of another run in its directory."""

    REFUSE = "Refuse"
    """The job fails in Prepare; the files stay unchanged."""
    MOVE_ASIDE = "MoveAside"
    """The files are renamed, and the job starts at step 0."""


class Syntax(StrEnum):
    """A language for syntax checks of answers."""

    JSON = "json"
    YAML = "yaml"
    PYTHON = "python"


class LossOn(StrEnum):
    """Tokens that contribute to the loss."""

    ALL = "all"
    COMPLETION = "completion"
    ASSISTANT = "assistant"


class PackingStrategy(StrEnum):
    """Packing strategy, under TRL's names (`packing_strategy`)."""

    BFD = "bfd"
    """Best fit decreasing: a row is never cut to fill a sequence."""
    BFD_SPLIT = "bfd_split"
    """Like bfd, but rows longer than a sequence are split into several instead of truncated."""
    WRAPPED = "wrapped"
    """Rows are concatenated and cut wherever a sequence is full."""


class Kernels(StrEnum):
    """Fused GPU kernels."""

    AUTO = "auto"
    """The kernels that image and GPU support and that help."""
    NONE = "none"
    LIGER = "liger"


class Metric(StrEnum):
    """What an evaluation measures besides the loss."""

    PERPLEXITY = "perplexity"
    BLEU = "bleu"
    ROUGE = "rouge"
    EXACT_MATCH = "exact_match"


class Precision(StrEnum):
    """Numeric precision of the training step."""

    AUTO = "auto"
    """bf16 if the accelerator supports it, else fp32."""
    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"


@dataclass(frozen=True, kw_only=True)
class JobReference:
    """The SFTJob that this run belongs to."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """A chat template: exactly one of a built-in template, Jinja text, and a file below ENV_FILES."""

    name: ChatTemplateName | None
    jinja: str | None
    file: str | None


@dataclass(frozen=True, kw_only=True)
class Model:
    """The base model. `chat_template` None: the model's own, rendered with `chat_template_kwargs`.

    `source`: hf://ORG/NAME, pvc://CLAIM/PATH, s3://, gs:// or https:// URI of a directory or an archive of one, or a
    path in the container. `rope_scaling` None: the model's own positions. `added_tokens` and `added_special_tokens` are
    not empty; None: the model's own vocabulary.
    """

    source: str
    revision: str | None
    dtype: ModelDtype
    attention: Attention
    trust_remote_code: bool
    chat_template: ChatTemplate | None
    add_eos_token: bool
    padding_side: PaddingSide
    chat_template_kwargs: Mapping[str, Any] | None = field(hash=False)
    rope_scaling: RopeScaling | None = None
    added_tokens: tuple[str, ...] | None = None
    added_special_tokens: tuple[str, ...] | None = None


@dataclass(frozen=True, kw_only=True)
class Columns:
    """Column names for each part of a row."""

    text: str
    prompt: str
    completion: str
    messages: str
    instruction: str
    input: str
    output: str
    conversations: str
    system: str


@dataclass(frozen=True, kw_only=True)
class RowTemplate:
    """Jinja templates that compute columns of each row: `text` alone, or `prompt` and `completion`."""

    text: str | None
    prompt: str | None
    completion: str | None


@dataclass(frozen=True, kw_only=True)
class RowFunction:
    """The function `name` of a Python file below ENV_FILES; it takes a row and returns the computed columns."""

    file: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How to compute columns of each row before the format is applied: exactly one of the two."""

    template: RowTemplate | None
    function: RowFunction | None


@dataclass(frozen=True, kw_only=True)
class Validation:
    """Checks that a row must pass to be trained on: at least one is set.

    The checked text is `column`, or by default the text that the row is trained on: the text, the completion, or each
    assistant turn. `regex` (Python's) must match somewhere in it, it must be valid in the `syntax`, and `command`,
    which reads it from standard input, must exit with code 0 within `timeout_seconds`.
    """

    column: str | None
    regex: str | None
    syntax: Syntax | None
    command: tuple[str, ...]
    timeout_seconds: int


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """One source of the data.

    `source`: hf://ORG/NAME[/PATH] of a dataset repository, pvc://CLAIM/PATH, an s3://, gs:// or https:// URI, or a
    path in the container; a file or a directory of files. `subset` and `split` apply to a repository or a folder.
    `max_samples` takes the first rows; `weight` is how often each of them is used in one epoch, 0.5 for half of them.
    `format` and `columns` describe the rows after `preprocessing`.
    """

    source: str
    revision: str | None
    subset: str | None
    split: str | None
    format: DataFormat
    columns: Columns
    preprocessing: Preprocessing | None
    validation: Validation | None
    max_samples: int | None
    weight: float


@dataclass(frozen=True, kw_only=True)
class HeldOut:
    """The evaluation data; exactly one is set.

    A fraction of the rows (0: no evaluation), a split of the same source, or a separate source.
    """

    fraction: float | None
    split: str | None
    source: str | None


class Render(StrEnum):
    """How a prompt and a completion in plain text are rendered."""

    AUTO = "auto"
    """As a user and an assistant turn if the model has a chat template, else as plain text."""
    PLAIN = "plain"
    """As plain text."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The data: at least one source. `shuffle_seed` selects the held-out rows and orders the others.

    `render` None means auto.

    `deduplicate` drops rows with identical tokens. Rows of fewer than `min_tokens` or more than `max_tokens` are
    dropped. With `on_invalid_row` Skip, up to `max_invalid_rows` unusable rows are dropped too.
    """

    sources: tuple[DataSource, ...]
    shuffle_seed: int
    deduplicate: bool
    min_tokens: int | None
    max_tokens: int | None
    on_invalid_row: OnInvalidRow
    max_invalid_rows: int
    evaluation: HeldOut
    render: Render | None = None


@dataclass(frozen=True, kw_only=True)
class EarlyStopping:
    """Stop after `patience` evaluations that do not improve the loss by `threshold` (transformers' names)."""

    patience: int
    threshold: float


@dataclass(frozen=True, kw_only=True)
class Training:
    """Hyperparameters, as in TRL's SFTConfig. Exactly one of epochs and max_steps is set.

    `warmup_ratio` is a fraction of all steps; `max_length` is in tokens, batch sizes are in sequences. `loss_on` None:
    by the format of the rows (all of a text, the completion, the assistant's turns). `gradient_checkpointing` None: if
    memory requires it, which is known only once data and model are. `extra` holds further fields of `trl.SFTConfig`,
    under its own names.
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
    packing_strategy: PackingStrategy
    loss_on: LossOn | None
    precision: Precision
    gradient_checkpointing: bool | None
    neftune_noise_alpha: float | None
    kernels: Kernels
    compile: bool
    early_stopping: EarlyStopping | None
    seed: int
    logging_steps: int
    extra: Mapping[str, Any] = field(hash=False)


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """When to evaluate, in addition to before the first and after the last step, and what to measure.

    Exactly one of `every_steps` and `per_epoch` (evaluations in each epoch) is set. Answers are generated for the first
    `max_samples` held-out rows, at most `max_new_tokens` each, if a metric or `save_predictions` needs them.
    `sample_prompts` are answered before and after training; without them the prompts of the first `held_out_prompts`
    held-out rows are, where None means 3. None is omitted from the JSON, so that a trainer of the previous release can
    read the config.
    """

    every_steps: int | None
    per_epoch: int | None
    metrics: tuple[Metric, ...]
    save_predictions: bool
    sample_prompts: tuple[str, ...]
    max_new_tokens: int
    max_samples: int
    held_out_prompts: int | None = None


HELD_OUT_PROMPTS: Final = 3
"""Default number of held-out prompts that are answered before and after training."""


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """When to save, how many complete checkpoints to keep, and the checkpoint to start from.

    Exactly one of `every_steps` and `per_epoch` (checkpoints in each epoch) is set. `on_termination` saves a checkpoint
    on SIGTERM. `resume_from` is the URI of another run's checkpoint, or of its `checkpoints` directory for the newest
    good one. Only the weights (or the adapter) are loaded; optimizer, schedule, data order and step count start fresh.
    """

    every_steps: int | None
    per_epoch: int | None
    keep: int
    on_termination: bool
    resume_from: str | None


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run. `gpus` is the number of accelerators on each of its `nodes`; 0 trains on the CPU.

    `existing_content` None means Refuse. None is omitted from the JSON, so that a trainer of the previous release,
    which does not know the key, rejects only a config that it cannot follow.
    """

    version: int
    job: JobReference
    model: Model
    dataset: Dataset
    method: Method
    training: Training
    evaluation: Evaluation
    checkpoints: Checkpoints
    output: Output
    tracking: Tracking
    gpus: int
    nodes: int
    existing_content: ExistingContent | None = None
