"""The run config: everything a trainer needs to know about one run, written by the operator, nothing secret in it.

Field names are those of the resource, which are TRL's, PEFT's and Kubernetes' own. The operator resolves every default,
so nothing here has one, and a None means that the user left an optional choice open. An unknown key is refused (exit
INVALID): an option that a trainer does not know must never be dropped in silence.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Final

from sftjob_contract.destinations import Output, Tracking
from sftjob_contract.method import Method
from sftjob_contract.optimization import Optimizer, Scheduler
from sftjob_contract.rope import RopeScaling

RUN_CONFIG_VERSION: Final = 1


class DataFormat(StrEnum):
    """Shape of a data set's rows."""

    AUTO = "auto"
    """Decide from the columns that are there."""
    TEXT = "text"
    PROMPT_COMPLETION = "prompt-completion"
    MESSAGES = "messages"
    ALPACA = "alpaca"
    """`instruction`, an optional `input`, and `output`."""
    SHAREGPT = "sharegpt"
    """`conversations`: a list of {from, value}."""


class ModelDtype(StrEnum):
    """Dtype that weights are loaded in, under transformers' names (`dtype`)."""

    AUTO = "auto"
    """What the method and the precision of a step need."""
    BFLOAT16 = "bfloat16"
    FLOAT16 = "float16"
    FLOAT32 = "float32"


class Attention(StrEnum):
    """Implementation of attention, under transformers' names (`attn_implementation`)."""

    AUTO = "auto"
    """The fastest that image and GPU have."""
    EAGER = "eager"
    SDPA = "sdpa"
    FLASH_ATTENTION_2 = "flash_attention_2"
    FLASH_ATTENTION_3 = "flash_attention_3"
    FLASH_ATTENTION_4 = "flash_attention_4"
    FLEX_ATTENTION = "flex_attention"


class ChatTemplateName(StrEnum):
    """Chat templates that the trainer brings along."""

    CHATML = "chatml"
    ZEPHYR = "zephyr"
    LLAMA = "llama"
    ALPACA = "alpaca"
    VICUNA = "vicuna"
    MISTRAL = "mistral"


class PaddingSide(StrEnum):
    """Where short rows of a batch are filled up (`padding_side`)."""

    RIGHT = "right"
    LEFT = "left"


class OnInvalidRow(StrEnum):
    """What a row that can not be used does to the job."""

    FAIL = "Fail"
    SKIP = "Skip"


class ExistingContent(StrEnum):
    """What files of another run in the job's directory do to the job."""

    REFUSE = "Refuse"
    """It fails in Prepare, and nothing is changed."""
    MOVE_ASIDE = "MoveAside"
    """They are renamed, and the job starts at step 0."""


class Syntax(StrEnum):
    """A language whose syntax answers can be checked for."""

    JSON = "json"
    YAML = "yaml"
    PYTHON = "python"


class LossOn(StrEnum):
    """Which tokens are trained on."""

    ALL = "all"
    COMPLETION = "completion"
    ASSISTANT = "assistant"


class PackingStrategy(StrEnum):
    """How rows are packed, under TRL's names (`packing_strategy`)."""

    BFD = "bfd"
    """Best fit decreasing: a row is never cut to fill a sequence."""
    BFD_SPLIT = "bfd_split"
    """The same, but rows longer than a sequence are split into several instead of losing their end."""
    WRAPPED = "wrapped"
    """Rows one after the other, cut wherever a sequence is full."""


class Kernels(StrEnum):
    """Fused GPU kernels."""

    AUTO = "auto"
    """Those that image and GPU have and that help."""
    NONE = "none"
    LIGER = "liger"


class Metric(StrEnum):
    """What an evaluation measures besides the loss."""

    PERPLEXITY = "perplexity"
    BLEU = "bleu"
    ROUGE = "rouge"
    EXACT_MATCH = "exact_match"


class Precision(StrEnum):
    """Arithmetic of the training step."""

    AUTO = "auto"
    """bf16 where the accelerator has it, else fp32."""
    BF16 = "bf16"
    FP16 = "fp16"
    FP32 = "fp32"


@dataclass(frozen=True, kw_only=True)
class JobReference:
    """Which SFTJob this run belongs to."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, kw_only=True)
class ChatTemplate:
    """A chat template: exactly one of a template of the trainer's own, Jinja text, and a file below ENV_FILES."""

    name: ChatTemplateName | None
    jinja: str | None
    file: str | None


