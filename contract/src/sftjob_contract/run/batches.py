"""How a batch passes through the model. Shared by training and by the memory plan."""

from typing import Final

from sftjob_contract.run.config import Attention, PackingStrategy, RunConfig

DENSE: Final = frozenset({Attention.EAGER, Attention.SDPA, Attention.FLEX_ATTENTION})
"""Attention that computes the whole of a packed row, also between documents."""


def packed_by_best_fit(config: RunConfig) -> bool:
    """Whether documents, or parts of long ones, are packed together, so that TRL flattens a batch into one row."""
    strategies = (PackingStrategy.BFD, PackingStrategy.BFD_SPLIT)
    return config.training.packing and config.training.packing_strategy in strategies


def micro_batches(config: RunConfig, *, dense: bool = False) -> tuple[int, int]:
    """Return sequences per forward pass, and forward passes per optimizer step.

    A batch packed by best fit is one long row. One sequence at a time, with as many more forward passes, is the same
    optimizer step, since the loss is divided by the number of trained tokens of the whole step (docs/adr/0009). It is
    faster on a CPU, and where attention is `dense` or the config asks for such attention: the cost then grows with the
    square of the row's length. Wrapped sequences are ordinary rows.
    """
    training = config.training
    one_by_one = dense or config.model.attention in DENSE or config.gpus == 0
    if packed_by_best_fit(config) and one_by_one:
        return 1, training.per_device_batch_size * training.gradient_accumulation_steps
    return training.per_device_batch_size, training.gradient_accumulation_steps


def devices(config: RunConfig) -> int:
    """Return the number of training processes of a run."""
    return device_count(config.gpus, config.nodes)


def device_count(gpus: int, nodes: int) -> int:
    """Return the number of training processes on `nodes` nodes with `gpus` GPUs each; 0 GPUs: one on each CPU node."""
    return max(1, gpus) * nodes
