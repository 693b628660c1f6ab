"""The samples: one for each common way to fine-tune, each with the meaning that its comment gives."""

import re
from collections.abc import Iterator
from typing import Any

import pytest

from sftjob_contract.run import config as run
from sftjob_operator.api import SFTJob, parse_job
from sftjob_operator.api.crd import resource_schema
from sftjob_operator.reconcile.spec.validation import spec_problem
from sftjob_operator.render import method_name, run_config
from support.checks.upstream import options
from support.jobs.builders import UID
from support.jobs.manifests import ROOT, SAMPLES, load_manifest

NAMES = {path.stem for path in SAMPLES}


def sample(name: str) -> SFTJob:
    """A sample as the operator gets it."""
    body = load_manifest(ROOT / "crds" / "samples" / f"{name}.yaml")
    return parse_job({**body, "metadata": {**body["metadata"], "namespace": "team", "uid": UID}})


def text_of(name: str) -> str:
    return (ROOT / "crds" / "samples" / f"{name}.yaml").read_text(encoding="utf-8")


def comment_of(name: str) -> str:
    """The comment that a sample begins with, as one line."""
    lines = text_of(name).partition("apiVersion:")[0].splitlines()
    assert all(line.startswith("# ") for line in lines)
    return " ".join(line.removeprefix("# ") for line in lines)


@pytest.mark.parametrize("name", sorted(NAMES))
def test_a_sample_is_named_like_its_file_begins_with_a_comment_and_can_be_run(name: str) -> None:
    assert comment_of(name).endswith(".")
    assert sample(name).metadata.name == name
    assert spec_problem(sample(name)) is None


@pytest.mark.parametrize("name", sorted(NAMES))
def test_the_comment_names_every_object_that_must_be_there(name: str) -> None:
    spec = load_manifest(ROOT / "crds" / "samples" / f"{name}.yaml")["spec"]
    told = comment_of(name)
    for kind, key in (("secretRef", "name"), ("tokenSecretRef", "name"), ("apiKeySecretRef", "name")):
        for reference in values_of(spec, kind):
            assert f"`{reference[key]}`" in told
    for claim in (*values_of(spec, "existingClaim"), *values_of(spec, "sharedCacheClaim")):
        assert f"`{claim}`" in told


def values_of(value: Any, key: str) -> Iterator[Any]:
    """Every value below `key`, at any depth."""
    if isinstance(value, dict):
        if key in value:
            yield value[key]
        for item in value.values():
            yield from values_of(item, key)
    elif isinstance(value, list):
        for item in value:
            yield from values_of(item, key)


def test_the_readme_lists_every_sample_and_no_other() -> None:
    table = (ROOT / "crds" / "README.md").read_text(encoding="utf-8")
    assert set(re.findall(r"^\| `([a-z0-9-]+)\.yaml` \|", table, re.MULTILINE)) == NAMES


def fields(schema: dict[str, Any], path: str = "") -> Iterator[str]:
    for name, field in schema.get("properties", {}).items():
        yield f"{path}{name}"
        yield from fields(field.get("items", field), f"{path}{name}.")


def given(value: Any, path: str = "") -> Iterator[str]:
    if isinstance(value, list):
        for item in value:
            yield from given(item, path)
    elif isinstance(value, dict):
        for name, item in value.items():
            yield f"{path}{name}"
            yield from given(item, f"{path}{name}.")


def test_together_the_samples_show_every_field_of_the_spec() -> None:
    shown = {path for sample_path in SAMPLES for path in given(load_manifest(sample_path)["spec"])}
    for section in ("columns", "preprocessing", "validation"):  # one model, two places
        places = (f"dataset.{section}", f"dataset.sources.{section}")
        shown |= {path.replace(*pair) for path in shown for pair in (places, places[::-1])}
    assert set(fields(resource_schema()["properties"]["spec"])) - shown == set()


METHODS = [
    ("minimal", "lora", 16),
    ("pod-metadata", "lora", 16),
    ("lora", "lora", 16),
    ("packed-lora", "lora", 16),
    ("qlora", "qlora", 16),
    ("qlora-7b", "qlora", 16),
    ("full", "full", 64),
    ("gpt2", "full", 16),
    ("last-layers", "full", 16),
    ("cpu", "full", 8),
    ("chatml", "lora", 16),
    ("chat-messages", "lora", 16),
    ("max-steps", "lora", 8),
    ("distillation", "full", 16),
    ("evaluation", "lora", 16),
    ("mixed-sources", "lora", 16),
    ("cleaned-data", "lora", 16),
    ("row-template", "lora", 16),
    ("row-function", "lora", 16),
    ("validated-code", "lora", 16),
    ("extra", "lora", 16),
    ("long-context", "lora", 8),
    ("added-tokens", "lora", 16),
    ("resume", "lora", 16),
    ("s3", "lora", 16),
    ("gcs", "lora", 16),
    ("push-to-hub", "lora", 16),
    ("several-gpus", "full", 64),
    ("several-nodes", "lora", 128),
    ("mig-slice", "lora", 16),
    ("kueue", "lora", 16),
    ("existing-claim", "lora", 16),
    ("shared-cache", "lora", 16),
    ("lifecycle", "lora", 16),
    ("private-registry", "lora", 16),
]


