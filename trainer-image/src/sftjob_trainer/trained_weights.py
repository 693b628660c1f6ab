"""Weights that are trained: in which dtype, and whether training has changed them."""

from collections.abc import Iterator
from typing import Any, Final

import torch

_HALF: Final = frozenset({torch.float16, torch.bfloat16})


def train_in_fp32(model: Any) -> None:
    """Cast every 16-bit weight that is trained to fp32: most updates of such a weight are lost in rounding.

    PEFT does so for A and B only, and TRL takes it back where the base is quantized.
    """
    for weights in _trained(model):
        if weights.dtype in _HALF:
            weights.data = weights.data.float()


def _trained(model: Any) -> Iterator[Any]:
    return (weights for weights in model.parameters() if weights.requires_grad)
