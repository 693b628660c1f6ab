"""State that optimizers keep between two steps, as in the installed libraries."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sftjob_contract.run.optimization import Optimizer
from sftjob_operator.plan.tensors import TrainedTensors

_FP32: Final = 4
_STATES: Final = {
    **{optimizer: 2 for optimizer in Optimizer if "adamw" in optimizer.value},
    **{optimizer: 3 for optimizer in Optimizer if "ademamix" in optimizer.value},
    **{optimizer: 1 for optimizer in Optimizer if any(kind in optimizer.value for kind in ("lion", "rmsprop"))},
    Optimizer.ADAGRAD: 1,
    Optimizer.SCHEDULE_FREE_RADAM: 2,
    Optimizer.SCHEDULE_FREE_SGD: 1,
}
"""States of the size of the weights: Adam keeps two moments, AdEMAMix three (Pagliardini et al. 2024), Lion one (Chen
et al. 2023), RMSprop and Adagrad one; SGD as transformers configures it has no momentum. GaLore, APOLLO and others that
keep less than Adam count as Adam."""
_TORCH: Final = frozenset(
    {Optimizer.ADAMW_TORCH, Optimizer.ADAMW_TORCH_FUSED, Optimizer.ADAGRAD, Optimizer.RMSPROP, Optimizer.STABLE_ADAMW}
)
_EIGHT_BIT: Final = frozenset(
    optimizer for optimizer in Optimizer if optimizer.is_of_bitsandbytes and optimizer.value.endswith("8bit")
)
_PAGED: Final = frozenset(optimizer for optimizer in Optimizer if optimizer.value.startswith("paged"))
_BLOCK: Final = 256
"""Elements that share a scale in 8-bit states (Dettmers et al. 2021, section 2.1; bitsandbytes `Optimizer2State`)."""
_SMALLEST_8BIT: Final = 4096
"""bitsandbytes keeps the states of smaller tensors in fp32 (`min_8bit_size`)."""
_SMALLEST_PAGED: Final = 100_000
"""bitsandbytes does not page smaller tensors (`get_state_buffer`)."""


@dataclass(frozen=True, kw_only=True)
class OptimizerBytes:
    """States that stay on the device, and those that may move to host memory when device memory runs out."""

    device: int
    pageable: int

    @property
    def total(self) -> int:
        """Sum of both, which a checkpoint contains."""
        return self.device + self.pageable


def optimizer_bytes(optimizer: Optimizer, trained: Iterable[TrainedTensors], trained_bytes: int) -> OptimizerBytes:
    """Return the states of `optimizer` for tensors of `trained_bytes` per element."""
    device = pageable = 0
    for tensors in trained:
        size = tensors.count * _state_bytes(optimizer, tensors, trained_bytes)
        if optimizer in _PAGED and tensors.elements >= _SMALLEST_PAGED:
            pageable += size
        else:
            device += size
    return OptimizerBytes(device=device, pageable=pageable)


def _state_bytes(optimizer: Optimizer, tensors: TrainedTensors, trained_bytes: int) -> int:
    """Return the states of one tensor."""
    elements = tensors.elements
    if optimizer is Optimizer.ADAFACTOR:
        return _FP32 * (tensors.rows + tensors.columns if tensors.columns > 1 else elements)  # Shazeer & Stern 2018
    states = _STATES.get(optimizer, 0)
    if optimizer in _TORCH:
        return states * elements * trained_bytes  # torch.optim: zeros_like the parameter
    if optimizer in _EIGHT_BIT and elements >= _SMALLEST_8BIT and not tensors.is_embedding:
        return states * (elements + _FP32 * math.ceil(elements / _BLOCK))
    return states * elements * _FP32  # embeddings too: transformers registers them for 32 bits
