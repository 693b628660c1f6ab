"""How often each row is used: which rows are held out, and what the weights of several sources mean. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from sftjob_trainer.plan import held_out_rows


@dataclass(frozen=True, kw_only=True)
class Uses:
    """How often each row of a source is used, in an epoch of training and in an evaluation (numpy arrays of int64)."""

    train: Any
    evaluation: Any


def uses(sizes: Sequence[int], weights: Sequence[float], fraction: float, seed: int) -> list[Uses]:
    """The uses of the rows of sources of `sizes` rows.

    Rows are held out of all sources together, about `fraction` of them. Of what is left, a row of a source of weight w
    is used w times: as often as the whole number in w says, and the share of the rows that its fraction says once more,
    chosen by `seed`. A source is used at least once, whatever its weight.
    """
    import numpy as np

    evaluation = np.zeros(sum(sizes), dtype=np.int64)
    evaluation[held_out_rows(sum(sizes), fraction, seed)] = 1
    found = []
    start = 0
    for index, (size, weight) in enumerate(zip(sizes, weights, strict=True)):
        held_out = evaluation[start : start + size]
        start += size
        rows = np.flatnonzero(held_out == 0)
        train = np.zeros(size, dtype=np.int64)
        train[rows] = int(weight)
        more = round((weight - int(weight)) * len(rows))
        more = max(more, 1) if int(weight) == 0 and len(rows) else more
        train[rows[sorted(_chooser(seed, index).sample(range(len(rows)), more))]] += 1
        found.append(Uses(train=train, evaluation=held_out))
    return found


def used(table: Any, counts: Any) -> Iterator[Any]:
    """The rows of `table`, each as often as its count: all that are used in order, then those used once more, ..."""
    import numpy as np

    for already in range(int(counts.max(initial=0))):
        start = 0
        for batch in table.to_batches():
            wanted = np.flatnonzero(counts[start : start + batch.num_rows] > already)
            start += batch.num_rows
            yield batch.take(wanted)


def _chooser(seed: int, source: int) -> Random:
    return Random(f"{seed}/{source}")  # noqa: S311 -- a reproducible choice, not a secret
