"""Observed state: written as a whole, read by people, kubectl and GitOps tools.

Everything is bounded. Building a model truncates long texts and keeps the newest items of lists, so that the API server
never rejects a status for its size.
"""

from enum import StrEnum
from typing import Annotated, Final

from pydantic import Field

from sftjob_contract.names import Stage
from sftjob_contract.reports.progress import HISTORY_LIMIT, Activity
from sftjob_operator.api.types import Count, Measure, Model, Sentence, Time, Uri, Word, newest

ATTEMPTS_LIMIT: Final = 48
"""Maximum attempts in a status; the newest are kept."""
CHECKPOINTS_LIMIT: Final = 128
"""Maximum checkpoints in a status; the newest are kept. spec.checkpoints.keep plus the best one is below it."""
ADJUSTMENTS_LIMIT: Final = 16
"""Maximum adjustments in a status: checkpointing is enabled once, and the largest micro-batch, 4096, can be halved 12
times."""
_ATOMIC: Final = {"x-kubernetes-list-type": "atomic"}


class Phase(StrEnum):
    """A summary for people; tools use the conditions."""

    PENDING = "Pending"
    PREPARING = "Preparing"
    QUEUED = "Queued"
    """The train Pod exists, and no node has room for it or its queue has not admitted it."""
    RUNNING = "Running"
    PUBLISHING = "Publishing"
    """Training is complete; its output is merged, pushed or uploaded, without GPUs."""
    RESTARTING = "Restarting"
    """An attempt ended, and the next one waits for its backoff or does not run yet."""
    SUSPENDED = "Suspended"
    """spec.suspend is true, and no Pod is left running."""
    SUCCEEDED = "Succeeded"
    FAILED = "Failed"


class MethodName(StrEnum):
    """How weights are adapted, in one word."""

    FULL = "full"
    LORA = "lora"
    QLORA = "qlora"


class ConditionStatus(StrEnum):
    """Whether a condition holds."""

    TRUE = "True"
    FALSE = "False"
    UNKNOWN = "Unknown"


class Condition(Model):
    """One observation, in the form that Kubernetes gives conditions."""

    type: Annotated[str, Field(max_length=64)]
    """Prepared, Running, ProgressReporting or Succeeded."""
    status: ConditionStatus
    """Whether it holds."""
    observed_generation: Count | None = None
    """Generation of the spec that this describes."""
    last_transition_time: Time
    """When status last changed."""
    reason: Annotated[str, Field(min_length=1, max_length=64)]
    """Why, in one CamelCase word."""
    message: Sentence = ""
    """Why, in a sentence."""


class ProgressStatus(Model):
    """Progress of training, as last reported by the trainer."""

    activity: Activity | None = None
    """What the trainer is doing."""
    step: Count
    """Optimizer steps done."""
    max_steps: Count
    """Optimizer steps of the whole run."""
    epoch: Measure | None = None
    """Passes over the data done."""
    percent: Annotated[int, Field(ge=0, le=100)]
    """Share of the steps done, in percent: at most 99 until the job has succeeded, then 100, even where it stopped
    early."""
    percent_text: Word | None = None
    """The same for people, such as 42%."""
    loss: Measure | None = None
    """Mean training loss over the last logging window."""
    eval_loss: Measure | None = None
    """Newest evaluation loss, per token."""
    eval_loss_change: Word | None = None
    """First and newest evaluation loss for people, such as 6.94 -> 3.68: whether the model learns."""
    learning_rate: Measure | None = None
    """Learning rate of the last step."""
    grad_norm: Measure | None = None
    """Norm of the gradient before clipping."""
    tokens: Count | None = None
    """Non-padding tokens trained on since step 0."""
    tokens_per_second: Measure | None = None
    """Speed of this attempt over all devices."""
    tokens_per_second_per_device: Measure | None = None
    """The same for one of them."""
    mfu: Measure | None = None
    """Share from 0 to 1 of the devices' peak that the model's own arithmetic uses (model FLOPs utilization), where that
    peak is known."""
    step_seconds: Measure | None = None
    """Mean of an optimizer step over the last logging window."""
    data_wait_seconds: Measure | None = None
    """The part of it that was spent waiting for data."""
    peak_memory_bytes: Count | None = None
    """Peak memory of one device in this attempt, or of the process without a GPU."""
    loaded_bytes: Count | None = None
    """While weights are loaded: bytes read so far."""
    weights_bytes: Count | None = None
    """While weights are loaded: bytes to read in total."""
    eta_seconds: Count | None = None
    """Seconds until the last step, at the present speed."""
    eta: Word | None = None
    """The same for people, such as 3m12s."""
    last_report_time: Time | None = None
    """When the trainer made this report."""


