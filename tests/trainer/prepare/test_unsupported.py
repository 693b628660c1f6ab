"""No option is ever ignored: each is read by a module of the trainer, or refused by name before a GPU is held."""

import ast
import json
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from enum import StrEnum
from functools import cache
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest

import sftjob_trainer
from sftjob_contract import config as run
from sftjob_contract.codec import encode
from sftjob_contract.destinations import HubRepository, Mlflow, Retain, Wandb
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import Reason
from sftjob_trainer.configuration import problems, read_config
from sftjob_trainer.failure import Failure
from sftjob_trainer.unsupported import unsupported
from support.tiny import held_out_source, lora, run_config

QLORA = run.Quantization(
    bits=4, type=run.QuantizationType.NF4, double_quantization=True, compute_dtype=run.ComputeDtype.BFLOAT16
)
GOOD = run_config(model="/model", dataset="/data.jsonl", method=lora(quantization=QLORA))

READ = {
    "model.source": "sources",
    "model.revision": "sources",
    "model.trust_remote_code": "model",
    "dataset.sources.source": "prepare",
    "dataset.sources.revision": "prepare",
    "dataset.sources.format": "sequences",
    "dataset.sources.max_samples": "prepare",
    "dataset.sources.columns.text": "shapes",
    "dataset.sources.columns.prompt": "shapes",
    "dataset.sources.columns.completion": "shapes",
    "dataset.sources.columns.messages": "shapes",
    "dataset.shuffle_seed": "prepare",
    "dataset.evaluation.fraction": "prepare",
    "dataset.evaluation.source": "prepare",
    "method.lora.rank": "model",
    "method.lora.alpha": "model",
    "method.lora.dropout": "model",
    "method.lora.target_modules": "model",
    "method.quantization.bits": "model",
    "method.quantization.type": "model",
    "method.quantization.double_quantization": "model",
    "method.quantization.compute_dtype": "model",
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
    "training.precision": "model",
    "training.gradient_checkpointing": "arguments",
    "training.seed": "arguments",
    "training.logging_steps": "arguments",
    "evaluation.every_steps": "run",
    "evaluation.per_epoch": "run",
    "checkpoints.every_steps": "run",
    "checkpoints.per_epoch": "run",
    "checkpoints.keep": "train",
    "gpus": "model",
    "nodes": "configuration",
}
"""Options that this trainer has, and the module that reads each."""

NEEDED_BY = {
    "dataset.sources.columns.instruction": ("dataset.sources.format",),
    "dataset.sources.columns.input": ("dataset.sources.format",),
    "dataset.sources.columns.output": ("dataset.sources.format",),
    "dataset.sources.columns.conversations": ("dataset.sources.format",),
    "dataset.sources.columns.system": ("dataset.sources.format",),
    "dataset.max_invalid_rows": ("dataset.on_invalid_row",),
    "evaluation.max_new_tokens": ("evaluation.metrics", "evaluation.save_predictions", "evaluation.sample_prompts"),
    "evaluation.max_samples": ("evaluation.metrics", "evaluation.save_predictions"),
}
"""Options that say something only together with others, all of which are refused."""

IDENTITY = {"version", "job"}
"""What says whose run it is, and is no option."""

