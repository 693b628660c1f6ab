"""Cases for comparing the trainers: model shapes and training methods."""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import product
from typing import Any, Final

CPU_LENGTH: Final = 512
_TINY: Final = {
    "hidden_size": 128,
    "intermediate_size": 344,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2 * CPU_LENGTH,
    "tie_word_embeddings": True,
}
_QWEN: Final = {"num_key_value_heads": 2, "max_position_embeddings": 32768, "tie_word_embeddings": True}
SHAPES: Final[Mapping[str, tuple[str, Mapping[str, Any]]]] = {
    "Qwen2": ("Qwen2", _TINY),
    "Llama": ("Llama", {**_TINY, "hidden_size": 192, "tie_word_embeddings": False}),
    "0.5B": (
        "Qwen2",
        {
            **_QWEN,
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "vocab_size": 151936,
        },
    ),
    "1.5B": (
        "Qwen2",
        {
            **_QWEN,
            "hidden_size": 1536,
            "intermediate_size": 8960,
            "num_hidden_layers": 28,
            "num_attention_heads": 12,
            "vocab_size": 151936,
        },
    ),
    "7B": (
        "Qwen2",
        {
            **_QWEN,
            "hidden_size": 3584,
            "intermediate_size": 18944,
            "num_hidden_layers": 28,
            "num_attention_heads": 28,
            "num_key_value_heads": 4,
            "vocab_size": 152064,
            "tie_word_embeddings": False,
        },
    ),
}
"""Architecture and config of each model: two that suit a CPU, and Qwen2.5's own sizes. Weights are random."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One training case and table row. A step is `batch` x `accumulation` sequences."""

    model: str
    method: str
    packing: bool = True
    max_length: int = CPU_LENGTH
    batch: int = 8
    accumulation: int = 2
    gpus: int = 0

    @property
    def name(self) -> str:
        """Display name."""
        length = f", {self.max_length:,} tokens" if self.gpus else ""
        return f"{self.model}, {self.method}, {'packed' if self.packing else 'padded'}{length}"


ON_CPU: Final = (
    Case(model="Qwen2", method="full"),
    Case(model="Qwen2", method="LoRA"),
    Case(model="Llama", method="LoRA"),
    Case(model="Llama", method="full", packing=False),
)
ON_GPU: Final = tuple(
    Case(model=model, method=method, max_length=length, batch=8192 // length, gpus=1)
    for model, method, length in product(("0.5B", "1.5B", "7B"), ("LoRA", "QLoRA", "full"), (1024, 4096))
    if (model, method) != ("7B", "full")
)
"""Every combination except full 7B: 16 bytes for each of 7.6 billion weights exceed the memory of one GPU."""
