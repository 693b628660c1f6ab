"""The order of training rows, and the padding of the last batches with several processes."""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Protocol

import torch
from datasets import Dataset, concatenate_datasets
from torch.utils.data import Sampler

from sftjob_trainer.run.context import PADDING_ROW_TOKENS
from sftjob_trainer.tokens.tokenizer import NOT_TRAINED


def pad_to_multiple(dataset: Any, multiple: int) -> Any:
    """`dataset`, with untrained rows appended until its length is a multiple of `multiple`.

    Every process then has the same number of batches. accelerate would repeat the first rows instead, and they would
    count twice.
    """
    missing = -len(dataset) % multiple
    if missing == 0:
        return dataset
    row = {
        "input_ids": [0] * PADDING_ROW_TOKENS,
        "labels": [NOT_TRAINED] * PADDING_ROW_TOKENS,
        "seq_lengths": [PADDING_ROW_TOKENS],
    }
    columns = {name: [row[name]] * missing for name in dataset.column_names}
    return concatenate_datasets([dataset, Dataset.from_dict(columns, features=dataset.features)])


class PaddedRandomSampler(Sampler[int]):
    """The first `rows` indices in the random order of accelerate's SeedableRandomSampler, then those up to `total`.

    Each optimizer step therefore has the rows that it would have in one process with batches as large as all processes'
    together. Each epoch has its own order. `epoch` returns the starting epoch: accelerate's set_epoch does not reach a
    sampler within the batches that are skipped in the middle of an epoch.
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


class Order(Protocol):
    """Indices of rows, as many as its length."""

    def __iter__(self) -> Iterator[int]: ...

    def __len__(self) -> int: ...


class LongestFirstSampler(Sampler[int]):
    """The rows of `order`, sorted by length within each optimizer step.

    A batch is padded to its longest row, so grouping rows of similar length saves computation. The result of a step is
    unchanged: it sees the same rows, and its loss is divided by the tokens of all of them. Insufficient memory shows at
    the beginning of a step.
    """

    def __init__(self, order: Order, *, rows: Any, step_rows: int) -> None:
        """`rows` is the `datasets.Dataset` that `order` indexes, `step_rows` the number of rows per step."""
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
