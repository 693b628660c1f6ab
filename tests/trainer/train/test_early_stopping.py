"""A run that stops when evaluations get no better: it is a success, and its best model is the output."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reports.progress import Activity
from sftjob_contract.run.config import EarlyStopping, Metric, RunConfig
from sftjob_contract.run.optimization import Scheduler
from sftjob_trainer.preflight.run_config import problems
from sftjob_trainer.reporting.telemetry import SavedTelemetry, Telemetry
from support.trainer.tiny import run_config
from support.trainer.training import Finished, as_died_after, documents, finish, job, read_metrics, run_train


def telemetry(patience: int, threshold: float = 0.0) -> Telemetry:
    return Telemetry(
        attempt=1,
        max_steps=100,
        clock=lambda: 0.0,
        now=lambda: datetime(2026, 1, 1, tzinfo=UTC),
        early_stopping=EarlyStopping(patience=patience, threshold=threshold),
    )


@pytest.mark.parametrize(
    ("patience", "threshold", "losses", "stops_after"),
    [
        (1, 0.0, [3.0, 2.0, 2.5], 3),
        (2, 0.0, [3.0, 2.0, 2.5, 1.9, 2.0, 2.0], 6),
        (2, 0.0, [3.0, 2.0, 2.0, 2.0], 4),
        (2, 0.5, [3.0, 2.4, 2.0, 1.8, 1.6, 1.4], 4),
        (3, 0.0, [3.0, 2.0, 1.0, 0.5], None),
        (1, 0.0, [3.0, 4.0], 2),
    ],
)
def test_it_stops_after_as_many_evaluations_as_it_waits_for_without_a_better_one(
    patience: int, threshold: float, losses: list[float], stops_after: int | None
) -> None:
    state = telemetry(patience, threshold)

    stopped = []
    for step, loss in enumerate(losses):
        state.record_evaluation(step, loss)
        stopped.append(state.stopped_early)

    assert stopped == [stops_after is not None and count >= stops_after for count in range(1, len(losses) + 1)]


def test_a_resumed_attempt_goes_on_counting() -> None:
    first, second = telemetry(2), telemetry(2)
    first.record_evaluation(0, 1.0)
    first.record_evaluation(1, 1.5)
    second.resume(first.saved())
    second.record_evaluation(2, 1.4)

    assert second.stopped_early
    assert second.progress().eta_seconds == 0


def test_without_early_stopping_nothing_stops() -> None:
    state = Telemetry(attempt=1, max_steps=9, clock=lambda: 0.0, now=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    for step in range(5):
        state.record_evaluation(step, 1.0 + step)

    assert (state.stopped_early, state.ended) == (False, False)


def rising(model: Path, **options: Any) -> RunConfig:
    """A run whose loss rises at every step, so that the first evaluation after training began is the best."""
    return job(
        model,
        evaluate_every=1,
        save_every=100,
        keep=1,
        max_steps=20,
        learning_rate=1.0,
        warmup_ratio=None,
        scheduler=Scheduler.CONSTANT,
        early_stopping=EarlyStopping(patience=3, threshold=0.0),
        **options,
    )


@pytest.fixture(scope="module")
def stopped(qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    return finish(tmp_path_factory.mktemp("stopped"), rising(qwen2))


def test_it_ends_as_a_success_at_the_step_where_it_stopped(stopped: Finished) -> None:
    state = stopped.outcome.progress

    assert stopped.outcome.exit_code is ExitCode.DONE
    assert state is not None
    assert (state.step, state.max_steps, state.activity) == (3, 20, Activity.FINISHED)
    assert state.eta_seconds == 0
    assert [point.step for point in state.history if point.eval_loss is not None] == [0, 1, 2, 3]


def test_the_best_model_has_a_checkpoint_however_seldom_they_are_taken_and_is_the_output(stopped: Finished) -> None:
    state, output = stopped.outcome.progress, stopped.outcome.output
    losses = read_metrics(stopped.volume).values("evalLoss")
    assert state is not None
    assert output is not None

    assert state.best_step == 1 == min((1, 2, 3), key=lambda step: losses[step])
    assert [checkpoint.step for checkpoint in state.checkpoints] == [1, 3]
    name = "model.safetensors"
    best = stopped.volume / layout.CHECKPOINTS / "checkpoint-1" / name
    assert (stopped.volume / layout.OUTPUT_MODEL / name).read_bytes() == best.read_bytes()
    assert output.metrics["evalLoss"] == losses[1]
    assert output.metrics["initialEvalLoss"] == losses[0]
    assert json.loads((stopped.volume / layout.EVAL_RESULTS).read_text())["evalLoss"] == losses[1]


def test_an_attempt_after_the_stop_only_finishes(stopped: Finished, tmp_path: Path) -> None:
    volume = as_died_after(3, stopped, tmp_path / "volume")

    outcome = run_train(volume, stopped.config, attempt=2)

    assert outcome.exit_code is ExitCode.DONE
    assert outcome.output == stopped.outcome.output
    assert outcome.progress is not None
    assert (outcome.progress.step, outcome.progress.resumed_from_step) == (3, 3)
    assert not (volume / layout.METRICS).exists()


def test_an_attempt_that_died_before_stops_at_the_same_step(stopped: Finished, tmp_path: Path) -> None:
    volume = as_died_after(1, stopped, tmp_path / "volume")

    outcome = run_train(volume, stopped.config, attempt=2)

    assert outcome.progress is not None
    assert (outcome.progress.step, outcome.progress.resumed_from_step) == (3, 1)
    assert outcome.output is not None
    assert stopped.outcome.output is not None
    assert outcome.output.metrics["evalLoss"] == stopped.outcome.output.metrics["evalLoss"]


def test_a_best_checkpoint_that_is_damaged_gives_way_to_the_last(stopped: Finished, tmp_path: Path) -> None:
    volume = as_died_after(3, stopped, tmp_path / "volume")
    weights = volume / layout.CHECKPOINTS / "checkpoint-1" / "model.safetensors"
    data = bytearray(weights.read_bytes())
    data[-1] ^= 1
    weights.write_bytes(data)

    outcome = run_train(volume, stopped.config, attempt=2)

    assert outcome.output is not None
    assert outcome.output.metrics["evalLoss"] == read_metrics(stopped.volume).values("evalLoss")[3]
    last = volume / layout.CHECKPOINTS / "checkpoint-3" / "model.safetensors"
    assert (volume / layout.OUTPUT_MODEL / "model.safetensors").read_bytes() == last.read_bytes()


def test_a_run_that_gets_better_to_the_end_is_not_stopped(qwen2: Path, tmp_path: Path) -> None:
    config = job(
        qwen2,
        evaluate_every=2,
        max_steps=6,
        learning_rate=1e-2,
        early_stopping=EarlyStopping(patience=1, threshold=0.0),
    )

    outcome = finish(tmp_path, config).outcome

    assert outcome.progress is not None
    assert (outcome.progress.step, outcome.progress.best_step) == (6, 6)


def test_answers_and_predictions_are_those_of_the_best_model(qwen2: Path, tmp_path: Path) -> None:
    """It gets better at first and worse in the end, so some answers are written that later ones replace."""
    config = job(
        qwen2,
        evaluate_every=1,
        max_steps=12,
        learning_rate=0.3,
        warmup_ratio=None,
        warmup_steps=10,
        early_stopping=EarlyStopping(patience=2, threshold=0.0),
    )
    config = replace(
        config,
        evaluation=replace(
            config.evaluation, metrics=(Metric.PERPLEXITY,), save_predictions=True, sample_prompts=("open a file",)
        ),
    )

    outcome = finish(tmp_path, config).outcome

    assert outcome.progress is not None
    assert outcome.output is not None
    best, last = outcome.progress.best_step, outcome.progress.step
    assert best is not None
    assert 1 < best < last
    samples = [json.loads(line) for line in (tmp_path / layout.SAMPLES).read_text().splitlines()]
    assert [line["step"] for line in samples] == [0, best]
    metrics = read_metrics(tmp_path)
    assert outcome.output.metrics["evalPerplexity"] == metrics.values("evalPerplexity")[best]
    predicted = [json.loads(line)["prediction"] for line in (tmp_path / layout.PREDICTIONS).read_text().splitlines()]
    assert predicted == answers_of(tmp_path / layout.OUTPUT_MODEL)


def answers_of(model: Path) -> list[str]:
    """What a model answers to the held-out rows, one at a time."""
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded, tokenizer = AutoModelForCausalLM.from_pretrained(model).eval(), AutoTokenizer.from_pretrained(model)
    answers = []
    for ids in documents(7, seed=2)[:4]:
        prompt = torch.tensor([ids[:2]])
        found = loaded.generate(
            prompt, attention_mask=torch.ones_like(prompt), max_new_tokens=16, do_sample=False, eos_token_id=2
        )
        answers.append(tokenizer.decode(found[0, 2:], skip_special_tokens=True).strip())
    return answers


def test_it_needs_held_out_data() -> None:
    config = run_config(model="m", dataset="d", early_stopping=EarlyStopping(patience=1, threshold=0.0))

    assert list(problems(config)) == [
        "training.earlyStopping needs held-out data: set dataset.evaluation, or remove training.earlyStopping"
    ]
    fraction = replace(config.dataset, evaluation=replace(config.dataset.evaluation, fraction=0.1))
    assert list(problems(replace(config, dataset=fraction))) == []


def test_a_checkpoint_of_an_older_trainer_still_says_enough() -> None:
    state = telemetry(1)
    state.resume(SavedTelemetry(step=4, eval_loss=2.0, evaluated_step=4))
    state.record_evaluation(5, 2.5)

    assert not state.stopped_early
