"""Trained weights: their dtype, and whether training has changed them."""

import hashlib
from collections.abc import Iterator
from typing import Any, Final

import torch

from sftjob_contract.reasons import Reason
from sftjob_trainer.process.errors import StageError

_BITS: Final = {1: torch.int8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
"""Integer types by their size in bytes."""
_HALF: Final = frozenset({torch.float16, torch.bfloat16})


def train_in_fp32(model: Any) -> None:
    """Cast every trained 16-bit weight to fp32: most updates of such a weight are lost in rounding.

    PEFT does so only for A and B, and TRL reverts it for a quantized base.
    """
    for weights in _trained(model):
        if weights.dtype in _HALF:
            weights.data = weights.data.float()


def fingerprint(model: Any) -> str:
    """SHA-256 over the bits of all trained weights, summed per tensor: exact, and the same on every machine."""
    sums = [weights.detach().view(_BITS[weights.element_size()]).sum(dtype=torch.int64) for weights in _trained(model)]
    numbers = torch.stack(sums).tolist() if sums else []
    return hashlib.sha256(",".join(map(str, numbers)).encode()).hexdigest()


def check_moved(model: Any, initial: str | None, step: int, learning_rate: float) -> None:
    """Check that training has changed `model`, whose fingerprint was `initial` at step 0; None if unknown.

    Raises:
        StageError: every weight is unchanged.
    """
    if initial is None or fingerprint(model) != initial:
        return
    raise StageError(
        Reason.CONFIG_INVALID,
        f"nothing was trained: after {step} steps every weight is what it was before the first; raise "
        f"training.learningRate ({learning_rate:g}), or lower training.warmupSteps or warmupRatio",
    )


def _trained(model: Any) -> Iterator[Any]:
    return (weights for weights in model.parameters() if weights.requires_grad)
