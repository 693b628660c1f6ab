"""The size of a model, which Prepare reads without loading it and the plan uses to predict memory."""

from dataclasses import dataclass
from typing import Final

LINEAR_KINDS_LIMIT: Final = 16
"""Maximum kinds of linear layers in a ModelShape, so that it fits into a termination message; dense models have 4 to
7."""
LINEAR_NAME_LIMIT: Final = 64
"""Maximum length of a layer name, in characters."""
UNFROZEN_KINDS_LIMIT: Final = 7
"""Maximum sizes of weights in ModelShape.unfrozen; dense models have 4 to 7, where all vectors count as one."""


@dataclass(frozen=True, kw_only=True)
class UnfrozenShape:
    """`count` weights of `rows` x `columns` that method.full.unfrozenParameters selects.

    All vectors count as one entry with one column. `is_embedding`: some optimizers treat it differently.
    """

    rows: int
    columns: int
    count: int
    is_embedding: bool = False


@dataclass(frozen=True, kw_only=True)
class LinearShape:
    """Linear layers of one name and size, `count` in the whole model; excludes the output head.

    `name` is the path within a decoder layer: `self_attn.q_proj`.
    """

    name: str
    in_features: int
    out_features: int
    count: int


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Size of a dense, causal language model.

    `parameters` counts tied weights once; `bias_parameters` is the number of biases among them. `weight_bytes` is the
    size of the weight files. `head_size` is the width of one attention head. `tied_embeddings`: the output head is the
    embedding. `unfrozen` lists the trained weights if only a part is trained; None: all of them, or an adapter.
    `new_token_matrices`: how many of embedding and head an adapter trains as a whole for added tokens; 0 without added
    tokens.
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
