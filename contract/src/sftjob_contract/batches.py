"""How a batch goes through the model: one definition for who trains it and for who plans its memory."""

from typing import Final

from sftjob_contract.config import Attention, PackingStrategy, RunConfig

VARLEN: Final = frozenset({Attention.FLASH_ATTENTION_2, Attention.FLASH_ATTENTION_3, Attention.FLASH_ATTENTION_4})
"""Kernels that take several sequences of different lengths in one row, each attending to itself only."""


def packed_by_best_fit(config: RunConfig) -> bool:
    """Whether documents, or parts of long ones, are packed together, and TRL flattens a batch of them into one row."""
    strategies = (PackingStrategy.BFD, PackingStrategy.BFD_SPLIT)
    return config.training.packing and config.training.packing_strategy in strategies


def micro_batches(config: RunConfig) -> tuple[int, int]:
    """Sequences per forward pass, and forward passes per optimizer step.

    A batch packed by best fit is one long row. Where attention was not asked to be a kernel for variable lengths, its
    mask is dense, so the cost grows with the square of the row's length: one packed sequence at a time, and as many
    more of them, is the same optimizer step in less time, since the loss is divided by the number of trained tokens of
    the whole step (docs/adr/0009). `auto` counts as dense, although it takes such a kernel where image and GPU have
    one: the memory of a run is planned before its image and GPU are known. Wrapped sequences are rows like any other.
    """
    training = config.training
    if packed_by_best_fit(config) and config.model.attention not in VARLEN:
        return 1, training.per_device_batch_size * training.gradient_accumulation_steps
    return training.per_device_batch_size, training.gradient_accumulation_steps
