"""Defaults that depend on other fields are resolved in the run config."""

import pytest

from sftjob_contract.codec import from_json, to_json
from sftjob_contract.config import RunConfig, Scheduler
from sftjob_operator.api import MethodName
from sftjob_operator.render import config_hash, method_name, run_config
from support.builders import JobBuilder, a_job


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


def test_the_hash_is_of_the_config_and_nothing_else() -> None:
    plain = config_hash(run_config(a_job().build()))
    assert plain == config_hash(run_config(a_job().scheduling(node_selector={"a": "b"}).build()))
    assert plain != config_hash(run_config(a_job().training(seed=1).build()))
    assert len(plain) == 64