class HistoryPointStatus(Model):
    """One point of the down-sampled curves."""

    step: Count
    """Optimizer step; 0 is before training."""
    loss: Measure | None = None
    """Training loss."""
    eval_loss: Measure | None = None
    """Evaluation loss, where an evaluation ran."""


class CheckpointStatus(Model):
    """A complete, verified checkpoint on the job's volume."""

    step: Count
    """Optimizer step after which it was taken."""
    uri: Uri
    """Where it is: pvc://CLAIM/PATH."""
    bytes: Count
    """Size of all its files."""
    time: Time
    """When it was complete."""
    eval_loss: Measure | None = None
    """Evaluation loss at this step, if one was measured."""


class AttemptStatus(Model):
    """One Pod of the job, or with several nodes one Pod on each."""

    stage: Stage
    """Stage that it ran."""
    number: Count
    """Number within the stage, from 1."""
    pod: Word
    """Name of the Pod; with several nodes, of the one with rank 0."""
    node: Word | None = None
    """Node that it ran on."""
    start_time: Time | None = None
    """When its container started; with several nodes, the last of them."""
    end_time: Time | None = None
    """When it ended; the wait before a retry counts from here."""
    blocked_since: Time | None = None
    """Since when, without a gap, its image cannot be pulled or its container cannot be created. Absent: nothing
    prevents its start."""
    from_step: Count | None = None
    """Step of the checkpoint that it resumed from; 0 for none. Absent: not reported."""
    reached_step: Count | None = None
    """Last step that it reported."""
    loading_seconds: Measure | None = None
    """From the start of the trainer to its first step, without the evaluation before it."""
    evaluating_seconds: Measure | None = None
    """All its evaluations."""
    saving_seconds: Measure | None = None
    """All its checkpoints."""
    lost_steps: Count | None = None
    """Steps that the next attempt has to repeat; 0 after a stop that saved a checkpoint. Absent: not known."""
    unpublished: bool | None = None
    """Whether it completed training and the Publish stage makes the output. Absent: not reported."""
    exit_code: Annotated[int, Field(ge=0, le=255)] | None = None
    """Exit code of its container; with several nodes, of the one that failed first."""
    reason: Word | None = None
    """Why it ended or is being ended, in one CamelCase word."""
    message: Sentence | None = None
    """Why it ended, in a sentence."""
    fault: Word | None = None
    """Type and location of an unexpected error, such as ValueError at model.py:7 in load. A second attempt in a row
    with the same one is the last, if no step is done."""


class ChangeStatus(Model):
    """A number that was changed."""

    before: Annotated[Count, Field(alias="from")]
    """What it was."""
    to: Count
    """What it is."""


class AdjustmentStatus(Model):
    """A change with which the run continues. The global batch and the order of the data do not change."""

    attempt: Count
    """Number of the first train attempt with it."""
    reason: Word
    """Why the attempt before ended."""
    gradient_checkpointing: bool | None = None
    """Always true: enabled from this attempt on. Absent: unchanged."""
    per_device_batch_size: ChangeStatus | None = None
    """Sequences per GPU and forward pass. Absent: unchanged."""
    gradient_accumulation_steps: ChangeStatus | None = None
    """Forward passes per optimizer step. Absent: unchanged."""
    message: Sentence
    """The same in a sentence."""
    time: Time | None = None
    """When the attempt before ended."""


