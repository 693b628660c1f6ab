"""Arithmetic of a run before it starts: the held-out rows and the number of optimizer steps. Pure."""

import math
import random

from sftjob_contract.run.config import Training


def held_out_rows(rows: int, fraction: float, seed: int) -> list[int]:
    """Indices of the rows to evaluate on, in order: about `fraction` of them, at least one, chosen by `seed`."""
    if fraction == 0 or rows == 0:
        return []
    count = max(1, round(rows * fraction))
    return sorted(random.Random(seed).sample(range(rows), count))  # noqa: S311 -- a reproducible split, not a secret


def steps_per_epoch(sequences: int, training: Training, devices: int) -> int:
    """Optimizer steps of an epoch; the last one may be smaller, as in transformers' Trainer."""
    batch = training.per_device_batch_size * devices * training.gradient_accumulation_steps
    return math.ceil(sequences / batch)


def max_steps(per_epoch: int, training: Training) -> int:
    """Optimizer steps of the whole run; a last, partial epoch is rounded up to a whole step."""
    if training.max_steps is not None:
        return training.max_steps
    return math.ceil(per_epoch * (training.epochs or 0.0))
