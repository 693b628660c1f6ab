"""The evaluation loss is the mean over tokens: how rows are batched or packed does not matter."""

from pathlib import Path

import pytest

from support.trainer.training import build_trainer, job


def test_the_evaluation_loss_does_not_depend_on_how_rows_are_batched(qwen2: Path, tmp_path: Path) -> None:
    layouts = [
        *({"per_device_batch_size": size} for size in (1, 3, 7)),
        {"per_device_batch_size": 2, "packing": True},
    ]

    losses = [
        build_trainer(tmp_path / str(number), job(qwen2, max_steps=1, **options)).evaluate()["eval_loss"]
        for number, options in enumerate(layouts)
    ]

    assert losses == pytest.approx([losses[0]] * len(losses), abs=1e-6)


def test_transformers_own_evaluation_loss_does_depend_on_it(qwen2: Path, tmp_path: Path) -> None:
    """Once this fails, evaluation.Trainer has nothing left to correct."""
    from trl import SFTTrainer

    losses = []
    for size in (1, 7):
        trainer = build_trainer(tmp_path / str(size), job(qwen2, max_steps=1, per_device_batch_size=size))
        loop = SFTTrainer.evaluation_loop(trainer, trainer.get_eval_dataloader(), "", prediction_loss_only=True)
        losses.append(loop.metrics["eval_loss"])

    assert abs(losses[0] - losses[1]) > 1e-4


def test_an_evaluation_that_is_broken_off_has_no_loss(qwen2: Path, tmp_path: Path) -> None:
    trainer = build_trainer(tmp_path, job(qwen2, max_steps=1, per_device_batch_size=2))
    asked = iter([False, True, True, True])
    trainer._is_interrupted = lambda: next(asked)

    assert "eval_loss" not in trainer.evaluate()
