"""Hyperparameters, under the names that TRL and transformers give them.

Fields bound numbers and texts; CEL rules beside them constrain combinations of fields. Both are part of the generated
CRD, and the API server enforces them. `render/config.py` resolves defaults that depend on other fields; the field's
description documents them.
"""

from typing import Annotated

from pydantic import ConfigDict, Field

from sftjob_contract.run.config import Kernels, LossOn, PackingStrategy, Precision
from sftjob_contract.run.optimization import Optimizer, Scheduler
from sftjob_operator.api.types import Extra, Model, rule, rules


class EarlyStoppingSpec(Model):
    """End the run when evaluations stop getting better. The best checkpoint becomes the output."""

    patience: Annotated[int, Field(ge=1, le=1000)] = 3
    """Evaluations without a better loss before the run ends. transformers: early_stopping_patience."""
    threshold: Annotated[float, Field(ge=0, le=1000)] = 0.0
    """How much lower the loss must be to count as better. transformers: early_stopping_threshold."""


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
                "!has(self.gradientAccumulationSteps) || !has(self.globalBatchSize)",
                "must have at most one of gradientAccumulationSteps and globalBatchSize: remove one of them",
            ),
            rule(
                "self.packing || self.packingStrategy == 'bfd'",
                "packingStrategy needs packing: write packing: true, or remove packingStrategy",
            ),
            rule(
                "self.packingStrategy != 'wrapped' || !has(self.lossOn) || self.lossOn == 'all'",
                "packingStrategy wrapped cuts rows anywhere, which suits lossOn: all only: remove one of them",
            ),
            rule(
                "self.scheduler != 'constant' || !((has(self.warmupRatio) && self.warmupRatio > 0.0) "
                "|| (has(self.warmupSteps) && self.warmupSteps > 0))",
                "scheduler constant has no warmup: write scheduler: constant_with_warmup, or remove the warmup",
            ),
        )
    )

    epochs: Annotated[float, Field(gt=0, le=10_000)] | None = None
    """Passes over the data; may be a fraction. Neither epochs nor maxSteps: 3 epochs. TRL: num_train_epochs."""
    max_steps: Annotated[int, Field(ge=1, le=100_000_000)] | None = None
    """Optimizer steps, instead of epochs. TRL: max_steps."""
    per_device_batch_size: Annotated[int, Field(ge=1, le=4096)] = 4
    """Sequences per GPU and forward pass; packed ones go one by one on a CPU, and with sdpa or eager. Times
    gradientAccumulationSteps and GPUs, this is the batch of one step. TRL: per_device_train_batch_size."""
    gradient_accumulation_steps: Annotated[int, Field(ge=1, le=4096)] | None = None
    """Forward passes per optimizer step. Absent: 4, or what globalBatchSize needs. TRL: gradient_accumulation_steps."""
    global_batch_size: Annotated[int, Field(ge=1, le=1_048_576)] | None = None
    """Sequences per optimizer step over all GPUs, instead of gradientAccumulationSteps. Must be a multiple of
    perDeviceBatchSize times all GPUs."""
    learning_rate: Annotated[float, Field(gt=0, le=1)] | None = None
    """Peak learning rate. Absent: 2e-4 with lora, 2e-5 with full. TRL: learning_rate."""
    scheduler: Scheduler = Scheduler.COSINE
    """How the learning rate changes after the warmup. TRL: lr_scheduler_type."""
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
    packing_strategy: PackingStrategy = PackingStrategy.BFD
    """How rows are packed: bfd never cuts a row to fill a sequence, wrapped does. bfd_split is bfd, but splits rows
    longer than maxLength into several instead of cutting them. TRL: packing_strategy."""
    loss_on: LossOn | None = None
    """Tokens to train on: all, the completion, or the assistant's turns. Absent: all of a text, the completion of
    prompt-completion and alpaca rows, the assistant's turns of messages and sharegpt. TRL: completion_only_loss,
    assistant_only_loss."""
    precision: Precision = Precision.AUTO
    """Arithmetic of a step; auto is bf16 on GPUs of compute capability 8.0 or more, fp16 on older ones, fp32 on CPUs.
    TRL: bf16, fp16."""
    gradient_checkpointing: bool | None = None
    """Recompute activations instead of storing them: less memory, about a fifth slower. Absent: unless the
    run is known to fit into memory without it; status.plan shows it. TRL: gradient_checkpointing,
    activation_checkpointing."""
    neftune_noise_alpha: Annotated[float, Field(gt=0, le=100)] | None = None
    """Noise on the embeddings while training (Jain et al. 2023). Absent: none. transformers: neftune_noise_alpha."""
    kernels: Kernels = Kernels.AUTO
    """Fused GPU kernels; auto takes those that image and GPU have. TRL: use_liger_kernel."""
    compile: bool = False
    """Compile the model, which costs minutes at the start. TRL: torch_compile."""
    early_stopping: EarlyStoppingSpec | None = None
    """End the run when evaluations stop getting better. Absent: it runs to its last step."""
    seed: Annotated[int, Field(ge=0, le=4_294_967_295)] = 42
    """Seed of shuffling, dropout, LoRA initialization and the evaluation split. TRL: seed."""
    logging_steps: Annotated[int, Field(ge=1, le=1_000_000)] = 10
    """Steps between two points of the loss curve. TRL: logging_steps."""
    extra: Extra = Field(default_factory=dict)
    """More fields of trl.SFTConfig, under its own names."""
