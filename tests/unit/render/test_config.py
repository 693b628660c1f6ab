"""Defaults that depend on other fields are resolved in the run config."""

import json
from dataclasses import replace
from typing import Any

import pytest

from sftjob_contract.codec import from_json, to_json
from sftjob_contract.run.config import (
    DataFormat,
    Preprocessing,
    RowFunction,
    RowTemplate,
    RunConfig,
    Syntax,
    Validation,
)
from sftjob_contract.run.optimization import Scheduler
from sftjob_operator.api import MethodName, parse_job
from sftjob_operator.render import config_hash, method_name, run_config
from support.jobs.builders import JobBuilder, a_job
from support.stacks.version_skew import PREVIOUS, Previous


@pytest.mark.parametrize(
    ("job", "epochs", "max_steps"),
    [
        (a_job(), 3.0, None),
        (a_job().training(epochs=0.5), 0.5, None),
        (a_job().training(max_steps=7), None, 7),
    ],
)
def test_exactly_one_of_epochs_and_max_steps_is_set(job: JobBuilder, epochs: float, max_steps: int) -> None:
    training = run_config(job.build()).training
    assert (training.epochs, training.max_steps) == (epochs, max_steps)


@pytest.mark.parametrize(
    ("job", "learning_rate"),
    [
        (a_job().lora(), 2e-4),
        (a_job().qlora(), 2e-4),
        (a_job().full(), 2e-5),
        (a_job().full().training(learning_rate=1e-3), 1e-3),
    ],
)
def test_the_learning_rate_follows_the_method(job: JobBuilder, learning_rate: float) -> None:
    assert run_config(job.build()).training.learning_rate == learning_rate


@pytest.mark.parametrize(
    ("job", "ratio", "steps"),
    [
        (a_job(), 0.03, None),
        (a_job().training(warmup_ratio=0), 0.0, None),
        (a_job().training(warmup_steps=5), None, 5),
        (a_job().training(scheduler=Scheduler.CONSTANT), None, None),
    ],
)
def test_at_most_one_kind_of_warmup_is_set(job: JobBuilder, ratio: float | None, steps: int | None) -> None:
    training = run_config(job.build()).training
    assert (training.warmup_ratio, training.warmup_steps) == (ratio, steps)


@pytest.mark.parametrize(
    ("job", "name"),
    [(a_job().full(), MethodName.FULL), (a_job().lora(), MethodName.LORA), (a_job().qlora(), MethodName.QLORA)],
)
def test_the_method_in_one_word(job: JobBuilder, name: MethodName) -> None:
    assert method_name(job.build()) is name


def test_the_trainer_reads_back_what_the_operator_wrote() -> None:
    config = run_config(a_job().qlora().training(max_steps=3).dataset("/d", max_samples=9).build())
    assert from_json(RunConfig, to_json(config), ignore_unknown=False) == config


@pytest.mark.parametrize("previous", PREVIOUS, ids=lambda previous: previous.job["metadata"]["name"])
def test_a_spec_of_the_previous_version_becomes_a_run_config_that_its_trainer_reads(previous: Previous) -> None:
    """That trainer refuses keys that it does not know: a new one is left out while it has its default."""
    assert to_json(run_config(parse_job(previous.job))) == previous.config


def test_the_hash_is_of_the_config_and_nothing_else() -> None:
    plain = config_hash(run_config(a_job().build()))
    assert plain == config_hash(run_config(a_job().scheduling(node_selector={"a": "b"}).build()))
    assert plain != config_hash(run_config(a_job().training(seed=1).build()))
    assert len(plain) == 64


@pytest.mark.parametrize(
    ("job", "steps"),
    [
        (a_job(), 4),
        (a_job().training(gradient_accumulation_steps=7), 7),
        (a_job().training(global_batch_size=64, per_device_batch_size=2), 32),
        (a_job().training(global_batch_size=64, per_device_batch_size=2).resources(gpus=4, nodes=2), 4),
        (a_job().training(global_batch_size=8, per_device_batch_size=2).resources(gpus=0), 4),
    ],
)
def test_accumulation_is_what_the_global_batch_needs(job: JobBuilder, steps: int) -> None:
    assert run_config(job.build()).training.gradient_accumulation_steps == steps


@pytest.mark.parametrize(
    ("source", "resolved"),
    [
        ("acme/base", "hf://acme/base"),
        ("hf://acme/base", "hf://acme/base"),
        ("pvc://models/base", "pvc://models/base"),
        ("s3://models/base", "s3://models/base"),
        ("/models/base", "/models/base"),
    ],
)
def test_a_bare_name_is_one_of_the_hub(source: str, resolved: str) -> None:
    config = run_config(a_job().model(source).dataset(source, evaluation={"source": source}).build())
    assert config.model.source == config.dataset.sources[0].source == config.dataset.evaluation.source == resolved


def test_a_single_source_is_a_list_of_one() -> None:
    config = run_config(a_job().dataset("acme/rows", revision="a", subset="b", split="c", max_samples=5).build())
    (part,) = config.dataset.sources
    assert (part.source, part.revision, part.subset, part.split) == ("hf://acme/rows", "a", "b", "c")
    assert (part.max_samples, part.weight) == (5, 1.0)


