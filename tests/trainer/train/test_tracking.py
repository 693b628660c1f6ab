"""TensorBoard's event files hold what metrics.jsonl does, under transformers' names."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.run.config import Metric, RunConfig
from sftjob_contract.run.destinations import Mlflow, Wandb
from sftjob_trainer.preflight.run_config import problems
from sftjob_trainer.reporting.trackers import scalar_name
from support.trainer.tiny import held_out_fraction, run_config
from support.trainer.training import as_died_after, finish, job, read_metrics, run_train


def tracked(config: RunConfig) -> RunConfig:
    return replace(config, tracking=replace(config.tracking, tensorboard=True))


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [
        ("loss", "train/loss"),
        ("learningRate", "train/learning_rate"),
        ("gradNorm", "train/grad_norm"),
        ("tokensPerSecond", "train/tokens_per_second"),
        ("evalLoss", "eval/loss"),
        ("evalExactMatch", "eval/exact_match"),
        ("evalRougeL", "eval/rouge_l"),
    ],
)
def test_names_are_those_of_transformers(ours: str, theirs: str) -> None:
    assert scalar_name(ours) == theirs


def scalars(volume: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar by name, as TensorBoard shows it: steps and values."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(volume / layout.TENSORBOARD))
    events.Reload()
    return {name: [(event.step, event.value) for event in events.Scalars(name)] for name in events.Tags()["scalars"]}


def test_tensorboard_shows_a_resumed_run_as_metrics_tell_it(qwen2: Path, tmp_path: Path) -> None:
    first = finish(tmp_path / "first", tracked(job(qwen2, max_steps=4, save_every=2, evaluate_every=2)))
    volume = as_died_after(2, first, tmp_path / "volume")
    (volume / layout.LOGS).mkdir()
    (first.volume / layout.TENSORBOARD).rename(volume / layout.TENSORBOARD)

    outcome = run_train(volume, first.config, attempt=2)

    assert outcome.exit_code is ExitCode.DONE
    assert len(list((volume / layout.TENSORBOARD).iterdir())) == 2
    told, shown = read_metrics(first.volume), scalars(volume)
    for ours, theirs in (("loss", "train/loss"), ("gradNorm", "train/grad_norm"), ("evalLoss", "eval/loss")):
        assert [step for step, _ in shown[theirs]] == list(told.values(ours))
        assert dict(shown[theirs]) == pytest.approx(told.values(ours), rel=1e-5)


def test_nothing_is_written_unless_asked_for(qwen2: Path, tmp_path: Path) -> None:
    finish(tmp_path, job(qwen2, max_steps=1))

    assert not (tmp_path / layout.TENSORBOARD).exists()


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        (
            {"tracking": {"tensorboard": True}},
            (
                "tracking.tensorboard: true needs the package tensorboard in the trainer's image: install it there, or "
                "remove tracking.tensorboard: true"
            ),
        ),
        (
            {"tracking": {"wandb": Wandb(project="p", entity=None, name="n", base_url=None, offline=True)}},
            (
                "tracking.wandb needs the package wandb in the trainer's image: build it with TRACKERS=wandb "
                "(docs/images.md), or remove tracking.wandb"
            ),
        ),
        (
            {"tracking": {"mlflow": Mlflow(experiment="e", tracking_uri=None)}},
            (
                "tracking.mlflow needs the package mlflow in the trainer's image: build it with TRACKERS=mlflow "
                "(docs/images.md), or remove tracking.mlflow"
            ),
        ),
        (
            {"evaluation": {"metrics": (Metric.BLEU,)}, "dataset": {"evaluation": held_out_fraction(0.1)}},
            (
                "evaluation.metrics: bleu needs the package sacrebleu in the trainer's image: install it there, or "
                "remove evaluation.metrics: bleu"
            ),
        ),
    ],
)
def test_an_image_without_a_package_is_told_before_anything_is_done(
    changes: dict[str, dict[str, Any]], sentence: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = run_config(model="m", dataset="d")
    parts: dict[str, Any] = {part: replace(getattr(config, part), **given) for part, given in changes.items()}
    config = replace(config, **parts)
    assert list(problems(config)) == []

    monkeypatch.setattr("sftjob_trainer.process.image.find_spec", lambda _name: None)

    assert list(problems(config)) == [sentence]
