"""Peak memory of one GPU, by part.

Activations are counted tensor by tensor as in Korthikanti et al. 2022 (section 4.1), for the layers of current models:
RMSNorm in fp32, grouped queries, a gated MLP, attention that stores no scores. A test compares the count with what
autograd stores for a Llama.
"""

import math
from dataclasses import dataclass, fields
from typing import Final

from sftjob_contract.reports.model_shape import LinearShape, ModelShape
from sftjob_contract.reports.stats import PreparedStats
from sftjob_contract.run.batches import micro_batches
from sftjob_contract.run.config import Attention, RunConfig
from sftjob_operator.plan.dtypes import compute_bytes, trained_bytes, weight_bytes
from sftjob_operator.plan.optimizer import optimizer_bytes
from sftjob_operator.plan.tensors import (
    adapted_layers,
    linear_parameters,
    trainable_parameters,
    trained_linear_parameters,
    trained_tensors,
    trains_head,
)

CONTEXT_BYTES: Final = 512 << 20
"""Memory of CUDA and its libraries before the first tensor: 0.3 GiB to 1 GiB, by GPU and version
(https://github.com/pytorch/pytorch/issues/107667, .../28394)."""
HEAD_TOKENS: Final = 4096
"""Tokens that TRL's fused output head projects at once (`trl.kernels.chunked_logprob.TOKEN_CHUNK_SIZE`)."""
HEAD_WORDS: Final = 32768
"""Vocabulary entries that it projects onto at once (`trl.trainer.utils._CHUNKED_LOGPROB_CHUNK_SIZE`)."""
_FP32: Final = 4
_QUANTIZATION_BLOCK: Final = 64
_SCALE_BLOCK: Final = 256


@dataclass(frozen=True, kw_only=True)
class Memory:
    """Bytes of each part. `context` is CUDA's own memory."""

    weights: int
    adapter: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    context: int

    @property
    def total(self) -> int:
        """Sum of all parts."""
        return sum(getattr(self, part.name) for part in fields(self))


def longest_row(config: RunConfig) -> int:
    """Return the maximum tokens of a row."""
    return config.training.max_length


def typical_row(config: RunConfig, stats: PreparedStats) -> int:
    """Return the minimum tokens of the longest row: maxLength if rows were packed or cut, else the mean, rounded up."""
    if config.training.packing or stats.truncated_rows:
        return config.training.max_length
    return min(config.training.max_length, math.ceil(stats.tokens / max(1, stats.train_rows)))


def gpu_memory(config: RunConfig, shape: ModelShape, row_tokens: int) -> Memory:
    """Return the peak memory of the device that a process trains on, with rows of `row_tokens` tokens.

    The parts do not all peak at the same moment, so their sum is slightly more than is needed at once. With `gpus` 0 it
    is the memory of the process itself. A teacher's weights are not counted: its shape is not known.
    """
    trained = trainable_parameters(config.method, shape)
    states = optimizer_bytes(config.training.optimizer, trained_tensors(config.method, shape), trained_bytes(config))
    tokens = micro_batches(config)[0] * row_tokens
    return Memory(
        weights=base_weight_bytes(config, shape) + _cast_bytes(config, shape),
        adapter=0 if config.method.lora is None else trained * trained_bytes(config),
        gradients=trained * trained_bytes(config),
        optimizer=states.device if config.gpus else states.total,
        activations=_activation_bytes(config, shape, tokens, row_tokens),
        logits=_logit_bytes(config, shape, tokens),
        context=CONTEXT_BYTES if config.gpus else 0,
    )


def base_weight_bytes(config: RunConfig, shape: ModelShape) -> int:
    """Return the memory of the model's weights; embeddings, norms and the head are never quantized.

    4 bits: half a byte and a scale for each 64 weights, in fp32 (0.5 bits a weight), or quantized itself in blocks of
    256 (0.127 bits; Dettmers et al. 2023, section 3). 8 bits: a byte, and a scale in fp32 for each row (Dettmers et al.
    2022, LLM.int8(), section 3.1).
    """
    quantization = config.method.quantization
    if quantization is None:
        return shape.parameters * weight_bytes(config)
    linear = linear_parameters(shape)
    rest = (shape.parameters - linear) * weight_bytes(config)
    if quantization.bits == 8:
        return rest + linear + sum(_FP32 * kind.out_features * kind.count for kind in shape.linear_layers)
    blocks = linear / _QUANTIZATION_BLOCK
    scales = blocks * (1 + _FP32 / _SCALE_BLOCK) if quantization.double_quantization else blocks * _FP32
    return rest + math.ceil(linear / 2 + scales)


