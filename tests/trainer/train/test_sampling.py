"""The order in which rows are trained on: the steps of plain TRL, with rows of like length in a batch."""

from itertools import chain
from pathlib import Path
from typing import Any

import pytest
from datasets import Dataset
from hypothesis import given
from hypothesis import strategies as st

from sftjob_trainer.training.sampling import LongestFirstSampler
from support.trainer.training import build_trainer, finish, job, read_metrics


def rows_of(*lengths: int) -> Any:
    return Dataset.from_dict({"input_ids": [[7] * length for length in lengths]})


def batches(directory: Path, config: Any, *, rows: int = 21) -> list[list[tuple[int, ...]]]:
    """Token ids of the rows of each batch of an epoch, without what fills them up."""
    loader = build_trainer(directory, config, rows=rows).get_train_dataloader()
    return [
        [
            tuple(ids[mask.bool()].tolist())
            for ids, mask in zip(batch["input_ids"], batch["attention_mask"], strict=True)
        ]
        for batch in loader
    ]


def test_rows_of_a_step_are_sorted_and_steps_stay_apart() -> None:
    sampler = LongestFirstSampler([3, 0, 1, 2, 4], rows=rows_of(5, 1, 4, 9, 2), step_rows=3)

    assert list(sampler) == [3, 0, 1, 2, 4]
    assert list(LongestFirstSampler([1, 0, 3, 4, 2], rows=rows_of(5, 1, 4, 9, 2), step_rows=3)) == [3, 0, 1, 2, 4]
    assert len(sampler) == 5


@given(st.lists(st.integers(1, 9), min_size=1, max_size=30), st.integers(1, 8), st.randoms())
def test_every_step_has_the_rows_that_it_had(lengths: list[int], step_rows: int, random: Any) -> None:
    order = random.sample(range(len(lengths)), len(lengths))

    found = list(LongestFirstSampler(order, rows=rows_of(*lengths), step_rows=step_rows))

    for begin in range(0, len(order), step_rows):
        step = found[begin : begin + step_rows]
        assert sorted(step) == sorted(order[begin : begin + step_rows])
        assert [lengths[row] for row in step] == sorted((lengths[row] for row in step), reverse=True)


def test_a_step_of_small_batches_has_the_rows_of_one_large_batch_and_fills_up_less(qwen2: Path, tmp_path: Path) -> None:
    large = batches(tmp_path / "large", job(qwen2, per_device_batch_size=8, max_steps=2))
    small = batches(tmp_path / "small", job(qwen2, per_device_batch_size=2, gradient_accumulation_steps=4, max_steps=2))

    steps = [[*chain(*small[begin : begin + 4])] for begin in range(0, len(small), 4)]
    assert [sorted(step) for step in steps] == [sorted(step) for step in large]
    assert sum(map(filling, small)) < sum(map(filling, large))


def filling(batch: list[tuple[int, ...]]) -> int:
    return len(batch) * max(map(len, batch)) - sum(map(len, batch))


@pytest.mark.parametrize("accumulation", [2, 4])
def test_the_losses_are_those_of_the_order_as_it_was_drawn(
    qwen2: Path, tmp_path: Path, accumulation: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = job(
        qwen2, per_device_batch_size=2, gradient_accumulation_steps=accumulation, learning_rate=1e-2, max_steps=6
    )
    ours = finish(tmp_path / "sorted", config)
    monkeypatch.setattr(LongestFirstSampler, "__iter__", lambda self: iter(self._order))
    drawn = finish(tmp_path / "drawn", config)

    for name in ("loss", "gradNorm", "evalLoss"):
        expected = read_metrics(drawn.volume).values(name)
        assert len(expected) >= 1
        assert read_metrics(ours.volume).values(name) == pytest.approx(expected, abs=1e-4)
