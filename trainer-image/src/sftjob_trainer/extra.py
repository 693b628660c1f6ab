"""`training.extra` and `method.lora.extra`: more fields of TRL's SFTConfig and PEFT's LoraConfig, checked by name.

Names and types are read from the source text of the installed libraries, which takes milliseconds where importing
them takes seconds and needs torch; so a mistake is told before anything is downloaded.
"""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from sftjob_contract.config import RunConfig, Training
from sftjob_contract.method import EVA, LOFTQ, takes_from_base
from sftjob_contract.optimization import Scheduler
from sftjob_trainer.initial_adapter import EVA_CONFIG, eva_problems, initialization_problems
from sftjob_trainer.wording import type_name

SFT_CONFIG: Final = (
    ("transformers", "training_args.py", "TrainingArguments"),
    ("trl", "trainer/base_config.py", "_BaseConfig"),
    ("trl", "trainer/sft_config.py", "SFTConfig"),
)
"""Package, file and class of SFTConfig and what it inherits from, bases first."""
LORA_CONFIG: Final = (("peft", "tuners/lora/config.py", "LoraConfig"),)
"""The same of `peft.LoraConfig`, without the fields that every PEFT method has."""

EVA_FIELDS: Final = (("peft", "tuners/lora/config.py", "EvaConfig"),)
"""The same of `peft.EvaConfig`."""

_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
}
"""What a value must be, for fields annotated with one plain type; the others are left to the library."""

REFUSED_TRAINING: Final[Mapping[str, tuple[str, ...]]] = {
    "set training.epochs or training.maxSteps": ("num_train_epochs", "max_steps"),
    "set training.perDeviceBatchSize": (
        *("per_device_train_batch_size", "per_device_eval_batch_size", "auto_find_batch_size"),
    ),
    "set training.gradientAccumulationSteps": ("gradient_accumulation_steps",),
    "set training.learningRate": ("learning_rate",),
    "set training.scheduler": ("lr_scheduler_type",),
    "set training.warmupSteps or training.warmupRatio": ("warmup_steps",),
    "set training.weightDecay": ("weight_decay",),
    "set training.maxGradNorm": ("max_grad_norm",),
    "set training.optimizer": ("optim",),
    "set training.maxLength": ("max_length", "truncation_mode"),
    "set training.packing and training.packingStrategy": (
        "packing",
        "packing_strategy",
        "padding_free",
        "eval_packing",
    ),
    "set training.lossOn": ("completion_only_loss", "assistant_only_loss"),
    "set training.precision": ("bf16", "fp16", "bf16_full_eval", "fp16_full_eval"),
    "set training.gradientCheckpointing": ("gradient_checkpointing", "activation_checkpointing"),
    "set training.neftuneNoiseAlpha": ("neftune_noise_alpha",),
    "set training.kernels": ("use_liger_kernel", "liger_kernel_config"),
    "set training.compile": ("torch_compile",),
    "set training.seed": ("seed", "data_seed"),
    "set training.loggingSteps": (
        *("logging_steps", "logging_strategy", "logging_first_step", "logging_nan_inf_filter", "log_on_each_node"),
    ),
    "set training.earlyStopping": ("load_best_model_at_end", "metric_for_best_model", "greater_is_better"),
    "set the fields of evaluation": (
        *(
            "eval_strategy",
            "eval_steps",
            "eval_delay",
            "eval_on_start",
            "do_eval",
            "do_predict",
            "prediction_loss_only",
        ),
        *("include_for_metrics", "batch_eval_metrics", "eval_do_concat_batches", "eval_use_gather_object"),
        *("eval_accumulation_steps",),
    ),
    "set the fields of checkpoints": (
        *("save_strategy", "save_steps", "save_total_limit", "save_only_model", "save_on_each_node", "output_dir"),
        *("resume_from_checkpoint", "ignore_data_skip", "restore_callback_states_from_checkpoint"),
        *("enable_jit_checkpoint",),
    ),
    "set output.hub": (
        *("push_to_hub", "hub_token", "hub_private_repo", "hub_model_id", "hub_strategy", "hub_always_push"),
        *("hub_revision",),
    ),
    "set the fields of tracking": (
        *("report_to", "run_name", "project", "trackio_space_id", "trackio_bucket_id", "trackio_static_space_id"),
    ),
    "set the fields of model": (
        "model_init_kwargs",
        "trust_remote_code",
        "chat_template_path",
        "eos_token",
        "pad_token",
    ),
    "set the fields of dataset": (
        *("dataset_text_field", "dataset_kwargs", "dataset_num_proc", "remove_unused_columns", "label_names"),
    ),
    "set resources.gpus and resources.nodes": (
        *("use_cpu", "local_rank", "deepspeed", "fsdp", "fsdp_config", "parallelism_config", "accelerator_config"),
        *("ddp_backend", "ddp_timeout", "average_tokens_across_devices"),
    ),
    "remove it, since the number of steps and the order of the data are known before the run": (
        *("dataloader_drop_last", "shuffle_dataset"),
    ),
    "remove it, since the trainer writes its own log": (
        *("disable_tqdm", "log_level", "log_level_replica", "include_num_input_tokens_seen", "skip_memory_metrics"),
        *("debug", "do_train"),
    ),
}
"""Fields of SFTConfig that may not be given, by what to do instead."""