def _cast_bytes(config: RunConfig, shape: ModelShape) -> int:
    """16-bit copies of trained fp32 weights, which autocast keeps during a forward pass.

    Together 6 bytes a weight: https://huggingface.co/docs/transformers/model_memory_anatomy.
    """
    if weight_bytes(config) == compute_bytes(config):
        return 0
    return trained_linear_parameters(config.method, shape) * compute_bytes(config)


def _activation_bytes(config: RunConfig, shape: ModelShape, tokens: int, row_tokens: int) -> int:
    """Return the memory that the forward pass keeps for the backward pass.

    If only a part of the weights is trained this is too much: layers below the first of them need nothing kept. With
    checkpointing (Chen et al. 2016), and if it is left open: the input of every layer, and everything of the single
    layer that is recomputed.
    """
    scores = 0
    if config.model.attention is Attention.EAGER:  # softmax in fp32, and its cast: Korthikanti's term in a*s*s*b
        scores = shape.layers * shape.attention_heads * row_tokens * (_FP32 + compute_bytes(config))
    all_layers = tokens * (_layer_elements_bytes(config, shape) + scores)
    last_norm = tokens * shape.hidden_size * (_FP32 + weight_bytes(config))
    if config.training.gradient_checkpointing is False:
        return all_layers + last_norm
    inputs = tokens * shape.hidden_size * weight_bytes(config) * (shape.layers - 1)
    return inputs + math.ceil(all_layers / shape.layers) + last_norm


def _layer_elements_bytes(config: RunConfig, shape: ModelShape) -> int:
    """Return the bytes that all layers together store for one token."""
    compute, lora = compute_bytes(config), config.method.lora
    hidden = shape.layers * shape.hidden_size
    query = shape.layers * shape.attention_heads * shape.head_size
    key = shape.layers * shape.key_value_heads * shape.head_size
    inner = shape.layers * shape.intermediate_size
    # the residual stream has the embedding's dtype, since autocast does not change sums
    norms = 2 * hidden * (_FP32 + (weight_bytes(config) if lora is None else 0))
    attention = 2 * (query + key) * compute + _FP32 * shape.layers * shape.attention_heads
    mlp = inner * compute * (3 if _is_gated(shape) else 1)  # before and after the activation, and its factor
    return norms + _input_bytes(config, shape) + attention + mlp


def _input_bytes(config: RunConfig, shape: ModelShape) -> int:
    """Return the bytes of the linear layers' inputs that their weights' gradients need, for one token.

    Layers that read the same tensor share it, unless each makes its own cast (autocast from fp32, PEFT's of its inputs)
    or its own dropout, whose mask is another byte.
    """
    compute, lora = compute_bytes(config), config.method.lora
    shared = compute * shape.layers * (2 * shape.hidden_size + shape.intermediate_size)
    if lora is None:
        if weight_bytes(config) == compute:
            return shared
        query = shape.layers * shape.attention_heads * shape.head_size  # the attention's output, counted there
        return compute * (_inputs(shape.linear_layers) - query)
    own = _inputs(adapted_layers(lora, shape))
    if lora.dropout:
        return own * (compute + (1 if config.gpus else _FP32))
    return own * compute if trained_bytes(config) != compute else min(shared, own * compute)


def _inputs(layers: tuple[LinearShape, ...]) -> int:
    return sum(kind.in_features * kind.count for kind in layers)


def _is_gated(shape: ModelShape) -> bool:
    """Whether the MLP has two projections into its inner width, as SwiGLU has (Shazeer 2020)."""
    outputs = sum(kind.out_features * kind.count for kind in shape.linear_layers)
    attention = (shape.attention_heads + 2 * shape.key_value_heads) * shape.head_size
    return outputs >= shape.layers * (attention + 2 * shape.hidden_size + 2 * shape.intermediate_size)


def _logit_bytes(config: RunConfig, shape: ModelShape, tokens: int) -> int:
    """Memory of TRL's fused head: a tile of logits, fp32 gradients of its input, and of its weight if that is trained.

    The logits of all tokens and words never exist at once (`trl.trainer.utils.add_fused_lm_head`).
    """
    compute, words = compute_bytes(config), min(shape.vocabulary_size, HEAD_WORDS)
    tile = min(tokens, HEAD_TOKENS) * words * compute
    cast = words * shape.hidden_size * compute if weight_bytes(config) != compute else 0
    inputs = tokens * shape.hidden_size * (_FP32 + weight_bytes(config))
    gradient = shape.vocabulary_size * shape.hidden_size * _FP32 if trains_head(config.method, shape) else 0
    return tile + cast + inputs + gradient
