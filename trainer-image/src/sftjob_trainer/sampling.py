"""In which order rows are trained on, and what fills up the last batches of several processes."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from torch.utils.data import Sampler

from sftjob_trainer.run import FILLING_TOKENS
from sftjob_trainer.tokenization import NOT_TRAINED


def filled_up(dataset: Any, multiple: int) -> Any:
    """`dataset`, with untrained rows after its last until their number is a multiple of `multiple`.

    So every one of several processes has as many batches as the others. accelerate would take the first rows once more
    instead, and they would count double.
    """
    missing = -len(dataset) % multiple
    if missing == 0:
        return dataset
    row = {
        "input_ids": [0] * FILLING_TOKENS,
        "labels": [NOT_TRAINED] * FILLING_TOKENS,
        "seq_lengths": [FILLING_TOKENS],
    }
    columns = {name: [row[name]] * missing for name in dataset.column_names}
    return concatenate_datasets([dataset, Dataset.from_dict(columns, features=dataset.features)])


class RowsThenFilling(Sampler[int]):
    """The first `rows` indices in the random order of accelerate's SeedableRandomSampler, then those up to `total`.

    So each optimizer step has the rows that it would have in one process with batches as large as all of theirs. Each
    epoch has an order of its own. `epoch` is asked which one begins: set_epoch of accelerate does not reach a sampler
    within the batches that are skipped in the middle of an epoch.
    """

    def __init__(self, *, rows: int, total: int, seed: int, epoch: Callable[[], int]) -> None:
        self._rows = rows
        self._total = total
        self._seed = seed
        self._epoch = epoch

    def __iter__(self) -> Iterator[int]:
        generator = torch.Generator()
        generator.manual_seed(self._seed + self._epoch())
        yield from torch.randperm(self._rows, generator=generator).tolist()
        yield from range(self._rows, self._total)

    def __len__(self) -> int:
        return self._total


class LongestFirst(Sampler[int]):
    """The rows of `order`, those of each optimizer step sorted by their length.

    A batch is filled up to its longest row, so less is computed in vain where rows of like length go together. What a
    step learns stays the same: it sees the same rows, and its loss is divided by the tokens of all of them. Memory that
    does not suffice is found out at the beginning of a step.
    """

    def __init__(self, order: Sampler[int], *, rows: Any, step_rows: int) -> None:
        """`rows` is the `datasets.Dataset` that `order` goes through, `step_rows` how many of them make a step."""
        self._order = order
        self._lengths = lengths(rows)
        self._step_rows = step_rows

    def __iter__(self) -> Iterator[int]:
        left = iter(self._order)
        while step := list(islice(left, self._step_rows)):
            yield from sorted(step, key=lambda row: -int(self._lengths[row]))

    def __len__(self) -> int:
        return len(self._order)


def lengths(rows: Any) -> Any:
    """Tokens of each row of a `datasets.Dataset`, as a NumPy array."""
    from pyarrow import compute

    return compute.list_value_length(rows.with_format("arrow")[:]["input_ids"]).to_numpy()
