"""Shapes of models that are too large to make in a test, and statistics of data for them."""

from typing import Any

from sftjob_contract.reports.model_shape import LinearShape, ModelShape
from sftjob_contract.reports.stats import PreparedStats
from support.trainer.training import stats_of


def linear(name: str, in_features: int, out_features: int, count: int) -> LinearShape:
    return LinearShape(name=name, in_features=in_features, out_features=out_features, count=count)


QWEN_05B = ModelShape(
    parameters=494_032_768,
    bias_parameters=24 * (896 + 128 + 128),
    weight_bytes=988_097_824,
    hidden_size=896,
    intermediate_size=4864,
    layers=24,
    attention_heads=14,
    key_value_heads=2,
    head_size=64,
    vocabulary_size=151_936,
    tied_embeddings=True,
    linear_layers=(
        linear("mlp.down_proj", 4864, 896, 24),
        linear("mlp.gate_proj", 896, 4864, 24),
        linear("mlp.up_proj", 896, 4864, 24),
        linear("self_attn.k_proj", 896, 128, 24),
        linear("self_attn.o_proj", 896, 896, 24),
        linear("self_attn.q_proj", 896, 896, 24),
        linear("self_attn.v_proj", 896, 128, 24),
    ),
)
"""Qwen2.5-0.5B."""

LLAMA_8B = ModelShape(
    parameters=8_030_261_248,
    bias_parameters=0,
    weight_bytes=16_060_556_376,
    hidden_size=4096,
    intermediate_size=14_336,
    layers=32,
    attention_heads=32,
    key_value_heads=8,
    head_size=128,
    vocabulary_size=128_256,
    tied_embeddings=False,
    linear_layers=(
        linear("mlp.down_proj", 14_336, 4096, 32),
        linear("mlp.gate_proj", 4096, 14_336, 32),
        linear("mlp.up_proj", 4096, 14_336, 32),
        linear("self_attn.k_proj", 4096, 1024, 32),
        linear("self_attn.o_proj", 4096, 4096, 32),
        linear("self_attn.q_proj", 4096, 4096, 32),
        linear("self_attn.v_proj", 4096, 1024, 32),
    ),
)
"""Llama-3.1-8B."""


def stats_with(shape: ModelShape | None, **numbers: Any) -> PreparedStats:
    """Statistics of a data set for a model of `shape`."""
    return PreparedStats(**{**vars(stats_of()), **numbers, "model_shape": shape})