class MemoryPlanStatus(Model):
    """Predicted peak memory of one GPU in bytes, by part; with gpus: 0, of the training process."""

    weights: Count
    """Weights of the model, quantized ones with their scales, and the 16-bit copies that a step in bf16 makes."""
    adapter: Count
    """LoRA matrices."""
    gradients: Count
    """Gradients of what is trained, and their buckets with several GPUs."""
    optimizer: Count
    """States of the optimizer, without those that may move to host memory (paged optimizers)."""
    activations: Count
    """What the backward pass needs of the forward pass of one micro-batch."""
    logits: Count
    """What the output head needs for one micro-batch: a tile of logits, and gradients of its input and weight."""
    context: Count
    """Memory of CUDA itself."""
    total: Count
    """Sum of all parts."""


class PlanStatus(Model):
    """What the run consists of, as Prepare counted it, and what it is predicted to need (docs/plan.md)."""

    steps: Count
    """Optimizer steps of the whole run."""
    steps_per_epoch: Count
    """Optimizer steps of one pass over the data."""
    rows: Count
    """Usable rows of the source."""
    train_rows: Count
    """Rows to train on."""
    evaluation_rows: Count
    """Rows to evaluate on: held out, or of a separate split or source."""
    sequences: Count
    """What the trainer iterates over: rows, or packed sequences."""
    tokens: Count
    """Tokens of the training part, which one epoch goes through."""
    trained_tokens: Count
    """Tokens among them that the loss is computed on."""
    truncated_rows: Count | None = None
    """Rows that are longer than training.maxLength and are truncated. Absent: none."""
    skipped_rows: Count | None = None
    """Rows that cannot be used and are left out (dataset.onInvalidRow: Skip). Absent: none."""
    rendered_rows: Count | None = None
    """Rows whose prompt and completion were rendered as a user's and an assistant's turn (dataset.render). Absent:
    none."""
    passed_over_files: Count | None = None
    """Files at the sources that are not read, such as notes and other splits; the log of Prepare names each. Absent:
    none."""
    warnings: Annotated[tuple[Sentence, ...], Field(max_length=8, json_schema_extra=_ATOMIC)] | None = None
    """Warnings about the data, such as that most rows are truncated. Each is also an Event."""
    parameters: Count | None = None
    """Parameters of the model; tied weights count once."""
    trainable_parameters: Count | None = None
    """Parameters that are trained: all, or those of the adapter."""
    trainable_percent: Measure | None = None
    """Their share of all parameters, including those of the adapter, in percent."""
    memory: MemoryPlanStatus | None = None
    """Predicted peak memory of one GPU, by part, with rows of maxLength tokens. Absent: the model's shape is not
    known."""
    gradient_checkpointing: bool | None = None
    """Whether activations are recomputed: as in the spec, else unless the run is known to fit into memory without
    it."""
    gpu_memory_bytes: Count | None = None
    """Memory of one GPU, where it is known."""
    misfit: Sentence | None = None
    """Why the run cannot fit on its GPUs or its volume, and which changes would make it fit. Absent: it fits, or that
    is not known."""
    host_memory_bytes: Count | None = None
    """Predicted peak memory of the Train Pod's container, without /dev/shm."""
    checkpoint_bytes: Count | None = None
    """Predicted size of one checkpoint."""
    disk_bytes: Count | None = None
    """Predicted peak use of the volume."""
    publish_stage: bool | None = None
    """Whether the Publish stage, without GPUs, merges, pushes and uploads the output. Absent: none of that is needed,
    or the trainer image does it in stage train."""


