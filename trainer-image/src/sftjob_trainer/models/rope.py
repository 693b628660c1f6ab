"""RoPE scaling: the config of a model with more positions than it was trained with."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import Model
from sftjob_contract.run.rope import RopeScaling, RopeType
from sftjob_trainer.process.errors import StageError

FIELD: Final = "model.ropeScaling"
_BETA_SLOW: Final = 1.0
_BETA_FAST: Final = 32.0
"""transformers' defaults for yarn."""
ORIGINAL: Final = "original_max_position_embeddings"
_UNSCALED: Final = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
"""`rope_parameters` without scaling."""


def rope_problems(scaling: RopeScaling | None) -> Iterator[str]:
    """Contradictory settings, one sentence each."""
    if scaling is None:
        return
    if scaling.factor <= 1:
        yield f"{FIELD}.factor must be above 1, not {scaling.factor:g}; remove {FIELD} for the model's own positions"
    slow, fast = scaling.beta_slow or _BETA_SLOW, scaling.beta_fast or _BETA_FAST
    if slow >= fast:
        yield f"{FIELD}: betaSlow {slow:g} must be below betaFast {fast:g}"
    low, high = scaling.low_freq_factor, scaling.high_freq_factor
    if scaling.type is RopeType.LLAMA3 and (low is None or high is None or low >= high):
        yield f"{FIELD}: lowFreqFactor {low} must be below highFreqFactor {high}"


def model_config(directory: Path, model: Model) -> Any:
    """The config of the model in `directory`, unmodified."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(directory, trust_remote_code=model.trust_remote_code)


def check_scaling(directory: Path, model: Model) -> None:
    """Check that the model in `directory`, whose config can be loaded, supports the scaling of `model`.

    Raises:
        StageError: it does not.
    """
    if model.rope_scaling is not None:
        base_config = model_config(directory, model)
        scale(base_config, model.rope_scaling, base_config)


def scale(config: Any, scaling: RopeScaling, base: Any) -> None:
    """Apply `scaling` to `config`, relative to `base`, the config of the original model.

    A checkpoint's config is already scaled, and receives the same values.

    Raises:
        StageError: the model does not support this scaling.
    """
    base_config = base.get_text_config()
    if (problem := scaling_problem(base_config, scaling)) is not None:
        raise StageError(Reason.CONFIG_INVALID, f"{FIELD}: {problem}")
    text = config.get_text_config()
    text.rope_parameters = {
        **base_config.rope_parameters,
        **rope_parameters(scaling, base_config.max_position_embeddings),
    }
    text.max_position_embeddings = scaling.scaled(base_config.max_position_embeddings)


def rope_parameters(scaling: RopeScaling, positions: int) -> dict[str, Any]:
    """The scaling's additions to transformers' `rope_parameters` of a model with `positions` positions."""
    options = {
        "attention_factor": scaling.attention_factor,
        "beta_fast": scaling.beta_fast,
        "beta_slow": scaling.beta_slow,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
    }
    options_given = {name: float(value) for name, value in options.items() if value is not None}
    original = {} if scaling.type is RopeType.LINEAR else {ORIGINAL: scaling.original(positions)}
    return {"rope_type": scaling.type.value, "factor": float(scaling.factor), **original, **options_given}


def scaling_problem(base_config: Any, scaling: RopeScaling) -> str | None:
    """Why a language model with the config `base_config` does not support the scaling; None if it does."""
    parameters, positions = (
        getattr(base_config, "rope_parameters", None),
        getattr(base_config, "max_position_embeddings", None),
    )
    if not parameters or not isinstance(positions, int):
        kind = base_config.model_type
        return f"{kind} has no rotary position embeddings (RoPE) whose positions could be scaled; remove it"
    return _parameters_problem(base_config, parameters, positions) or _positions_problem(scaling, positions)


def _parameters_problem(base_config: Any, parameters: Mapping[str, Any], positions: int) -> str | None:
    if kinds := base_config.nested_rope_parameter_keys(parameters):
        return f"the layers of {base_config.model_type} have RoPE of several kinds ({', '.join(kinds)}); remove it"
    kind = parameters.get("rope_type", "default")
    if kind != "default":
        factor = f", factor {parameters['factor']:g}" if parameters.get("factor") else ""
        return f"the model has RoPE of type {kind}{factor} and {positions} positions already; remove it"
    if others := sorted(set(parameters) - set(_UNSCALED)):
        return f"the RoPE of {base_config.model_type} has other parameters ({', '.join(others)}); remove it"
    return None


def _positions_problem(scaling: RopeScaling, positions: int) -> str | None:
    original = scaling.original(positions)
    if original > positions:
        return f"originalMaxPositionEmbeddings {original} is above the {positions} positions of the model; lower it"
    if scaling.scaled(positions) <= positions:
        return (
            f"factor {scaling.factor:g} of {original} positions is {scaling.scaled(positions)}, not above the "
            f"{positions} that the model has; raise factor, or remove it"
        )
    return None


def check_scaled(model: Any, scaling: RopeScaling | None) -> None:
    """Check that the code of a loaded `model` has read the scaling from its config.

    Raises:
        StageError: it has not.
    """
    if scaling is None or any(getattr(module, "rope_type", None) == scaling.type.value for module in model.modules()):
        return
    raise StageError(
        Reason.CONFIG_INVALID, f"{FIELD}: the code of {model.config.model_type} does not read RoPE scaling; remove it"
    )
