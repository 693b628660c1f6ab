"""Stopped by SIGTERM again and again, a run takes the very steps of one that nobody stopped."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_trainer.reporting.telemetry import Telemetry
from sftjob_trainer.run.checkpoints import CheckpointStore
from support.trainer.tiny import lora
from support.trainer.training import PEFT_IS_BEHIND, finish, job, read_metrics, run_train, write_prepared
from support.trainer.weights import assert_same_weights

pytestmark = PEFT_IS_BEHIND
DROPOUT = lora(rank=4, dropout=0.2, target_modules=("q_proj", "v_proj"))
COMPARED = ("loss", "gradNorm", "learningRate", "evalLoss", "tokens")


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


def in_step(step: int, patch: pytest.MonkeyPatch) -> None:
    """In the forward pass of a step: it is finished first."""
    from sftjob_trainer.training.sft_trainer import Trainer

    compute_loss = Trainer.compute_loss

    def computed(self: Any, *arguments: Any, **options: Any) -> Any:
        if self.state.global_step == step - 1 and self.model.training:
            terminate()
        return compute_loss(self, *arguments, **options)

    patch.setattr(Trainer, "compute_loss", computed)


def at_step_edge(step: int, patch: pytest.MonkeyPatch) -> None:
    """Between two steps, twice."""
    step_ended = Telemetry.end_step

    def ended(self: Telemetry, number: int, epoch: float) -> None:
        step_ended(self, number, epoch)
        if number == step:
            terminate()
            terminate()

    patch.setattr(Telemetry, "end_step", ended)


def in_evaluation(step: int, patch: pytest.MonkeyPatch) -> None:
    """In the first batch of an evaluation: the rest is passed over."""
    from sftjob_trainer.training.sft_trainer import Trainer

    prediction_step = Trainer.prediction_step

    def predicted(self: Any, *arguments: Any, **options: Any) -> Any:
        if self.state.global_step == step:
            terminate()
        return prediction_step(self, *arguments, **options)

    patch.setattr(Trainer, "prediction_step", predicted)


def in_save(step: int, patch: pytest.MonkeyPatch) -> None:
    """While a checkpoint is sealed: it is completed, and no further step is taken."""
    seal = CheckpointStore.seal

    def sealed(self: CheckpointStore, number: int, **options: Any) -> None:
        if number == step:
            terminate()
        seal(self, number, **options)

    patch.setattr(CheckpointStore, "seal", sealed)


def after_save(step: int, patch: pytest.MonkeyPatch) -> None:
    """Right after a checkpoint is sealed: no further step is taken."""
    seal = CheckpointStore.seal

    def sealed(self: CheckpointStore, number: int, **options: Any) -> None:
        seal(self, number, **options)
        if number == step:
            terminate()

    patch.setattr(CheckpointStore, "seal", sealed)


STOPS: tuple[tuple[Callable[[int, pytest.MonkeyPatch], None], int], ...] = (
    (in_step, 1),
    (at_step_edge, 2),
    (in_evaluation, 3),
    (in_step, 5),
    (in_save, 6),
    (at_step_edge, 8),
    (after_save, 9),
)
"""When a signal comes, and the step at which the attempt is saved.

Steps 4 and 8 end an epoch; after 3, 6 and 9 there is an evaluation and a save.
"""


@pytest.mark.parametrize(
    ("method", "packing"),
    [
        pytest.param(None, False, marks=pytest.mark.slow, id="every weight, padded"),
        pytest.param(DROPOUT, True, id="LoRA, dropout, packed"),
        pytest.param(None, True, marks=pytest.mark.slow, id="every weight, packed"),
        pytest.param(DROPOUT, False, marks=pytest.mark.slow, id="LoRA, dropout, padded"),
    ],
)
def test_weights_and_losses_are_those_of_the_undisturbed_run_bit_for_bit(
    qwen2: Path, tmp_path: Path, method: Any, packing: bool
) -> None:
    rows = 32 if packing else 15
    config = job(
        qwen2,
        method=method,
        packing=packing,
        per_device_batch_size=1 if packing else 2,
        gradient_accumulation_steps=2,
        max_steps=12,
        learning_rate=1e-2,
        save_every=3,
        evaluate_every=3,
        keep=99,
    )
    undisturbed, volume = finish(tmp_path / "undisturbed", config, rows=rows), tmp_path / "volume"
    assert undisturbed.stats.steps_per_epoch == 4
    write_prepared(volume, config, rows=rows)

    saved_at = 0
    for attempt, (when, step) in enumerate(STOPS, start=1):
        with pytest.MonkeyPatch.context() as patch:
            when(step, patch)
            stopped = run_train(volume, config, attempt=attempt)
        assert stopped.exit_code is ExitCode.RETRY, stopped.message
        assert stopped.progress is not None
        assert (stopped.progress.resumed_from_step, stopped.progress.step) == (saved_at, step)
        saved_at = stopped.progress.checkpoints[-1].step
        assert saved_at == step
    ended = run_train(volume, config, attempt=len(STOPS) + 1)

    assert ended.exit_code is ExitCode.DONE
    for name in COMPARED:
        assert read_metrics(volume).values(name) == read_metrics(undisturbed.volume).values(name)
    weights = next((volume / layout.OUTPUT).rglob("*.safetensors")).relative_to(volume)
    assert_same_weights(volume / weights, undisturbed.volume / weights)
