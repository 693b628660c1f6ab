from typing import Any

import pyarrow as pa
import pytest

from sftjob_trainer.rows.mixture import repeated_rows, row_repeats


@pytest.mark.parametrize(
    ("size", "weight", "expected"),
    [
        # expected: how many rows are used once, twice, ...
        (100, 1.0, {1: 100}),
        (100, 3.0, {3: 100}),
        (100, 0.5, {0: 50, 1: 50}),
        (100, 2.25, {2: 75, 3: 25}),
        (10, 0.01, {0: 9, 1: 1}),
        (0, 0.5, {}),
    ],
)
def test_a_row_of_a_source_of_weight_w_is_used_w_times(size: int, weight: float, expected: dict[int, int]) -> None:
    (found,) = row_repeats([size], [weight], 0.0, seed=42)
    counts = found.train.tolist()
    assert {count: counts.count(count) for count in set(counts)} == expected
    assert not found.evaluation.any()


def test_held_out_rows_are_chosen_from_all_sources_and_never_trained_on() -> None:
    found = row_repeats([1000, 500], [3.0, 0.5], 0.1, seed=42)
    held_out = [int(source.evaluation.sum()) for source in found]
    assert sum(held_out) == 150
    assert all(held_out)
    assert all(not source.train[source.evaluation == 1].any() for source in found)
    assert found[0].train[found[0].evaluation == 0].tolist() == [3] * (1000 - held_out[0])
    assert int(found[1].train.sum()) == round((500 - held_out[1]) / 2)


def test_the_seed_decides() -> None:
    def chosen(seed: int) -> list[Any]:
        return [source.train.tolist() for source in row_repeats([100, 100], [0.5, 0.5], 0.1, seed)]

    assert chosen(1) == chosen(1)
    assert chosen(1) != chosen(2)
    assert chosen(1)[0] != chosen(1)[1]


def test_rows_come_as_often_as_they_are_used_whatever_batches_they_lie_in() -> None:
    import numpy as np

    table = pa.concat_tables([pa.table({"row": [0, 1]}), pa.table({"row": [2]}), pa.table({"row": [3, 4]})])
    batches = list(repeated_rows(table, np.array([1, 0, 3, 1, 2])))
    assert pa.Table.from_batches(batches)["row"].to_pylist() == [0, 2, 3, 4, 2, 4, 2]
