"""RoPE scaling, which gives a model more positions than it was trained with: part of the run config."""

from dataclasses import dataclass
from enum import StrEnum


class RopeType(StrEnum):
    """RoPE scaling method, under transformers' names (`rope_type`).

    Only those that depend on the factor alone: `dynamic` depends on the longest row so far, which a resumed run
    forgets, and `longrope` needs factors for each frequency.
    """

    LINEAR = "linear"
    YARN = "yarn"
    LLAMA3 = "llama3"


@dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """Scaling of a model's RoPE by `factor`, under transformers' names (`rope_parameters`).

    `original_max_position_embeddings` None: `max_position_embeddings` of the model's config. The next three options
    apply to yarn and the last two to llama3; None elsewhere, and where transformers has a default.
    """

    type: RopeType
    factor: float
    original_max_position_embeddings: int | None
    attention_factor: float | None
    beta_fast: float | None
    beta_slow: float | None
    low_freq_factor: float | None
    high_freq_factor: float | None

    def original(self, positions: int) -> int:
        """Return the positions that the factor multiplies, for a model whose config has `positions`."""
        return self.original_max_position_embeddings or positions

    def scaled(self, positions: int) -> int:
        """Return the model's positions after scaling."""
        return round(self.factor * self.original(positions))