ASKED_FOR: list[tuple[str, Any, str]] = [
    ("model.source", "s3://models/base", "model.source: s3://models/base"),
    ("model.dtype", run.ModelDtype.BFLOAT16, "model.dtype: bfloat16"),
    ("model.attention", run.Attention.SDPA, "model.attention: sdpa"),
    ("model.chat_template", run.ChatTemplate(name=None, jinja="{{ 1 }}", file=None), "model.chatTemplate"),
    ("model.add_eos_token", False, "model.addEosToken: false"),
    ("model.padding_side", run.PaddingSide.LEFT, "model.paddingSide: left"),
    ("dataset.sources", GOOD.dataset.sources * 2, "dataset.sources"),
    ("dataset.sources.source", "gs://data/train.jsonl", "dataset.source: gs://data/train.jsonl"),
    ("dataset.sources.subset", "main", "dataset.subset: main"),
    ("dataset.sources.split", "train", "dataset.split: train"),
    ("dataset.sources.format", run.DataFormat.ALPACA, "dataset.format: alpaca"),
    ("dataset.sources.weight", 0.5, "dataset.sources.weight: 0.5"),
    ("dataset.deduplicate", True, "dataset.deduplicate: true"),
    ("dataset.min_tokens", 8, "dataset.minTokens: 8"),
    ("dataset.max_tokens", 8, "dataset.maxTokens: 8"),
    ("dataset.on_invalid_row", run.OnInvalidRow.SKIP, "dataset.onInvalidRow: Skip"),
    (
        "dataset.evaluation",
        run.HeldOut(fraction=None, split="test", source=None),
        "dataset.evaluation.split: test",
    ),
    ("dataset.evaluation", held_out_source("https://a.b/c"), "dataset.evaluation.source: https://a.b/c"),
    ("method.lora.bias", run.LoraBias.ALL, "method.lora.bias: all"),
    ("method.lora.rslora", True, "method.lora.rslora: true"),
    ("method.lora.dora", True, "method.lora.dora: true"),
    ("method.lora.modules_to_save", ("lm_head",), "method.lora.modulesToSave: lm_head"),
    ("method.lora.extra", {"layer_replication": []}, "method.lora.extra: layer_replication"),
    (
        "method.distillation",
        run.Distillation(teacher=run.Teacher(source="/t", revision=None), temperature=3.0, alpha=0.7),
        "method.distillation",
    ),
    ("training.scheduler", run.Scheduler.POLYNOMIAL, "training.scheduler: polynomial"),
    ("training.optimizer", run.Optimizer.ADAFACTOR, "training.optimizer: adafactor"),
    ("training.packing_strategy", run.PackingStrategy.WRAPPED, "training.packingStrategy: wrapped"),
    ("training.loss_on", run.LossOn.ALL, "training.lossOn: all"),
    ("training.precision", run.Precision.FP16, "training.precision: fp16"),
    ("training.neftune_noise_alpha", 5.0, "training.neftuneNoiseAlpha: 5.0"),
    ("training.kernels", run.Kernels.LIGER, "training.kernels: liger"),
    ("training.compile", True, "training.compile: true"),
    ("training.early_stopping", run.EarlyStopping(patience=3, threshold=0.0), "training.earlyStopping"),
    ("training.extra", {"adam_beta2": 0.95, "tf32": True}, "training.extra: adam_beta2, tf32"),
    ("evaluation.metrics", (run.Metric.BLEU, run.Metric.ROUGE), "evaluation.metrics: bleu, rouge"),
    ("evaluation.save_predictions", True, "evaluation.savePredictions: true"),
    ("evaluation.sample_prompts", ("Hello?",), "evaluation.samplePrompts"),
    ("checkpoints.on_termination", False, "checkpoints.onTermination: false"),
    ("checkpoints.resume_from", "pvc://other/checkpoints", "checkpoints.resumeFrom: pvc://other/checkpoints"),
    ("output.merge_adapter", True, "output.mergeAdapter: true"),
    ("output.hub", HubRepository(repository="a/b", private=True), "output.hub"),
    ("output.upload_uri", "s3://bucket/out", "output.upload"),
    ("output.retain", Retain.OUTPUT, "output.retain: Output"),
    ("tracking.tensorboard", True, "tracking.tensorboard: true"),
    (
        "tracking.wandb",
        Wandb(project="p", entity=None, name="n", base_url=None, offline=True),
        "tracking.wandb",
    ),
    ("tracking.mlflow", Mlflow(experiment="e", tracking_uri=None), "tracking.mlflow"),
    ("gpus", 2, "resources.gpus: 2"),
    ("nodes", 2, "resources.nodes: 2"),
]
"""Options that this trainer does not have, a value that asks for each, and how the sentence begins."""

KNOWN_CHOICES: dict[str, set[str]] = {
    "model.dtype": {"auto"},
    "model.attention": {"auto"},
    "model.padding_side": {"right"},
    "dataset.sources.format": {"auto", "text", "prompt-completion", "messages"},
    "dataset.on_invalid_row": {"Fail"},
    "method.lora.bias": {"none"},
    "method.quantization.type": {"nf4", "fp4"},
    "method.quantization.compute_dtype": {"bfloat16", "float16", "float32"},
    "training.scheduler": {"linear", "cosine", "constant", "constant_with_warmup"},
    "training.optimizer": {"adamw_torch", "adamw_torch_fused", "adamw_8bit", "paged_adamw_8bit"},
    "training.packing_strategy": {"bfd"},
    "training.loss_on": set(),
    "training.precision": {"auto", "bf16", "fp32"},
    "training.kernels": {"auto", "none"},
    "evaluation.metrics": set(),
    "output.retain": {"All"},
}
"""Values of every choice that this trainer has; it refuses all others."""

