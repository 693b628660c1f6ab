"""No option is ever ignored: each is read by a module of the trainer."""

import ast
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from enum import StrEnum
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.trainer_utils import SchedulerType
from transformers.training_args import OptimizerNames

import sftjob_trainer
from sftjob_contract.run import batches
from sftjob_contract.run import config as run
from sftjob_contract.run.method import ComputeDtype, Quantization, QuantizationType
from sftjob_trainer.preflight.run_config import problems
from support.trainer.tiny import lora, run_config

QLORA = Quantization(bits=4, type=QuantizationType.NF4, double_quantization=True, compute_dtype=ComputeDtype.BFLOAT16)
GOOD = run_config(model="/model", dataset="/data.jsonl", method=lora(quantization=QLORA))

READ = {
    "existing_content": "__main__",
    "model.source": "sources/resolve",
    "model.revision": "sources/resolve",
    "model.dtype": "models/hardware",
    "model.attention": "models/hardware",
    "model.trust_remote_code": "models/load",
    "model.chat_template.name": "tokens/chat_template",
    "model.chat_template.jinja": "tokens/chat_template",
    "model.chat_template.file": "tokens/chat_template",
    "model.add_eos_token": "tokens/labels",
    "model.padding_side": "tokens/tokenizer",
    "model.chat_template_kwargs": "tokens/labels",
    "model.rope_scaling.type": "models/rope",
    "model.rope_scaling.factor": "models/rope",
    "model.rope_scaling.original_max_position_embeddings": "output/model_card",
    "model.rope_scaling.attention_factor": "models/rope",
    "model.rope_scaling.low_freq_factor": "models/rope",
    "model.rope_scaling.high_freq_factor": "models/rope",
    "model.rope_scaling.beta_fast": "models/rope",
    "model.rope_scaling.beta_slow": "models/rope",
    "model.added_tokens": "models/added_tokens",
    "model.added_special_tokens": "models/added_tokens",
    "dataset.sources.source": "sources/resolve",
    "dataset.sources.revision": "sources/resolve",
    "dataset.sources.subset": "sources/resolve",
    "dataset.sources.split": "sources/resolve",
    "dataset.sources.format": "rows/preprocessing",
    "dataset.sources.columns.text": "rows/examples",
    "dataset.sources.columns.prompt": "rows/examples",
    "dataset.sources.columns.completion": "rows/examples",
    "dataset.sources.columns.messages": "rows/examples",
    "dataset.sources.columns.instruction": "rows/examples",
    "dataset.sources.columns.input": "rows/examples",
    "dataset.sources.columns.output": "rows/examples",
    "dataset.sources.columns.conversations": "rows/examples",
    "dataset.sources.columns.system": "rows/examples",
    "dataset.sources.preprocessing.template.text": "rows/preprocessing",
    "dataset.sources.preprocessing.template.prompt": "rows/preprocessing",
    "dataset.sources.preprocessing.template.completion": "rows/preprocessing",
    "dataset.sources.preprocessing.function.file": "rows/preprocessing",
    "dataset.sources.preprocessing.function.name": "rows/preprocessing",
    "dataset.sources.validation.column": "rows/validation",
    "dataset.sources.validation.regex": "rows/validation",
    "dataset.sources.validation.syntax": "rows/validation",
    "dataset.sources.validation.command": "rows/validation",
    "dataset.sources.validation.timeout_seconds": "rows/validation",
    "dataset.sources.max_samples": "tokens/tokenize",
    "dataset.sources.weight": "tokens/dataset",
    "dataset.shuffle_seed": "tokens/dataset",
    "dataset.deduplicate": "rows/filters",
    "dataset.min_tokens": "rows/filters",
    "dataset.max_tokens": "rows/filters",
    "dataset.on_invalid_row": "rows/filters",
    "dataset.render": "tokens/conversations",
    "dataset.max_invalid_rows": "rows/filters",
    "dataset.evaluation.fraction": "tokens/dataset",
    "dataset.evaluation.split": "sources/resolve",
    "dataset.evaluation.source": "sources/resolve",
    "method.lora.rank": "models/lora",
    "method.lora.alpha": "models/lora",
    "method.lora.dropout": "models/lora",
    "method.lora.target_modules": "models/lora",
    "method.lora.bias": "models/lora",
    "method.lora.rslora": "models/lora",
    "method.lora.dora": "models/lora",
    "method.lora.modules_to_save": "models/lora",
    "method.lora.extra": "models/lora",
    "method.lora.loraplus_lr_ratio": "training/construction",
    "method.unfrozen_parameters": "training/construction",
    "method.quantization.bits": "models/load",
    "method.quantization.type": "models/load",
    "method.quantization.double_quantization": "models/load",
    "method.quantization.compute_dtype": "models/quantized_base",
    "method.distillation.teacher.source": "training/starting_point",
    "method.distillation.teacher.revision": "training/starting_point",
    "method.distillation.temperature": "training/construction",
    "method.distillation.alpha": "training/construction",
    "training.epochs": "rows/steps",
    "training.max_steps": "rows/steps",
    "training.per_device_batch_size": "run/sft_config",
    "training.gradient_accumulation_steps": "run/sft_config",
    "training.learning_rate": "run/sft_config",
    "training.scheduler": "run/sft_config",
    "training.warmup_ratio": "run/sft_config",
    "training.warmup_steps": "run/sft_config",
    "training.weight_decay": "run/sft_config",
    "training.max_grad_norm": "run/sft_config",
    "training.optimizer": "run/sft_config",
    "training.max_length": "tokens/packing",
    "training.packing": "tokens/packing",
    "training.packing_strategy": "tokens/packing",
    "training.loss_on": "tokens/labels",
    "training.precision": "models/hardware",
    "training.gradient_checkpointing": "run/sft_config",
    "training.neftune_noise_alpha": "run/sft_config",
    "training.kernels": "models/hardware",
    "training.compile": "run/sft_config",
    "training.early_stopping.patience": "reporting/telemetry",
    "training.early_stopping.threshold": "reporting/telemetry",
    "training.seed": "run/sft_config",
    "training.logging_steps": "run/sft_config",
    "training.extra": "run/sft_config",
    "evaluation.every_steps": "run/context",
    "evaluation.per_epoch": "run/context",
    "evaluation.metrics": "evaluation/generated_samples",
    "evaluation.save_predictions": "evaluation/generated_samples",
    "evaluation.sample_prompts": "evaluation/generated_samples",
    "evaluation.held_out_prompts": "evaluation/prompts",
    "evaluation.max_new_tokens": "evaluation/generation",
    "evaluation.max_samples": "evaluation/prompts",
    "checkpoints.every_steps": "run/context",
    "checkpoints.per_epoch": "run/context",
    "checkpoints.keep": "train",
    "checkpoints.on_termination": "training/callbacks",
    "checkpoints.resume_from": "training/starting_point",
    "output.merge_adapter": "publish",
    "output.merge_dtype": "output/merge",
    "output.retain": "train",
    "output.hub.repository": "output/hub_push",
    "output.hub.private": "output/hub_push",
    "output.upload_uri": "output/deliver",
    "tracking.tensorboard": "reporting/trackers",
    "tracking.wandb.project": "reporting/wandb_tracker",
    "tracking.wandb.entity": "reporting/wandb_tracker",
    "tracking.wandb.name": "reporting/wandb_tracker",
    "tracking.wandb.base_url": "reporting/wandb_tracker",
    "tracking.wandb.offline": "reporting/wandb_tracker",
    "tracking.mlflow.experiment": "reporting/mlflow_tracker",
    "tracking.mlflow.tracking_uri": "reporting/mlflow_tracker",
    "gpus": "models/load",
    "nodes": "distributed/launch",
}
"""Options that this trainer has, and a module that reads each."""

