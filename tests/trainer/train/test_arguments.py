"""The run config as SFTConfig arguments: numbers that can be worked out by hand, and that transformers agrees with."""

from pathlib import Path
from typing import Any

import pytest

from sftjob_contract.run.batches import micro_batches
from sftjob_contract.run.config import Precision, Training
from sftjob_contract.run.optimization import Scheduler
from sftjob_trainer.rows import steps
from sftjob_trainer.run.sft_config import is_due, sft_arguments, warmup_steps, with_checkpointing
from support.trainer.tiny import run_config
from support.trainer.training import stats_of


def training(**options: Any) -> Training:
    return run_config(model="m", dataset="d", **options).training


@pytest.mark.parametrize(
    ("ratio", "steps", "expected"), [(0.1, None, 10), (0.101, None, 11), (None, 7, 7), (None, None, 0), (0.0, None, 0)]
)
def test_warmup_is_a_number_of_steps_or_a_share_rounded_up(
    ratio: float | None, steps: int | None, expected: int
) -> None:
    assert warmup_steps(training(warmup_ratio=ratio, warmup_steps=steps), 100) == expected


@pytest.mark.parametrize(("ratio", "steps", "expected"), [(0.03, 1, 0), (0.99, 2, 1), (1.0, 5, 4), (0.03, 33, 1)])
def test_a_share_of_warmup_never_covers_the_run(ratio: float, steps: int, expected: int) -> None:
    assert warmup_steps(training(warmup_ratio=ratio), steps) == expected


@pytest.mark.parametrize(
    ("every", "per_epoch", "expected"),
    [
        (None, 1, [0, 5, 10, 12]),
        (None, 2, [0, 3, 5, 8, 10, 12]),
        (None, 9, list(range(13))),
        (4, None, [0, 4, 8, 12]),
        (5, None, [0, 5, 10, 12]),
        (100, None, [0, 12]),
        (12, None, [0, 12]),
    ],
)
def test_something_due_happens_every_so_many_steps_or_every_epoch_and_always_at_the_end(
    every: int | None, per_epoch: int | None, expected: list[int]
) -> None:
    stats = stats_of(steps_per_epoch=5, max_steps=12)

    assert [step for step in range(13) if is_due(step, every, per_epoch, stats)] == expected


def test_a_run_shorter_than_an_epoch_is_evaluated_and_saved_at_its_end() -> None:
    stats = stats_of(steps_per_epoch=50, max_steps=3)

    assert [step for step in range(4) if is_due(step, None, 1, stats)] == [0, 3]


@pytest.mark.parametrize("scheduler", list(Scheduler))
def test_trl_accepts_the_arguments_and_understands_them_as_meant(scheduler: Scheduler, tmp_path: Path) -> None:
    from trl import SFTConfig

    config = run_config(
        model="m",
        dataset="d",
        scheduler=scheduler,
        warmup_ratio=0.25,
        weight_decay=0.01,
        max_grad_norm=0.5,
        gradient_checkpointing=True,
        seed=7,
    )

    found = SFTConfig(**sft_arguments(config, stats_of(max_steps=10), output_dir=tmp_path, precision=Precision.FP32))

    assert found.max_steps == 10
    assert found.lr_scheduler_type == scheduler.value
    assert found.get_warmup_steps(10) == 3
    assert (found.weight_decay, found.max_grad_norm, found.seed) == (0.01, 0.5, 7)
    assert found.activation_checkpointing
    assert not found.bf16
    assert found.device.type == "cpu"
    assert not found.logging_nan_inf_filter
    assert found.report_to == []


@pytest.mark.parametrize(
    ("asked", "planned", "line"),
    [
        (True, None, "gradient checkpointing on: as configured"),
        (False, None, "gradient checkpointing off: as configured"),
        (False, True, "gradient checkpointing off: as configured"),
        (True, False, "gradient checkpointing on: as configured"),
        (None, False, "gradient checkpointing off: by the plan, the run fits without it"),
        (
            None,
            True,
            "gradient checkpointing on: by the plan, the run is not known to fit without it, or an attempt ran",
        ),
        (None, None, "gradient checkpointing on: whether memory needs it is not known"),
    ],
)
def test_gradient_checkpointing_is_as_asked_else_as_planned_else_on(
    asked: bool | None, planned: bool | None, line: str, tmp_path: Path
) -> None:
    config, why = with_checkpointing(run_config(model="m", dataset="d", gradient_checkpointing=asked), planned)

    given = sft_arguments(config, stats_of(), output_dir=tmp_path, precision=Precision.FP32)

    assert why.startswith(line)
    assert (
        given["activation_checkpointing"] is config.training.gradient_checkpointing is line.split()[2].startswith("on")
    )


@pytest.mark.parametrize("sequences", [1, 7, 8, 24, 25])
@pytest.mark.parametrize(("batch", "accumulation"), [(1, 1), (2, 3), (8, 1), (3, 4)])
@pytest.mark.parametrize("epochs", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("packing", [False, True])
def test_the_number_of_steps_told_beforehand_is_the_one_transformers_arrives_at(
    sequences: int, batch: int, accumulation: int, epochs: float, packing: bool, tmp_path: Path
) -> None:
    from torch.utils.data import DataLoader

    config = run_config(
        model="m",
        dataset="d",
        epochs=epochs,
        per_device_batch_size=batch,
        gradient_accumulation_steps=accumulation,
        packing=packing,
    )
    counted = config.training
    per_epoch = steps.steps_per_epoch(sequences, counted, 1)
    micro_batch, micro_steps = micro_batches(config)
    trainer = _step_counter(micro_steps, epochs, tmp_path)

    found = trainer.set_initial_training_values(trainer.args, DataLoader(range(sequences), batch_size=micro_batch))

    assert (found[1], found[6]) == (per_epoch, steps.max_steps(per_epoch, counted))


def _step_counter(accumulation: int, epochs: float, directory: Path) -> Any:
    """A transformers Trainer that only counts."""
    import torch
    from transformers import Trainer, TrainingArguments

    args = TrainingArguments(
        output_dir=str(directory), gradient_accumulation_steps=accumulation, num_train_epochs=epochs, use_cpu=True
    )
    return Trainer(model=torch.nn.Linear(1, 1), args=args)