REFUSED_LORA: Final[Mapping[str, tuple[str, ...]]] = {
    "set method.lora.rank": ("r",),
    "set method.lora.alpha": ("lora_alpha",),
    "set method.lora.dropout": ("lora_dropout",),
    "set method.lora.targetModules": ("target_modules",),
    "set method.lora.bias": ("bias",),
    "set method.lora.rslora": ("use_rslora",),
    "set method.lora.dora": ("use_dora",),
    "set method.lora.modulesToSave": ("modules_to_save",),
    "set method.quantization, of which LoftQ takes one step": ("loftq_config",),
    "remove it, since it needs a preparation of its own that this trainer does not have": (
        *("corda_config", "lora_ga_config", "velora_config", "monteclora_config"),
        *("kasa_config", "arrow_config", "use_bdlora", "alora_invocation_tokens", "megatron_config", "megatron_core"),
        *("layer_replication", "runtime_config", "use_qalora", "qalora_group_size"),
    ),
}
"""Fields of LoraConfig that may not be given, by what to do instead."""
REFUSED_EVA: Final[Mapping[str, tuple[str, ...]]] = {
    "remove it, since labels that are not trained are -100": ("label_mask_value",),
}
"""Fields of EvaConfig that may not be given, by what to do instead."""
_NEEDED_OPTIONS: Final[Mapping[Scheduler, tuple[str, ...]]] = {
    Scheduler.COSINE_WITH_MIN_LR: ("min_lr", "min_lr_rate"),
    Scheduler.COSINE_WARMUP_WITH_MIN_LR: ("min_lr", "min_lr_rate"),
    Scheduler.WARMUP_STABLE_DECAY: ("num_decay_steps",),
}
"""One of these must be given."""
_INITIALIZATIONS: Final = (True, False, "gaussian", "orthogonal", EVA, LOFTQ)
"""Values of init_lora_weights that leave the base model's weights alone."""


def extra_problems(config: RunConfig) -> Iterator[str]:
    """What can not be passed on, one sentence each."""
    yield from _problems("training.extra", config.training.extra, "trl.SFTConfig", SFT_CONFIG, REFUSED_TRAINING)
    yield from _prefetch_problems(config.training.extra)
    yield from _schedule_problems(config.training)
    yield from _loss_problems(config)
    lora = config.method.lora
    if lora is None:
        return
    yield from _problems("method.lora.extra", lora.extra, "peft.LoraConfig", LORA_CONFIG, REFUSED_LORA)
    yield from initialization_problems(config.method, config.checkpoints.resume_from)
    yield from eva_problems(lora, config.checkpoints.resume_from)
    if isinstance(eva := lora.extra.get(EVA_CONFIG), Mapping):
        yield from _problems(f"method.lora.extra.{EVA_CONFIG}", eva, "peft.EvaConfig", EVA_FIELDS, REFUSED_EVA)
    if (value := lora.extra.get("init_lora_weights", True)) not in _INITIALIZATIONS and not takes_from_base(lora):
        yield (
            f"method.lora.extra.init_lora_weights: {value} needs a preparation that this trainer does not have: write "
            "true, false, gaussian, orthogonal, pissa, pissa_niter_16 (or another number), olora, eva or loftq"
        )