@pytest.mark.parametrize(("name", "method", "batch"), METHODS)
def test_method_and_batch_of_one_step(name: str, method: str, batch: int) -> None:
    config = run_config(sample(name))
    devices = max(config.gpus, 1) * config.nodes
    assert method_name(sample(name)) == method
    assert config.training.per_device_batch_size * config.training.gradient_accumulation_steps * devices == batch


def test_method_and_batch_are_told_of_every_sample_that_the_trainer_trains() -> None:
    assert {name for name, _, _ in METHODS} == {name for name in NAMES if sample(name).spec.command is None}


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        (
            "packed-lora",
            {"epochs": 3.0, "learning_rate": 2e-4, "scheduler": "cosine", "warmup_ratio": 0.03, "max_length": 1024}
            | {"packing": True, "optimizer": "adamw_torch", "weight_decay": 0.01, "max_grad_norm": 1.0}
            | {"precision": "bf16", "logging_steps": 10},
        ),
        (
            "qlora",
            {"epochs": 1.0, "learning_rate": 2e-4, "scheduler": "cosine", "warmup_ratio": 0.03, "weight_decay": 0.01}
            | {"optimizer": "paged_adamw_8bit", "gradient_checkpointing": True, "precision": "bf16"},
        ),
        (
            "full",
            {"epochs": 1.0, "learning_rate": 5e-5, "per_device_batch_size": 1, "gradient_accumulation_steps": 64}
            | {"max_length": 1024, "packing": True, "weight_decay": 0.01, "max_grad_norm": 1.0, "precision": "bf16"},
        ),
        (
            "gpt2",
            {"epochs": 5.0, "learning_rate": 2e-5, "per_device_batch_size": 4, "gradient_accumulation_steps": 4}
            | {"max_length": 512, "warmup_ratio": 0.1, "scheduler": "linear", "weight_decay": 0.0},
        ),
        (
            "qlora-7b",
            {"learning_rate": 1e-4, "per_device_batch_size": 1, "gradient_accumulation_steps": 16}
            | {"precision": "fp16", "max_length": 2048},
        ),
        ("chatml", {"epochs": 3.0, "per_device_batch_size": 4, "loss_on": "assistant"}),
        (
            "max-steps",
            {"epochs": None, "max_steps": 1000, "warmup_steps": 100, "warmup_ratio": None, "learning_rate": 2e-5}
            | {"per_device_batch_size": 1, "gradient_accumulation_steps": 8, "gradient_checkpointing": True},
        ),
        ("minimal", {"epochs": 3.0, "learning_rate": 2e-4, "scheduler": "cosine", "warmup_ratio": 0.03}),
    ],
)
def test_hyperparameters_of_the_recipes(name: str, facts: dict[str, object]) -> None:
    training = run_config(sample(name)).training
    assert {key: getattr(training, key) for key in facts} == facts


@pytest.mark.parametrize(
    ("name", "rank", "alpha", "dropout", "modules", "bits"),
    [
        ("packed-lora", 16, 32, 0.05, {"all-linear"}, None),
        ("qlora", 16, 32, 0.05, {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}, 4),
        ("qlora-7b", 64, 128, 0.05, {"q_proj", "k_proj", "v_proj", "o_proj"}, 4),
        ("chatml", 16, 32, 0.05, {"all-linear"}, None),
        ("max-steps", 16, 32, 0.1, {"all-linear"}, None),
    ],
)
def test_adapters_of_the_recipes(
    name: str, rank: int, alpha: int, dropout: float, modules: set[str], bits: int | None
) -> None:
    method = run_config(sample(name)).method
    assert method.lora is not None
    assert (method.lora.rank, method.lora.alpha, method.lora.dropout) == (rank, alpha, dropout)
    assert set(method.lora.target_modules) == modules
    assert (method.quantization and method.quantization.bits) == bits


def test_how_often_the_recipes_evaluate_and_save() -> None:
    packed, full, steps = (run_config(sample(name)) for name in ("packed-lora", "full", "max-steps"))
    assert packed.checkpoints.per_epoch == 1
    assert (full.evaluation.every_steps, full.checkpoints.every_steps) == (200, 500)
    assert full.dataset.evaluation.fraction == 0.05
    assert (steps.checkpoints.every_steps, steps.tracking.wandb and steps.tracking.wandb.project) == (50, "q-sft")


def test_the_chat_of_the_recipes_is_written_in_chatml() -> None:
    config = run_config(sample("chatml"))
    assert config.model.chat_template == run.ChatTemplate(name=run.ChatTemplateName.CHATML, jinja=None, file=None)
    assert [source.format for source in config.dataset.sources] == [run.DataFormat.MESSAGES]


def test_extra_options_exist_in_their_libraries() -> None:
    config = run_config(sample("extra"))
    assert config.method.lora is not None
    assert config.training.extra.keys()
    assert config.method.lora.extra.keys()
    assert config.training.extra.keys() <= options("TRL")
    assert config.method.lora.extra.keys() <= options("PEFT")


def test_numbers_without_quotes_are_numbers() -> None:
    assert run_config(sample("qlora")).training.learning_rate == 2e-4
    assert run_config(sample("max-steps")).training.learning_rate == 2e-5
