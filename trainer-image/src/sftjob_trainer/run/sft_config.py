"""Map the run config to the arguments of TRL's SFTConfig. Pure: a plan needs neither TRL nor torch."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sftjob_contract.names import ENV_MICRO_BATCH
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.stats import PreparedStats
from sftjob_contract.run.batches import micro_batches
from sftjob_contract.run.config import Precision, RunConfig, Training
from sftjob_trainer.process.errors import StageError


def sft_arguments(
    config: RunConfig,
    stats: PreparedStats,
    *,
    output_dir: Path,
    precision: Precision,
    liger: bool = False,
    dense: bool = False,
) -> Mapping[str, Any]:
    """Keyword arguments for `trl.SFTConfig`, including those of `training.extra`; `dense` as of `micro_batches`.

    `is_due` decides when to evaluate and save, not TRL: both also happen at the last step, and a stop request can
    postpone one. `max_steps` always comes from the prepared statistics, the same number that was reported before the
    run started. NaN is not filtered from logs, because it is how divergence is detected.
    """
    training = config.training
    batch_size, accumulation = micro_batches(config, dense=dense)
    return {
        "output_dir": str(output_dir),
        "max_steps": stats.max_steps,
        "per_device_train_batch_size": batch_size,
        "per_device_eval_batch_size": batch_size,
        "gradient_accumulation_steps": accumulation,
        "learning_rate": training.learning_rate,
        "lr_scheduler_type": training.scheduler.value,
        "warmup_steps": warmup_steps(training, stats.max_steps),
        "weight_decay": training.weight_decay,
        "max_grad_norm": training.max_grad_norm,
        "optim": training.optimizer.value,
        "max_length": training.max_length,
        "packing": training.packing,
        "packing_strategy": training.packing_strategy.value,
        "bf16": precision is Precision.BF16,
        "fp16": precision is Precision.FP16,
        "activation_checkpointing": training.gradient_checkpointing is not False,
        "neftune_noise_alpha": training.neftune_noise_alpha,
        "use_liger_kernel": liger,
        "torch_compile": training.compile,
        "seed": training.seed,
        "data_seed": config.dataset.shuffle_seed,
        "logging_steps": training.logging_steps,
        "logging_first_step": True,
        "logging_nan_inf_filter": False,
        "eval_strategy": "no",
        "save_strategy": "no",
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": config.gpus == 0,
        "dataloader_pin_memory": config.gpus > 0,
        "dataset_kwargs": {"skip_prepare_dataset": True},
        **training.extra,
    }


def with_micro_batch(config: RunConfig, sequences: int | None) -> RunConfig:
    """`config` with perDeviceBatchSize `sequences` and more accumulation steps, so that each step sees the same rows.

    Raises:
        StageError: perDeviceBatchSize is not divisible by `sequences`.
    """
    training = config.training
    configured_batch = training.per_device_batch_size
    if sequences is None:
        return config
    if configured_batch % sequences:
        raise StageError(
            Reason.INTERNAL_ERROR,
            f"{ENV_MICRO_BATCH} must divide training.perDeviceBatchSize ({configured_batch}), which {sequences} "
            "does not",
        )
    accumulation = training.gradient_accumulation_steps * configured_batch // sequences
    smaller = replace(training, per_device_batch_size=sequences, gradient_accumulation_steps=accumulation)
    return replace(config, training=smaller)


def with_checkpointing(config: RunConfig, planned: bool | None) -> tuple[RunConfig, str]:
    """`config` with gradient checkpointing decided, and a line that gives the reason.

    The config's value takes precedence, then `planned`, then on: slow training is better than running out of memory.
    """
    configured = config.training.gradient_checkpointing
    enabled = next((choice for choice in (configured, planned) if choice is not None), True)
    if configured is not None:
        reason = "as configured"
    elif planned is None:
        reason = "whether memory needs it is not known"
    elif planned:
        reason = "by the plan, the run is not known to fit without it, or an attempt ran out of memory"
    else:
        reason = "by the plan, the run fits without it"
    decided = replace(config, training=replace(config.training, gradient_checkpointing=enabled))
    return decided, f"gradient checkpointing {'on' if enabled else 'off'}: {reason}"


def warmup_steps(training: Training, max_steps: int) -> int:
    """Number of warmup steps. A ratio is rounded up as in transformers, but never to all steps.

    The learning rate of the first warmup step is 0, so a run that is all warmup would train little or nothing.
    """
    if training.warmup_steps is not None:
        return training.warmup_steps
    return min(math.ceil(max_steps * (training.warmup_ratio or 0.0)), max(0, max_steps - 1))


def is_due(step: int, every_steps: int | None, per_epoch: int | None, stats: PreparedStats) -> bool:
    """Whether an event scheduled every `every_steps`, or `per_epoch` times per epoch, is due after `step`.

    The last step is always due. Step 0 is before training.
    """
    if step in (0, stats.max_steps):
        return True
    if every_steps is not None:
        return step % every_steps == 0
    per_epoch = per_epoch or 1
    return step * per_epoch // stats.steps_per_epoch > (step - 1) * per_epoch // stats.steps_per_epoch