def _prefetch_problems(extra: Mapping[str, Any]) -> Iterator[str]:
    """TRL passes the number on as it is, and PyTorch refuses it where the first batch is fetched."""
    factor, workers = extra.get("dataloader_prefetch_factor"), extra.get("dataloader_num_workers", 0)
    if isinstance(workers, int) and workers < 0:
        yield f"training.extra.dataloader_num_workers must be at least 0, not {workers}"
    if not isinstance(factor, int):
        return
    if factor < 1:
        yield f"training.extra.dataloader_prefetch_factor must be at least 1, not {factor}"
    elif not workers:
        yield "training.extra.dataloader_prefetch_factor needs dataloader_num_workers of at least 1"


def _loss_problems(config: RunConfig) -> Iterator[str]:
    """Losses that would be passed over in silence, since another one is computed."""
    extra, smoothing = config.training.extra, "label_smoothing_factor"
    for name in ("loss_type", smoothing):
        if config.method.distillation is not None and name in extra:
            yield f"training.extra.{name} does not go with method.distillation, which is a loss of its own: remove it"
    factor = extra.get(smoothing)
    if not isinstance(factor, int | float) or isinstance(factor, bool):
        return
    if not 0 <= factor < 1:
        yield f"training.extra.{smoothing} must be from 0 to below 1, not {factor:g}"
    elif factor and extra.get("loss_type", "nll") != "nll":
        yield f"training.extra.{smoothing} is for loss_type: nll only: remove one of them"


def _schedule_problems(training: Training) -> Iterator[str]:
    """Schedules that cannot do without options, and those for which transformers would pass over them in silence."""
    scheduler, where = training.scheduler, "training.extra.lr_scheduler_kwargs"
    given = training.extra.get("lr_scheduler_kwargs") or {}
    if given and scheduler in (Scheduler.CONSTANT, Scheduler.CONSTANT_WITH_WARMUP):
        yield f"{where}: training.scheduler: {scheduler} has no options; remove it, or write another scheduler"
    needed = _NEEDED_OPTIONS.get(scheduler, ())
    if needed and isinstance(given, Mapping) and not any(name in given for name in needed):
        yield f"training.scheduler: {scheduler} needs {' or '.join(needed)} in {where}"


def field_types(classes: tuple[tuple[str, str, str], ...]) -> Mapping[str, str]:
    """The annotation of every field of a dataclass, by name, read from the source of it and its bases."""
    return {name: annotation for place in classes for name, annotation in _annotations(*place).items()}


def _problems(
    where: str,
    given: Mapping[str, Any],
    library: str,
    classes: tuple[tuple[str, str, str], ...],
    refused: Mapping[str, tuple[str, ...]],
) -> Iterator[str]:
    if not given:
        return
    known = field_types(classes)
    instead = {name: what for what, names in refused.items() for name in names}
    for name, value in given.items():
        if name in instead:
            yield f"{where}.{name} can not be set here: {instead[name]}"
        elif name not in known:
            yield f"{where}.{name} is not a field of the installed {library}{_similar(name, known)}"
        elif problem := _misfit(value, known[name]):
            yield f"{where}.{name} must be {problem}, not {type_name(value)}"


def _similar(name: str, known: Mapping[str, str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=3)
    return f"; similar ones are {', '.join(close)}" if close else ""


def _misfit(value: Any, annotation: str) -> str | None:
    """What `value` should have been; None when it fits, or when only the library can tell."""
    kinds = [kind for kind in annotation.split(" | ") if kind != "None"]
    if len(kinds) != 1 or kinds[0] not in _TYPES or (value is None and "None" in annotation):
        return None
    wanted = _TYPES[kinds[0]]
    fits = isinstance(value, wanted) and (bool in wanted or not isinstance(value, bool))
    return None if fits else type_name(wanted[0]())


@cache
def _annotations(package: str, file: str, name: str) -> Mapping[str, str]:
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        return {}
    source = (Path(spec.origin).parent / file).read_text(encoding="utf-8")
    found = next(node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == name)
    return {
        field.target.id: ast.unparse(field.annotation)
        for field in found.body
        if isinstance(field, ast.AnnAssign) and isinstance(field.target, ast.Name)
    }
