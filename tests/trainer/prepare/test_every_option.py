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
from sftjob_contract import batches
from sftjob_contract import config as run
from sftjob_contract.method import ComputeDtype, Quantization, QuantizationType
from sftjob_trainer.configuration import problems
from support.tiny import lora, run_config

QLORA = Quantization(bits=4, type=QuantizationType.NF4, double_quantization=True, compute_dtype=ComputeDtype.BFLOAT16)
GOOD = run_config(model="/model", dataset="/data.jsonl", method=lora(quantization=QLORA))

READ = {
    "existing_content": "__main__",
    "model.source": "sources",
    "model.revision": "sources",
    "model.dtype": "hardware",
    "model.attention": "hardware",
    "model.trust_remote_code": "model",
    "model.chat_template.name": "chat_template",
    "model.chat_template.jinja": "chat_template",
    "model.chat_template.file": "chat_template",
    "model.add_eos_token": "labels",
    "model.padding_side": "tokenization",
    "model.chat_template_kwargs": "labels",
    "model.rope_scaling.type": "rope",
    "model.rope_scaling.factor": "rope",
    "model.rope_scaling.original_max_position_embeddings": "card",
    "model.rope_scaling.attention_factor": "rope",
    "model.rope_scaling.low_freq_factor": "rope",
    "model.rope_scaling.high_freq_factor": "rope",
    "model.rope_scaling.beta_fast": "rope",
    "model.rope_scaling.beta_slow": "rope",
    "model.added_tokens": "added_tokens",
    "model.added_special_tokens": "added_tokens",
    "dataset.sources.source": "sources",
    "dataset.sources.revision": "sources",
    "dataset.sources.subset": "sources",
    "dataset.sources.split": "sources",
    "dataset.sources.format": "preprocessing",
    "dataset.sources.columns.text": "shapes",
    "dataset.sources.columns.prompt": "shapes",
    "dataset.sources.columns.completion": "shapes",
    "dataset.sources.columns.messages": "shapes",
    "dataset.sources.columns.instruction": "shapes",
    "dataset.sources.columns.input": "shapes",
    "dataset.sources.columns.output": "shapes",
    "dataset.sources.columns.conversations": "shapes",
    "dataset.sources.columns.system": "shapes",
    "dataset.sources.preprocessing.template.text": "preprocessing",
    "dataset.sources.preprocessing.template.prompt": "preprocessing",
    "dataset.sources.preprocessing.template.completion": "preprocessing",
    "dataset.sources.preprocessing.function.file": "preprocessing",
    "dataset.sources.preprocessing.function.name": "preprocessing",
    "dataset.sources.validation.column": "validation",
    "dataset.sources.validation.regex": "validation",
    "dataset.sources.validation.syntax": "validation",
    "dataset.sources.validation.command": "validation",
    "dataset.sources.validation.timeout_seconds": "validation",
    "dataset.sources.max_samples": "tokenizing",
    "dataset.sources.weight": "data",
    "dataset.shuffle_seed": "data",
    "dataset.deduplicate": "filters",
    "dataset.min_tokens": "filters",
    "dataset.max_tokens": "filters",
    "dataset.on_invalid_row": "filters",
    "dataset.render": "rendering",
    "dataset.max_invalid_rows": "filters",
    "dataset.evaluation.fraction": "data",
    "dataset.evaluation.split": "sources",
    "dataset.evaluation.source": "sources",
    "method.lora.rank": "lora",
    "method.lora.alpha": "lora",
    "method.lora.dropout": "lora",
    "method.lora.target_modules": "lora",
    "method.lora.bias": "lora",
    "method.lora.rslora": "lora",
    "method.lora.dora": "lora",
    "method.lora.modules_to_save": "lora",
    "method.lora.extra": "lora",
    "method.lora.loraplus_lr_ratio": "construction",
    "method.unfrozen_parameters": "construction",
    "method.quantization.bits": "model",
    "method.quantization.type": "model",
    "method.quantization.double_quantization": "model",
    "method.quantization.compute_dtype": "quantized_base",
    "method.distillation.teacher.source": "start",
    "method.distillation.teacher.revision": "start",
    "method.distillation.temperature": "construction",
    "method.distillation.alpha": "construction",
    "training.epochs": "plan",
    "training.max_steps": "plan",
    "training.per_device_batch_size": "arguments",
    "training.gradient_accumulation_steps": "arguments",
    "training.learning_rate": "arguments",
    "training.scheduler": "arguments",
    "training.warmup_ratio": "arguments",
    "training.warmup_steps": "arguments",
    "training.weight_decay": "arguments",
    "training.max_grad_norm": "arguments",
    "training.optimizer": "arguments",
    "training.max_length": "sequences",
    "training.packing": "sequences",
    "training.packing_strategy": "sequences",
    "training.loss_on": "labels",
    "training.precision": "hardware",
    "training.gradient_checkpointing": "arguments",
    "training.neftune_noise_alpha": "arguments",
    "training.kernels": "hardware",
    "training.compile": "arguments",
    "training.early_stopping.patience": "telemetry",
    "training.early_stopping.threshold": "telemetry",
    "training.seed": "arguments",
    "training.logging_steps": "arguments",
    "training.extra": "arguments",
    "evaluation.every_steps": "run",
    "evaluation.per_epoch": "run",
    "evaluation.metrics": "examination",
    "evaluation.save_predictions": "examination",
    "evaluation.sample_prompts": "examination",
    "evaluation.held_out_prompts": "questions",
    "evaluation.max_new_tokens": "generation",
    "evaluation.max_samples": "questions",
    "checkpoints.every_steps": "run",
    "checkpoints.per_epoch": "run",
    "checkpoints.keep": "train",
    "checkpoints.on_termination": "callbacks",
    "checkpoints.resume_from": "start",
    "output.merge_adapter": "publish",
    "output.merge_dtype": "merge",
    "output.retain": "train",
    "output.hub.repository": "hub_push",
    "output.hub.private": "hub_push",
    "output.upload_uri": "delivery",
    "tracking.tensorboard": "tracking",
    "tracking.wandb.project": "wandb_tracker",
    "tracking.wandb.entity": "wandb_tracker",
    "tracking.wandb.name": "wandb_tracker",
    "tracking.wandb.base_url": "wandb_tracker",
    "tracking.wandb.offline": "wandb_tracker",
    "tracking.mlflow.experiment": "mlflow_tracker",
    "tracking.mlflow.tracking_uri": "mlflow_tracker",
    "gpus": "model",
    "nodes": "configuration",
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
    modules = [*TRAINER.glob("*.py"), Path(batches.__file__)]
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