REFUSED = {path for path, _, _ in ASKED_FOR}


def types_in(hint: Any) -> Iterator[type]:
    """Classes that a type hint is made of: X of `X | None` and `tuple[X, ...]`."""
    arguments = get_args(hint)
    if isinstance(hint, type) and not arguments:
        yield hint
    for argument in arguments:
        yield from types_in(argument)


def options(class_: type, path: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted path and type hint of every option; an object that is refused as a whole is one."""
    hints = get_type_hints(class_)
    for field in fields(class_):
        at = f"{path}{field.name}"
        if at in IDENTITY:
            continue
        nested = [part for part in types_in(hints[field.name]) if is_dataclass(part)]
        whole = at in REFUSED and at not in {"dataset.sources", "dataset.evaluation"}
        if nested and not whole:
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
    """A copy of `config` with one option changed; that of a source is changed in each of them."""
    head, _, rest = path.partition(".")
    if not rest:
        return replace(config, **{head: value})
    inner = getattr(config, head)
    changed = tuple(with_value(item, rest, value) for item in inner) if isinstance(inner, tuple) else None
    return replace(config, **{head: changed if changed is not None else with_value(inner, rest, value)})


@cache
def attributes_read_in(module: str) -> frozenset[str]:
    """Names of all attributes that a module of the trainer reads."""
    source = Path(str(sftjob_trainer.__file__)).with_name(f"{module}.py").read_text(encoding="utf-8")
    return frozenset(node.attr for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Attribute))


def test_a_config_of_what_the_trainer_has_is_taken() -> None:
    assert list(problems(GOOD)) == []


def test_every_option_is_read_or_refused_or_needed_by_one_that_is_refused() -> None:
    refused = {path for path in REFUSED if path in OPTIONS} | {"dataset.evaluation.split"}
    assert set(OPTIONS) - set(READ) - set(NEEDED_BY) - refused == set()
    assert (set(READ) | set(NEEDED_BY)) - set(OPTIONS) == set()
    assert not set(READ) & set(NEEDED_BY)


@pytest.mark.parametrize(("path", "module"), READ.items())
def test_the_named_module_reads_the_option(path: str, module: str) -> None:
    assert path.rpartition(".")[2] in attributes_read_in(module)


@pytest.mark.parametrize(("path", "needed"), NEEDED_BY.items())
def test_what_an_option_is_for_is_refused(path: str, needed: tuple[str, ...]) -> None:
    assert path not in READ
    assert set(needed) <= REFUSED


@pytest.mark.parametrize(("path", "value", "named"), ASKED_FOR, ids=[named for _, _, named in ASKED_FOR])
def test_an_option_that_is_not_there_is_refused_by_name_and_what_to_write_is_told(
    path: str, value: Any, named: str
) -> None:
    sentences = set(unsupported(with_value(GOOD, path, value)))
    assert len(sentences) == 1, sentences
    refused, _, instead = sentences.pop().partition(" is not supported by this trainer: ")
    assert refused == named
    assert instead.partition(" ")[0] in {"write", "remove", "copy", "convert", "name"}


@pytest.mark.parametrize(("path", "choice"), CHOICES, ids=[f"{path}-{choice}" for path, choice in CHOICES])
def test_of_a_choice_the_known_values_are_taken_and_all_others_refused(path: str, choice: StrEnum) -> None:
    value = (choice,) if path == "evaluation.metrics" else choice
    refused = list(unsupported(with_value(GOOD, path, value)))
    assert bool(refused) == (choice not in KNOWN_CHOICES[path])


def test_several_options_that_are_not_there_are_all_named() -> None:
    config = with_value(with_value(GOOD, "method.lora.dora", True), "output.merge_adapter", True)
    assert [sentence.partition(":")[0] for sentence in unsupported(config)] == [
        "method.lora.dora",
        "output.mergeAdapter",
    ]


def test_the_run_ends_before_anything_is_fetched(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(encode(with_value(GOOD, "gpus", 4))))
    with pytest.raises(Failure, match=r"resources\.gpus: 4 is not supported by this trainer: write 1$") as raised:
        read_config(path)
    assert raised.value.reason is Reason.CONFIG_INVALID
    assert raised.value.exit_code is ExitCode.INVALID
