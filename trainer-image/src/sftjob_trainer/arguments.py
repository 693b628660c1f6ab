"""The run config as arguments of TRL's SFTConfig. Pure: neither TRL nor torch is needed to know what a run will do."""

import math
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from sftjob_contract.batches import micro_batches
from sftjob_contract.config import Precision, RunConfig, Training
from sftjob_contract.names import ENV_MICRO_BATCH
from sftjob_contract.reasons import Reason
from sftjob_contract.stats import PreparedStats
from sftjob_trainer.failure import Failure


def sft_arguments(
    config: RunConfig, stats: PreparedStats, *, output_dir: Path, precision: Precision, liger: bool = False
) -> Mapping[str, Any]:
    """Keyword arguments for `trl.SFTConfig`, those of `training.extra` among them.

    When to evaluate and save is not TRL's to decide here but `is_due`'s, so that both happen at the last step as well
    and a stop request can put one off. `max_steps` always comes from the prepared statistics, the same number that
    was told before the run started. NaN must show: it is how divergence is found.
    """
    training = config.training
    batch_size, accumulation = micro_batches(config)
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
    """`config` with perDeviceBatchSize `sequences` and as many more forward passes, so that each step sees the same.

    Raises:
        Failure: the batch can not be divided so.
    """
    training = config.training
    usual = training.per_device_batch_size
    if sequences is None:
        return config
    if usual % sequences:
        raise Failure(
            Reason.INTERNAL_ERROR,
            f"{ENV_MICRO_BATCH} must divide training.perDeviceBatchSize ({usual}), which {sequences} does not",
        )
    accumulation = training.gradient_accumulation_steps * usual // sequences
    smaller = replace(training, per_device_batch_size=sequences, gradient_accumulation_steps=accumulation)
    return replace(config, training=smaller)


def with_checkpointing(config: RunConfig, planned: bool | None) -> tuple[RunConfig, str]:
    """`config` with gradient checkpointing decided, and a line that says why.

    It is as the config says, else as `planned`, else on: to be slower is better than to run out of memory.
    """
    asked = config.training.gradient_checkpointing
    enabled = next((choice for choice in (asked, planned) if choice is not None), True)
    if asked is not None:
        why = "asked for"
    elif planned is None:
        why = "whether memory needs it is not known"
    elif planned:
        why = "by the plan, the run is not known to fit without it, or an attempt ran out of memory"
    else:
        why = "by the plan, the run fits without it"
    decided = replace(config, training=replace(config.training, gradient_checkpointing=enabled))
    return decided, f"gradient checkpointing {'on' if enabled else 'off'}: {why}"


def warmup_steps(training: Training, max_steps: int) -> int:
    """Optimizer steps with a rising learning rate. A ratio is rounded up, as transformers does, but not to all steps.

    The rate of the first of them is 0, so a run that is all warmup would train little or nothing.
    """
    if training.warmup_steps is not None:
        return training.warmup_steps
    return min(math.ceil(max_steps * (training.warmup_ratio or 0.0)), max(0, max_steps - 1))


def is_due(step: int, every_steps: int | None, per_epoch: int | None, stats: PreparedStats) -> bool:
    """Whether something that happens every `every_steps`, or `per_epoch` times in each epoch, happens after `step`.

    It always happens after the last step. Step 0 is before training.
    """
    if step in (0, stats.max_steps):
        return True
    if every_steps is not None:
        return step % every_steps == 0
    per_epoch = per_epoch or 1
    return step * per_epoch // stats.steps_per_epoch > (step - 1) * per_epoch // stats.steps_per_epoch
