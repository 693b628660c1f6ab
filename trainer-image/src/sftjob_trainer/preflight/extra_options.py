"""`training.extra` and `method.lora.extra`: more fields of TRL's SFTConfig and PEFT's LoraConfig, checked by name.

Names and types are parsed from the source text of the installed libraries. This takes milliseconds; an import takes
seconds and needs torch. Mistakes are therefore reported before anything is downloaded.
"""

import ast
from collections.abc import Iterator, Mapping
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

from sftjob_contract.run.config import RunConfig, Training
from sftjob_contract.run.method import EVA, LOFTQ, takes_from_base
from sftjob_contract.run.optimization import Scheduler
from sftjob_contract.run.reserved_options import REFUSED_TRAINING
from sftjob_trainer.models.initial_adapter import EVA_CONFIG, eva_problems, initialization_problems
from sftjob_trainer.process.wording import type_name

SFT_CONFIG: Final = (
    ("transformers", "training_args.py", "TrainingArguments"),
    ("trl", "trainer/base_config.py", "_BaseConfig"),
    ("trl", "trainer/sft_config.py", "SFTConfig"),
)
"""Package, file and class of SFTConfig and its base classes, bases first."""
LORA_CONFIG: Final = (("peft", "tuners/lora/config.py", "LoraConfig"),)
"""The same for `peft.LoraConfig`, without the fields that every PEFT method has."""

EVA_FIELDS: Final = (("peft", "tuners/lora/config.py", "EvaConfig"),)
"""The same for `peft.EvaConfig`."""

_TYPES: Final[Mapping[str, tuple[type, ...]]] = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
}
"""The expected type, for fields annotated with one plain type; the library checks the others."""

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
    "remove it, since it needs a preparation step that this trainer does not have": (
        "corda_config", "lora_ga_config", "velora_config", "monteclora_config",
        "kasa_config", "arrow_config", "use_bdlora", "alora_invocation_tokens", "megatron_config", "megatron_core",
        "layer_replication", "runtime_config", "use_qalora", "qalora_group_size",
    ),
}  # fmt: skip
"""Reserved fields of LoraConfig, with the setting to use instead."""
REFUSED_EVA: Final[Mapping[str, tuple[str, ...]]] = {
    "remove it, since labels that are not trained are -100": ("label_mask_value",),
}
"""Reserved fields of EvaConfig, with the setting to use instead."""
_NEEDED_OPTIONS: Final[Mapping[Scheduler, tuple[str, ...]]] = {
    Scheduler.COSINE_WITH_MIN_LR: ("min_lr", "min_lr_rate"),
    Scheduler.COSINE_WARMUP_WITH_MIN_LR: ("min_lr", "min_lr_rate"),
    Scheduler.WARMUP_STABLE_DECAY: ("num_decay_steps",),
}
"""One of these is required."""
_INITIALIZATIONS: Final = (True, False, "gaussian", "orthogonal", EVA, LOFTQ)
"""Values of init_lora_weights that do not change the base model's weights."""


def extra_problems(config: RunConfig) -> Iterator[str]:
    """Fields that cannot be passed to the libraries, one sentence each."""
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
    """TRL passes the value on unchecked, and PyTorch refuses it only when the first batch is fetched."""
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
    """Loss options that would be silently ignored, because another loss is computed."""
    extra, smoothing = config.training.extra, "label_smoothing_factor"
    for name in ("loss_type", smoothing):
        if config.method.distillation is not None and name in extra:
            yield (
                f"training.extra.{name} cannot be combined with method.distillation, which computes its own loss: "
                "remove it"
            )
    factor = extra.get(smoothing)
    if not isinstance(factor, int | float) or isinstance(factor, bool):
        return
    if not 0 <= factor < 1:
        yield f"training.extra.{smoothing} must be from 0 to below 1, not {factor:g}"
    elif factor and extra.get("loss_type", "nll") != "nll":
        yield f"training.extra.{smoothing} is for loss_type: nll only: remove one of them"


def _schedule_problems(training: Training) -> Iterator[str]:
    """Schedules that require options, and schedules for which transformers would silently ignore them."""
    scheduler, field = training.scheduler, "training.extra.lr_scheduler_kwargs"
    configured = training.extra.get("lr_scheduler_kwargs") or {}
    if configured and scheduler in (Scheduler.CONSTANT, Scheduler.CONSTANT_WITH_WARMUP):
        yield f"{field}: training.scheduler: {scheduler} has no options; remove it, or write another scheduler"
    needed = _NEEDED_OPTIONS.get(scheduler, ())
    if needed and isinstance(configured, Mapping) and not any(name in configured for name in needed):
        yield f"training.scheduler: {scheduler} needs {' or '.join(needed)} in {field}"


def field_types(classes: tuple[tuple[str, str, str], ...]) -> Mapping[str, str]:
    """The annotation of every field of a dataclass, by name, parsed from the source of the class and its bases."""
    return {name: annotation for location in classes for name, annotation in _annotations(*location).items()}


def _problems(
    field: str,
    configured: Mapping[str, Any],
    library: str,
    classes: tuple[tuple[str, str, str], ...],
    refused: Mapping[str, tuple[str, ...]],
) -> Iterator[str]:
    if not configured:
        return
    known = field_types(classes)
    advice = {name: what for what, names in refused.items() for name in names}
    for name, value in configured.items():
        if name in advice:
            yield f"{field}.{name} cannot be set here: {advice[name]}"
        elif name not in known:
            yield f"{field}.{name} is not a field of the installed {library}{_similar(name, known)}"
        elif problem := _type_problem(value, known[name]):
            yield f"{field}.{name} must be {problem}, not {type_name(value)}"


def _similar(name: str, known: Mapping[str, str]) -> str:
    from difflib import get_close_matches

    close = get_close_matches(name, known, n=3)
    return f"; similar ones are {', '.join(close)}" if close else ""


def _type_problem(value: Any, annotation: str) -> str | None:
    """The type that `value` should have; None if it fits, or if only the library can check it."""
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
