import pytest

from sftjob_trainer.rows.steps import held_out_rows, max_steps, steps_per_epoch
from support.trainer.tiny import run_config


@pytest.mark.parametrize(
    ("rows", "fraction", "expected"),
    [(100, 0.05, 5), (15_000, 0.05, 750), (10, 0.01, 1), (3, 0.5, 2), (1, 0.5, 1), (0, 0.5, 0), (100, 0.0, 0)],
)
def test_the_held_out_part_has_about_its_fraction_and_at_least_one_row(
    rows: int, fraction: float, expected: int
) -> None:
    chosen = held_out_rows(rows, fraction, seed=42)
    assert len(chosen) == expected
    assert chosen == sorted(set(chosen))
    assert set(chosen) <= set(range(rows))


def test_the_seed_decides_which_rows_are_held_out() -> None:
    assert held_out_rows(1000, 0.1, seed=1) == held_out_rows(1000, 0.1, seed=1)
    assert held_out_rows(1000, 0.1, seed=1) != held_out_rows(1000, 0.1, seed=2)


@pytest.mark.parametrize(
    ("sequences", "batch", "devices", "epochs", "expected"),
    [
        # batch: per device, accumulation; expected: steps per epoch, in all
        (14_250, (1, 64), 1, 1.0, (223, 223)),
        (2000, (4, 4), 1, 3.0, (125, 375)),
        (2001, (4, 4), 1, 3.0, (126, 378)),
        (100, (4, 1), 8, 2.0, (4, 8)),
        (1, (8, 8), 1, 1.0, (1, 1)),
        (10, (1, 1), 1, 0.25, (10, 3)),
    ],
)
def test_steps_follow_from_sequences_batch_and_epochs(
    sequences: int, batch: tuple[int, int], devices: int, epochs: float, expected: tuple[int, int]
) -> None:
    training = run_config(
        model="m",
        dataset="d",
        per_device_batch_size=batch[0],
        gradient_accumulation_steps=batch[1],
        epochs=epochs,
    ).training
    per_epoch = steps_per_epoch(sequences, training, devices)
    assert (per_epoch, max_steps(per_epoch, training)) == expected


def test_max_steps_is_taken_as_it_is() -> None:
    assert max_steps(7, run_config(model="m", dataset="d", max_steps=1000).training) == 1000