class OutputStatus(Model):
    """What a finished run produced."""

    uri: Uri
    """Model or adapter: pvc://CLAIM/PATH."""
    metrics: dict[str, Measure] = Field(default_factory=dict, max_length=32)
    """Final metrics, such as evalLoss and trainSeconds."""
    uploaded: Annotated[tuple[Uri, ...], Field(max_length=2, json_schema_extra=_ATOMIC)] | None = None
    """Other locations of it: the hub (hf://) and the object store (s3://, gs://) that spec.output names."""


class ProvenanceStatus(Model):
    """Image, revisions and versions that the run used."""

    image: Annotated[str, Field(max_length=1024)] | None = None
    """Image that ran, with its digest."""
    model_revision: Word | None = None
    """Commit of the model on the hub."""
    dataset_fingerprint: Word | None = None
    """Digest of the prepared data."""
    config_hash: Word | None = None
    """SHA-256 of the run config."""
    libraries: Annotated[dict[str, Word], Field(max_length=32)] | None = None
    """Versions of the libraries in the image."""


class SFTJobStatus(Model):
    """What was observed."""

    phase: Phase | None = None
    """Summary for people: Pending, Preparing, Queued, Running, Publishing, Restarting, Suspended, Succeeded or
    Failed."""
    observed_generation: Count | None = None
    """Generation of the spec that this status describes."""
    method: MethodName | None = None
    """full, lora or qlora."""
    gpus: Count | None = None
    """GPUs of the whole job, on all its nodes."""
    start_time: Time | None = None
    """When the operator first saw the job."""
    completion_time: Time | None = None
    """When the job succeeded or failed."""
    cleanup_time: Time | None = None
    """When its Pods, and its volume unless that is kept, were deleted for spec.ttlSecondsAfterFinished."""
    conditions: Annotated[
        tuple[Condition, ...],
        Field(
            max_length=16, json_schema_extra={"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["type"]}
        ),
    ] = ()
    """Prepared, Running, ProgressReporting, Succeeded."""
    progress: ProgressStatus | None = None
    """Progress of training."""
    history: Annotated[tuple[HistoryPointStatus, ...], *newest(HISTORY_LIMIT), Field(json_schema_extra=_ATOMIC)] = ()
    """Loss curve, down-sampled to a dozen points; logs/metrics.jsonl on the volume has all."""
    checkpoints: Annotated[
        tuple[CheckpointStatus, ...], *newest(CHECKPOINTS_LIMIT), Field(json_schema_extra=_ATOMIC)
    ] = ()
    """Complete checkpoints, oldest first."""
    latest_checkpoint: Uri | None = None
    """The newest of them."""
    best_checkpoint: Uri | None = None
    """The one with the lowest evaluation loss."""
    attempts: Annotated[tuple[AttemptStatus, ...], *newest(ATTEMPTS_LIMIT), Field(json_schema_extra=_ATOMIC)] = ()
    """Every Pod of the job, oldest first."""
    adjustments: Annotated[
        tuple[AdjustmentStatus, ...], *newest(ADJUSTMENTS_LIMIT), Field(json_schema_extra=_ATOMIC)
    ] = ()
    """Changes with which the run continued, oldest first; each adds to those before it."""
    interruptions: Count | None = None
    """Number of interruptions that the run did not cause; failurePolicy.maxInterruptions limits it."""
    stop_seconds: Measure | None = None
    """How long a stop may take, as measured: one step and the longest checkpoint so far. The next Pod gets at least
    twice as long between SIGTERM and SIGKILL."""
    moved_aside: Sentence | None = None
    """What storage.existingContent: MoveAside renamed, and its new name. Absent: nothing."""
    plan: PlanStatus | None = None
    """What the run consists of."""
    output: OutputStatus | None = None
    """What a finished run produced."""
    provenance: ProvenanceStatus | None = None
    """Image, revisions and versions that the run used."""