@dataclass(frozen=True, kw_only=True)
class Model:
    """The model to start from. `chat_template` None: the one that comes with it, given `chat_template_kwargs`.

    `source`: hf://ORG/NAME, pvc://CLAIM/PATH, s3://, gs:// or https:// URI of a directory or an archive of one, or a
    path in the container. `rope_scaling` None: the positions that it has. `added_tokens` and `added_special_tokens` are
    not empty; None: the vocabulary that it has.
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
    """Names of the columns that hold each part of a row."""

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
    """Jinja text that makes columns of each row: `text` alone, or `prompt` and `completion`."""

    text: str | None
    prompt: str | None
    completion: str | None


@dataclass(frozen=True, kw_only=True)
class RowFunction:
    """The function `name` of a Python file below ENV_FILES; it is given a row and returns the columns it makes."""

    file: str
    name: str


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """What makes columns of each row before anything else is read of it: exactly one of the two."""

    template: RowTemplate | None
    function: RowFunction | None


@dataclass(frozen=True, kw_only=True)
class Validation:
    """What texts of a row must pass to be trained on: each check that is given, at least one.

    Checked is the text in `column`, or without one what the row is trained on by default: the text, the completion, or
    each turn of the assistant. `regex` (Python's) must be found in it, it must be of the `syntax`, and `command`, which
    reads it from its standard input, must end with exit code 0 within `timeout_seconds`.
    """

    column: str | None
    regex: str | None
    syntax: Syntax | None
    command: tuple[str, ...]
    timeout_seconds: int


@dataclass(frozen=True, kw_only=True)
class DataSource:
    """One part of the data.

    `source`: hf://ORG/NAME[/PATH] of a data set repository, pvc://CLAIM/PATH, an s3://, gs:// or https:// URI, or a
    path in the container; a file or a directory of files. `subset` and `split` are of a repository or a folder.
    `max_samples` takes the first rows; `weight` is how often each of them is used in one epoch, 0.5 for half of them.
    `format` and `columns` are those of the rows after `preprocessing`.
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
    """What to evaluate on; exactly one is set.

    A fraction of the rows (0: no evaluation), a split of the same source, or a source of its own.
    """

    fraction: float | None
    split: str | None
    source: str | None


class Render(StrEnum):
    """What becomes of a prompt and a completion that are text."""

    AUTO = "auto"
    """A user's and an assistant's turn where the model has a chat template, else the text as it is."""
    PLAIN = "plain"
    """The text as it is."""


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """The data: at least one source. `shuffle_seed` decides the held-out rows and the order of the others.

    `render` None means auto.

    `deduplicate` drops rows that are equal token by token. Rows of fewer than `min_tokens` or more than `max_tokens`
    are left out. With `on_invalid_row` Skip, up to `max_invalid_rows` rows that can not be used are left out too.
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
    """Stop after `patience` evaluations without an evaluation loss better by `threshold` (transformers' names)."""

    patience: int
    threshold: float


@dataclass(frozen=True, kw_only=True)
class Training:
    """Hyperparameters, as TRL's SFTConfig understands them. Exactly one of epochs and max_steps is set.

    `warmup_ratio` is a fraction of all steps, `max_length` and batch sizes count tokens and sequences. `loss_on` None:
    what suits the rows (all of a text, the completion, the assistant's turns). `gradient_checkpointing` None: where
    memory needs it, which shows only once data and model are there. `extra` are more fields of `trl.SFTConfig`, in its
    own names.
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
    """When to evaluate, besides before the first and after the last step, and what to measure.

    Exactly one of `every_steps` and `per_epoch` (evaluations in each epoch) is set. Answers are generated for the
    first `max_samples` held-out rows, at most `max_new_tokens` each, where a metric or `save_predictions` needs them.
    `sample_prompts` are answered before and after training; without them the prompts of the first `held_out_prompts`
    held-out rows, where None means 3. It is left out then, so that a trainer of the release before reads the rest.
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
"""Prompts of held-out rows that are answered before and after training, where nothing else is configured."""


@dataclass(frozen=True, kw_only=True)
class Checkpoints:
    """When to save, how many complete checkpoints to keep, and what to start from.

    Exactly one of `every_steps` and `per_epoch` (checkpoints in each epoch) is set. `on_termination` saves one when
    the Pod is told to stop. `resume_from` is the URI of another run's checkpoint, or of its `checkpoints` directory
    for the newest good one. It gives the weights (or the adapter) to start from and nothing else: optimizer, schedule,
    data order and step count are those of a new run.
    """

    every_steps: int | None
    per_epoch: int | None
    keep: int
    on_termination: bool
    resume_from: str | None


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """One run. `gpus` is the number of accelerators of each of its `nodes`; 0 trains on the CPU.

    `existing_content` None means Refuse. It is left out then, so that a trainer of the release before, which does not
    know the key, refuses only a config that it cannot follow.
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
