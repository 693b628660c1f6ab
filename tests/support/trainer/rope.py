"""RoPE scaling of a run config."""

from dataclasses import replace
from typing import Any

from sftjob_contract.run.config import RunConfig
from sftjob_contract.run.rope import RopeScaling, RopeType


def scaling(kind: RopeType = RopeType.YARN, factor: float = 4.0, **options: Any) -> RopeScaling:
    """A scaling as the operator writes it; `options` are more of its fields."""
    none = dict.fromkeys(("attention_factor", "beta_fast", "beta_slow", "low_freq_factor", "high_freq_factor"))
    llama3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0} if kind is RopeType.LLAMA3 else {}
    given: dict[str, Any] = {"original_max_position_embeddings": None, **none, **llama3, **options}
    return RopeScaling(type=kind, factor=factor, **given)


def scaled(config: RunConfig, rope: RopeScaling) -> RunConfig:
    """`config` with its model scaled."""
    return replace(config, model=replace(config.model, rope_scaling=rope))