def test_a_part_of_the_data_has_the_format_and_columns_of_the_whole_unless_it_names_its_own() -> None:
    parts = [{"source": "/a"}, {"source": "/b", "format": "alpaca", "columns": {"output": "answer"}}]
    data = {"sources": parts, "format": "messages", "columns": {"messages": "chat"}}
    first, second = run_config(a_job().set("dataset", data).build()).dataset.sources
    assert (first.format, first.columns.messages) == (DataFormat.MESSAGES, "chat")
    assert (second.format, second.columns.messages, second.columns.output) == (DataFormat.ALPACA, "chat", "answer")


def test_a_part_of_the_data_is_preprocessed_and_validated_like_the_whole_unless_it_says_otherwise() -> None:
    own = {"preprocessing": {"template": {"text": "own"}}, "validation": {"syntax": "yaml"}}
    whole = {"preprocessing": {"template": {"text": "whole"}}, "validation": {"regex": "a"}}
    data = {"sources": [{"source": "/a"}, {"source": "/b", **own}], **whole}
    first, second = run_config(a_job().set("dataset", data).build()).dataset.sources
    template = RowTemplate(text="whole", prompt=None, completion=None)
    assert first.preprocessing == Preprocessing(template=template, function=None)
    assert second.preprocessing == Preprocessing(template=replace(template, text="own"), function=None)
    checks = Validation(column=None, regex="a", syntax=None, command=(), timeout_seconds=10)
    assert first.validation == checks
    assert second.validation == replace(checks, regex=None, syntax=Syntax.YAML)


def test_a_function_has_the_usual_name_unless_it_is_given_one() -> None:
    function = {"configMapKeyRef": {"name": "rows", "key": "rows.py"}}
    (part,) = run_config(a_job().dataset("/d", preprocessing={"function": function}).build()).dataset.sources
    file = "rows/rows.py"
    assert part.preprocessing == Preprocessing(template=None, function=RowFunction(file=file, name="preprocess"))


@pytest.mark.parametrize(
    ("options", "most"),
    [({}, 0), ({"on_invalid_row": "Skip"}, 100), ({"on_invalid_row": "Skip", "max_invalid_rows": 5}, 5)],
)
def test_how_many_invalid_rows_may_be_left_out(options: dict[str, Any], most: int) -> None:
    assert run_config(a_job().dataset("/d", **options).build()).dataset.max_invalid_rows == most


def test_rows_are_shuffled_with_the_seed_of_training_unless_they_have_their_own() -> None:
    assert run_config(a_job().training(seed=7).build()).dataset.shuffle_seed == 7
    assert run_config(a_job().training(seed=7).dataset("/d", shuffle_seed=0).build()).dataset.shuffle_seed == 0


@pytest.mark.parametrize("section", ["evaluation", "checkpoints"])
@pytest.mark.parametrize(
    ("given", "every_steps", "per_epoch"),
    [({}, None, 1), ({"everySteps": 50}, 50, None), ({"perEpoch": 4}, None, 4)],
)
def test_evaluations_and_checkpoints_come_once_per_epoch_unless_asked_for(
    section: str, given: dict[str, int], every_steps: int | None, per_epoch: int | None
) -> None:
    rendered = getattr(run_config(a_job().set(section, given).build()), section)
    assert (rendered.every_steps, rendered.per_epoch) == (every_steps, per_epoch)


@pytest.mark.parametrize(
    ("given", "uri"),
    [
        ({"sftJob": "older"}, "pvc://older/checkpoints"),
        ({"sftJob": "older", "step": 500}, "pvc://older/checkpoints/checkpoint-500"),
        ({"source": "pvc://kept/run/checkpoint-5"}, "pvc://kept/run/checkpoint-5"),
        ({"source": "s3://kept/checkpoint-5"}, "s3://kept/checkpoint-5"),
    ],
)
def test_where_a_run_starts_from(given: dict[str, Any], uri: str) -> None:
    assert run_config(a_job().checkpoints(resume_from=given).build()).checkpoints.resume_from == uri
    assert run_config(a_job().build()).checkpoints.resume_from is None


def test_a_tracked_run_is_named_after_the_job_and_stays_here_without_a_key() -> None:
    key = {"name": "wandb", "key": "k"}
    offline = run_config(a_job("demo").set("tracking.wandb", {"project": "p"}).build()).tracking.wandb
    named = {"project": "p", "name": "mine", "apiKeySecretRef": key}
    online = run_config(a_job("demo").set("tracking.wandb", named).build()).tracking.wandb
    assert offline is not None
    assert online is not None
    assert (offline.name, offline.offline) == ("team/demo", True)
    assert (online.name, online.offline) == ("mine", False)


def test_nothing_is_tracked_or_sent_anywhere_by_default() -> None:
    config = run_config(a_job().build())
    assert (config.tracking.tensorboard, config.tracking.wandb, config.tracking.mlflow) == (False, None, None)
    assert (config.output.hub, config.output.upload_uri) == (None, None)


def test_the_default_of_existing_content_is_not_written_so_that_older_trainers_read_the_config() -> None:
    encoded = json.loads(to_json(run_config(a_job().storage(existing_claim="team").build())))
    assert "existingContent" not in encoded
    assert from_json(RunConfig, json.dumps(encoded), ignore_unknown=False).existing_content is None


def test_moving_existing_content_aside_is_written_so_that_a_trainer_that_cannot_do_it_refuses() -> None:
    config = run_config(a_job().storage(existing_content="MoveAside").build())
    assert json.loads(to_json(config))["existingContent"] == "MoveAside"
    assert from_json(RunConfig, to_json(config), ignore_unknown=False) == config