IDENTITY = {"version", "job"}
"""What says whose run it is, and is no option."""

LIBRARYS_OWN: dict[str, set[str]] = {
    "model.attention": {"eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()},
    "model.chat_template.name": {
        file.name.removesuffix(".jinja") for file in resources.files("sftjob_trainer").joinpath("templates").iterdir()
    },
    "model.dtype": {"bfloat16", "float16", "float32"},
    "model.padding_side": {"right", "left"},
    "model.rope_scaling.type": set(ROPE_INIT_FUNCTIONS),
    "method.lora.bias": {"none", "all", "lora_only"},
    "method.quantization.type": {"nf4", "fp4"},
    "method.quantization.compute_dtype": {"bfloat16", "float16", "float32"},
    "output.merge_dtype": {"bfloat16", "float16", "float32"},
    "training.scheduler": {kind.value for kind in SchedulerType},
    "training.optimizer": {kind.value for kind in OptimizerNames},
}
"""Choices that are handed on under the names of transformers, PEFT, bitsandbytes or a file."""

OTHERWISE: dict[str, str] = {
    "dataset.on_invalid_row": "Skip",
    "dataset.render": "auto",
    "training.kernels": "auto",
    "output.retain": "Output",
    "existing_content": "Refuse",
}
"""The choice that is what happens when no other one is made."""


def types_in(hint: Any) -> Iterator[type]:
    """Classes that a type hint is made of: X of `X | None` and `tuple[X, ...]`."""
    arguments = get_args(hint)
    if isinstance(hint, type) and not arguments:
        yield hint
    for argument in arguments:
        yield from types_in(argument)


def options(class_: type, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and type hint of every option."""
    hints = get_type_hints(class_)
    for field in fields(class_):
        at = f"{path}{field.name}"
        if at in IDENTITY:
            continue
        nested = [part for part in types_in(hints[field.name]) if is_dataclass(part)]
        if nested:
            yield from options(nested[0], f"{at}.")
        else:
            yield at, hints[field.name]


OPTIONS = dict(options(run.RunConfig))
CHOICES = [
    (path, choice)
    for path, hint in OPTIONS.items()
    for part in types_in(hint)
    if issubclass(part, StrEnum)
    for choice in part
]


def with_value(config: Any, path: str, value: Any) -> Any:
    """A copy of `config` with one option changed."""
    head, _, rest = path.partition(".")
    changed = with_value(getattr(config, head), rest, value) if rest else value
    return replace(config, **{head: changed})


def nodes_of(module: Path) -> Iterator[ast.Attribute]:
    """Every `something.name` in the source of a module."""
    tree = ast.parse(module.read_text(encoding="utf-8"))
    return (node for node in ast.walk(tree) if isinstance(node, ast.Attribute))


TRAINER = Path(str(sftjob_trainer.__file__)).parent


@cache
def attributes_read_in(module: str) -> frozenset[str]:
    """Names of all attributes that a module of the trainer reads."""
    return frozenset(node.attr for node in nodes_of(TRAINER / f"{module}.py"))


@cache
def choices_named() -> frozenset[str]:
    """`Class.MEMBER` wherever the trainer's source has it, or the rule about batches that it shares with the plan."""
    modules = [*TRAINER.rglob("*.py"), Path(batches.__file__)]
    return frozenset(ast.unparse(node) for module in modules for node in nodes_of(module))


def test_a_config_of_what_the_trainer_has_is_taken() -> None:
    assert list(problems(GOOD)) == []


def test_every_option_is_read() -> None:
    assert set(OPTIONS) == set(READ)


@pytest.mark.parametrize(("path", "module"), READ.items())
def test_the_named_module_reads_the_option(path: str, module: str) -> None:
    assert path.rpartition(".")[2] in attributes_read_in(module)


@pytest.mark.parametrize(("path", "choice"), CHOICES, ids=[f"{path}-{choice}" for path, choice in CHOICES])
def test_the_trainer_knows_each_choice_of_an_option(path: str, choice: StrEnum) -> None:
    assert (
        f"{type(choice).__name__}.{choice.name}" in choices_named()
        or choice.value in LIBRARYS_OWN.get(path, set())
        or choice.value == OTHERWISE.get(path)
    )
