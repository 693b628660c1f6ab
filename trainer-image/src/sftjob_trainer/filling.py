"""Rows that teach nothing, so that every one of several processes has as many batches as the others.

accelerate would take the first rows once more instead, so that they counted double.
"""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from datasets import Dataset, concatenate_datasets
from torch.utils.data import Sampler

from sftjob_trainer.run import FILLING_TOKENS
from sftjob_trainer.tokenization import NOT_TRAINED


def filled_up(dataset: Any, multiple: int) -> Any:
    """`dataset`, with untrained rows after its last until their number is a multiple of `multiple`."""
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
