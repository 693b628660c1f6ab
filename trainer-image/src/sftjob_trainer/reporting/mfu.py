"""Model FLOPs utilization: the share of the devices' peak that the model's own arithmetic uses. Pure."""

import re
from dataclasses import dataclass
from typing import Final

from sftjob_contract.reports.model_shape import ModelShape
from sftjob_contract.reports.stats import PreparedStats
from sftjob_contract.run.config import Precision, RunConfig

TERA: Final = 1e12
PEAK_FLOPS: Final = {
    "GB300": 2500 * TERA,
    "GB200": 2500 * TERA,
    "B300": 2250 * TERA,
    "B200": 2250 * TERA,
    "GH200": 989 * TERA,
    "H200": 989 * TERA,
    "H100 PCIe": 756 * TERA,
    "H100 NVL": 835 * TERA,
    "H100": 989 * TERA,
    "H20": 148 * TERA,
    "A100": 312 * TERA,
    "A40": 150 * TERA,
    "A30": 165 * TERA,
    "A10G": 70 * TERA,
    "A10": 125 * TERA,
    "L40S": 362 * TERA,
    "L40": 181 * TERA,
    "L4": 121 * TERA,
    "T4": 65 * TERA,
    "V100": 125 * TERA,
    "RTX 5090": 209.5 * TERA,
    "RTX 4090": 165 * TERA,
    "RTX 3090": 71 * TERA,
    "MI355X": 2516 * TERA,
    "MI350X": 2307 * TERA,
    "MI325X": 1307 * TERA,
    "MI300X": 1307 * TERA,
    "MI250X": 191.5 * TERA,
}
"""Dense 16-bit matrix FLOP/s with 32-bit accumulation, from the vendors' data sheets (half of the value "with
sparsity"; V100 and T4: fp16; MI250X: one of its two dies, which is a device). The key is part of the device's name; the
first match counts."""
_A_PART_OF_IT: Final = re.compile(r"\bMIG\b|\bLaptop\b|\bMax-Q\b")
_TRAINED: Final = 6
"""FLOPs per token and trained weight: 2 forward, 2 for the gradient of the activations, 2 for that of the weight."""
_FROZEN: Final = 4
"""Without the last of them."""


@dataclass(frozen=True, kw_only=True)
class ComputeCost:
    """Cost of one token and peak of all devices, in FLOPs and FLOP/s."""

    flops_per_token: float
    peak_flops: float

    def utilization(self, tokens: int, seconds: float) -> float | None:
        """Utilization from 0 to 1 for `tokens` in `seconds`; None if no time has passed."""
        return tokens * self.flops_per_token / seconds / self.peak_flops if seconds > 0 else None


def peak_flops(device: str | None) -> float | None:
    """Peak FLOP/s of one device by its name; None if unknown, or if only a part of the device is available."""
    if device is None or _A_PART_OF_IT.search(device):
        return None
    names = (name for name in PEAK_FLOPS if re.search(rf"\b{name}\b", device))
    return next((PEAK_FLOPS[name] for name in names), None)


def flops_per_token(shape: ModelShape, *, trainable: int, full: bool, length: float) -> float:
    """FLOPs of training on one token of a document of `length` tokens.

    6 N for trained weights and 4 N for frozen ones, plus the `trainable` weights of LoRA, and 12 L H Q T for attention:
    Chowdhery et al. 2022 (PaLM), appendix B. N excludes an embedding that is only looked up. Recomputation by gradient
    checkpointing does not count.
    """
    embedding = 0 if shape.tied_embeddings else shape.vocabulary_size * shape.hidden_size
    weights = shape.parameters - embedding
    attention = 12 * shape.layers * shape.attention_heads * shape.head_size * length
    if full:
        return _TRAINED * weights + attention
    return _FROZEN * weights + _TRAINED * trainable + attention


def compute_cost(
    config: RunConfig, stats: PreparedStats, *, precision: Precision, device: str | None, trainable: int
) -> ComputeCost | None:
    """Token cost of this run on devices of this name; None if shape, device or peak is unknown.

    All documents count with the mean length, so attention, which grows with the square, is never overstated.
    """
    peak = peak_flops(device)
    if stats.model_shape is None or peak is None or precision is Precision.FP32:
        return None
    length = stats.tokens / max(1, stats.train_rows)
    full = config.method.lora is None
    per_token = flops_per_token(stats.model_shape, trainable=trainable, full=full, length=length)
    return ComputeCost(flops_per_token=per_token, peak_flops=peak * max(1, config.gpus) * config.nodes)
