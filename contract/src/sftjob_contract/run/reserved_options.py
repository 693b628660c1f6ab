"""Options of trl.SFTConfig that spec.training.extra cannot set, by what to do instead."""

from collections.abc import Mapping
from typing import Final

RESERVED_TRAINING: Final[Mapping[str, tuple[str, ...]]] = {
    "set training.perDeviceBatchSize": (
        "auto_find_batch_size",
    ),
    "set training.loggingSteps": (
        "logging_strategy", "logging_nan_inf_filter",
    ),
    "set training.earlyStopping": (
        "load_best_model_at_end", "metric_for_best_model", "greater_is_better",
    ),
    "set the fields of evaluation": (
        "eval_on_start", "do_eval", "do_predict",
    ),
    "set the fields of checkpoints": (
        "save_only_model", "save_on_each_node", "output_dir", "ignore_data_skip",
        "restore_callback_states_from_checkpoint", "enable_jit_checkpoint",
    ),
    "set output.hub": (
        "hub_strategy", "hub_always_push", "hub_revision",
    ),
    "set the fields of tracking": (
        "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id",
    ),
    "set the fields of model": (
        "model_init_kwargs",
    ),
    "set the fields of dataset": (
        "dataset_kwargs", "remove_unused_columns",
    ),
    "set resources.gpus and resources.nodes": (
        "use_cpu", "local_rank",
    ),
    "remove it, since the number of steps and the order of the data are known before the run": (
        "shuffle_dataset",
    ),
    "remove it, since the trainer writes its own log": (
        "disable_tqdm", "do_train",
    ),
}  # fmt: skip
"""Options without a field: the operator rejects them before anything is created, and the trainer too."""
_TRAINER_ONLY: Final[Mapping[str, tuple[str, ...]]] = {
    "set training.epochs or training.maxSteps": (
        "num_train_epochs", "max_steps",
    ),
    "set training.perDeviceBatchSize": (
        "per_device_train_batch_size", "per_device_eval_batch_size",
    ),
    "set training.gradientAccumulationSteps": (
        "gradient_accumulation_steps",
    ),
    "set training.learningRate": (
        "learning_rate",
    ),
    "set training.scheduler": (
        "lr_scheduler_type",
    ),
    "set training.warmupSteps or training.warmupRatio": (
        "warmup_steps",
    ),
    "set training.weightDecay": (
        "weight_decay",
    ),
    "set training.maxGradNorm": (
        "max_grad_norm",
    ),
    "set training.optimizer": (
        "optim",
    ),
    "set training.maxLength": (
        "max_length", "truncation_mode",
    ),
    "set training.packing and training.packingStrategy": (
        "packing", "packing_strategy", "padding_free", "eval_packing",
    ),
    "set training.lossOn": (
        "completion_only_loss", "assistant_only_loss",
    ),
    "set training.precision": (
        "bf16", "fp16", "bf16_full_eval", "fp16_full_eval",
    ),
    "set training.gradientCheckpointing": (
        "gradient_checkpointing", "activation_checkpointing",
    ),
    "set training.neftuneNoiseAlpha": (
        "neftune_noise_alpha",
    ),
    "set training.kernels": (
        "use_liger_kernel", "liger_kernel_config",
    ),
    "set training.compile": (
        "torch_compile",
    ),
    "set training.seed": (
        "seed", "data_seed",
    ),
    "set training.loggingSteps": (
        "logging_steps", "logging_first_step", "log_on_each_node",
    ),
    "set the fields of evaluation": (
        "eval_strategy", "eval_steps", "eval_delay", "prediction_loss_only", "include_for_metrics",
        "batch_eval_metrics", "eval_do_concat_batches", "eval_use_gather_object",
        "eval_accumulation_steps",
    ),
    "set the fields of checkpoints": (
        "save_strategy", "save_steps", "save_total_limit", "resume_from_checkpoint",
    ),
    "set output.hub": (
        "push_to_hub", "hub_token", "hub_private_repo", "hub_model_id",
    ),
    "set the fields of tracking": (
        "report_to", "run_name", "project",
    ),
    "set the fields of model": (
        "trust_remote_code", "chat_template_path", "eos_token", "pad_token",
    ),
    "set the fields of dataset": (
        "dataset_text_field", "dataset_num_proc", "label_names",
    ),
    "set resources.gpus and resources.nodes": (
        "deepspeed", "fsdp", "fsdp_config", "parallelism_config", "accelerator_config", "ddp_backend",
        "ddp_timeout", "average_tokens_across_devices",
    ),
    "remove it, since the number of steps and the order of the data are known before the run": (
        "dataloader_drop_last",
    ),
    "remove it, since the trainer writes its own log": (
        "log_level", "log_level_replica", "include_num_input_tokens_seen", "skip_memory_metrics",
        "debug",
    ),
}  # fmt: skip
"""Options that have a field, which the operator derives from the field's description, and options that only the trainer
rejects."""
REFUSED_TRAINING: Final[Mapping[str, tuple[str, ...]]] = {
    instead: (*RESERVED_TRAINING.get(instead, ()), *_TRAINER_ONLY.get(instead, ()))
    for instead in {**_TRAINER_ONLY, **RESERVED_TRAINING}
}
"""All options that the trainer rejects."""
