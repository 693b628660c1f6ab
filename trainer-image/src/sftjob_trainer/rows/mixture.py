"""How often each row is used: held-out rows, and the weights of several sources. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any

from sftjob_trainer.rows.steps import held_out_rows


@dataclass(frozen=True, kw_only=True)
class RowRepeats:
    """How often each row of a source is used per training epoch and per evaluation (numpy arrays of int64)."""

    train: Any
    evaluation: Any


def row_repeats(sizes: Sequence[int], weights: Sequence[float], fraction: float, seed: int) -> list[RowRepeats]:
    """The uses of the rows of sources with `sizes` rows.

    About `fraction` of the rows of all sources together is held out. Each remaining row of a source of weight w is used
    w times: as often as the integer part of w, plus one time for a share of the rows equal to its fractional part,
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
        generator = Random(f"{seed}/{index}")  # noqa: S311 -- a reproducible choice, not a secret
        train[rows[sorted(generator.sample(range(len(rows)), more))]] += 1
        found.append(RowRepeats(train=train, evaluation=held_out))
    return found


def repeated_rows(table: Any, counts: Any) -> Iterator[Any]:
    """The rows of `table`, each as often as its count: all used rows in order, then those used again, and so on."""
    import numpy as np

    for repeats in range(int(counts.max(initial=0))):
        start = 0
        for batch in table.to_batches():
            wanted = np.flatnonzero(counts[start : start + batch.num_rows] > repeats)
            start += batch.num_rows
            yield batch.take(wanted)
