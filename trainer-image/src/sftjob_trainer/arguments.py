"""The run config as arguments of TRL's SFTConfig. Pure: neither TRL nor torch is needed to know what a run will do."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from sftjob_contract.config import PackingStrategy, Precision, RunConfig, Training
from sftjob_contract.stats import PreparedStats


def sft_arguments(
    config: RunConfig, stats: PreparedStats, *, output_dir: Path, precision: Precision, liger: bool = False
) -> Mapping[str, Any]:
    """Keyword arguments for `trl.SFTConfig`, those of `training.extra` among them.

    When to evaluate and save is not TRL's to decide here but `is_due`'s, so that both happen at the last step as well
    and a stop request can put one off. `max_steps` always comes from the prepared statistics, the same number that
    was told before the run started. NaN must show: it is how divergence is found.
    """
    training = config.training
    batch_size, accumulation = micro_batches(training)
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
        "activation_checkpointing": training.gradient_checkpointing,
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


def micro_batches(training: Training) -> tuple[int, int]:
    """Sequences per forward pass, and forward passes per optimizer step.

    A batch packed by best fit is one long row whose attention mask is dense (SDPA), so its cost grows with the square
    of its length. One packed sequence at a time, and as many more of them, is the same optimizer step: the loss is
    divided by the number of trained tokens of the whole step, so gradients and step counts are equal. Wrapped
    sequences are rows like any other.
    """
    if training.packing and training.packing_strategy is PackingStrategy.BFD:
        return 1, training.per_device_batch_size * training.gradient_accumulation_steps
    return training.per_device_batch_size, training.gradient_accumulation_steps


def warmup_steps(training: Training, max_steps: int) -> int:
    """Optimizer steps with a rising learning rate; a ratio is rounded up, as transformers does."""
    if training.warmup_steps is not None:
        return training.warmup_steps
    return math.ceil(max_steps * (training.warmup_ratio or 0.0))


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
