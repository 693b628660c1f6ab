"""The size of a model, read by Prepare without loading it: what the plan needs to predict memory."""

from dataclasses import dataclass
from typing import Final

LINEAR_KINDS_LIMIT: Final = 16
"""Most kinds of linear layers in a ModelShape, so that it fits into a termination message; dense models have 4 to 7."""
LINEAR_NAME_LIMIT: Final = 64
"""Longest name of one, in characters."""
UNFROZEN_KINDS_LIMIT: Final = 7
"""Most sizes of weights in ModelShape.unfrozen; dense models have 4 to 7, all vectors counted as one."""


@dataclass(frozen=True, kw_only=True)
class UnfrozenShape:
    """`count` weights of `rows` x `columns` that method.full.unfrozenParameters trains.

    All vectors count as one entry with one column. `is_embedding`: some optimizers treat it differently.
    """

    rows: int
    columns: int
    count: int
    is_embedding: bool = False


@dataclass(frozen=True, kw_only=True)
class LinearShape:
    """Linear layers of one name and size, `count` of them in the whole model; the output head is not among them.

    `name` is the path within a decoder layer: `self_attn.q_proj`.
    """

    name: str
    in_features: int
    out_features: int
    count: int


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """A dense, causal language model's size.

    `parameters` counts tied weights once; `bias_parameters` are those of them that are biases. `weight_bytes` is the
    size of the weight files. `head_size` is the width of one attention head. `tied_embeddings`: the output head is the
    embedding. `unfrozen` is what is trained of it where that is a part; None: all of it, or an adapter.
    `new_token_matrices`: how many of embedding and head an adapter trains as a whole for tokens that are new to the
    model; 0 without such tokens.
    """

    parameters: int
    bias_parameters: int
    weight_bytes: int
    hidden_size: int
    intermediate_size: int
    layers: int
    attention_heads: int
    key_value_heads: int
    head_size: int
    vocabulary_size: int
    tied_embeddings: bool
    linear_layers: tuple[LinearShape, ...]
    unfrozen: tuple[UnfrozenShape, ...] | None = None
    new_token_matrices: int = 0
