"""RoPE scaling: the config of a model with more positions than it was trained with."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Final

from sftjob_contract.config import Model
from sftjob_contract.reasons import Reason
from sftjob_contract.rope import RopeScaling, RopeType
from sftjob_trainer.failure import Failure

FIELD: Final = "model.ropeScaling"
_BETA_SLOW: Final = 1.0
_BETA_FAST: Final = 32.0
"""transformers' defaults for yarn."""
ORIGINAL: Final = "original_max_position_embeddings"
_UNSCALED: Final = ("rope_type", "type", "rope_theta", "partial_rotary_factor")
"""What `rope_parameters` have without a scaling."""


def rope_problems(scaling: RopeScaling | None) -> Iterator[str]:
    """What contradicts itself, one sentence each."""
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
    """The config of the model in `directory`, as it is there."""
    from transformers import AutoConfig

    return AutoConfig.from_pretrained(directory, trust_remote_code=model.trust_remote_code)


def check_scaling(directory: Path, model: Model) -> None:
    """See that the model in `directory`, whose config can be loaded, can be scaled as `model` says.

    Raises:
        Failure: it cannot.
    """
    if model.rope_scaling is not None:
        own = model_config(directory, model)
        scale(own, model.rope_scaling, own)


def scale(config: Any, scaling: RopeScaling, base: Any) -> None:
    """Set on `config` the scaling of `base`, which is the config of the model to start from.

    A checkpoint's config is scaled already, and gets the same values.

    Raises:
        Failure: such a model cannot be scaled so.
    """
    own = base.get_text_config()
    if (problem := scaling_problem(own, scaling)) is not None:
        raise Failure(Reason.CONFIG_INVALID, f"{FIELD}: {problem}")
    text = config.get_text_config()
    text.rope_parameters = {**own.rope_parameters, **rope_parameters(scaling, own.max_position_embeddings)}
    text.max_position_embeddings = scaling.scaled(own.max_position_embeddings)


def rope_parameters(scaling: RopeScaling, positions: int) -> dict[str, Any]:
    """What a scaling adds to transformers' `rope_parameters` of a model with so many `positions`."""
    options = {
        "attention_factor": scaling.attention_factor,
        "beta_fast": scaling.beta_fast,
        "beta_slow": scaling.beta_slow,
        "low_freq_factor": scaling.low_freq_factor,
        "high_freq_factor": scaling.high_freq_factor,
    }
    given = {name: float(value) for name, value in options.items() if value is not None}
    original = {} if scaling.type is RopeType.LINEAR else {ORIGINAL: scaling.original(positions)}
    return {"rope_type": scaling.type.value, "factor": float(scaling.factor), **original, **given}


def scaling_problem(own: Any, scaling: RopeScaling) -> str | None:
    """Why a language model with the config `own` cannot be scaled so; None: it can."""
    parameters, positions = getattr(own, "rope_parameters", None), getattr(own, "max_position_embeddings", None)
    if not parameters or not isinstance(positions, int):
        return f"{own.model_type} has no rotary position embeddings (RoPE) whose positions could be scaled; remove it"
    return _problem_of_parameters(own, parameters, positions) or _problem_of_positions(scaling, positions)


def _problem_of_parameters(own: Any, parameters: Mapping[str, Any], positions: int) -> str | None:
    if kinds := own.nested_rope_parameter_keys(parameters):
        return f"the layers of {own.model_type} have RoPE of several kinds ({', '.join(kinds)}); remove it"
    kind = parameters.get("rope_type", "default")
    if kind != "default":
        factor = f", factor {parameters['factor']:g}" if parameters.get("factor") else ""
        return f"the model has RoPE of type {kind}{factor} and {positions} positions already; remove it"
    if others := sorted(set(parameters) - set(_UNSCALED)):
        return f"the RoPE of {own.model_type} has parameters of its own ({', '.join(others)}); remove it"
    return None


def _problem_of_positions(scaling: RopeScaling, positions: int) -> str | None:
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
    """See that the code of a loaded `model` has read the scaling from its config.

    Raises:
        Failure: it has not.
    """
    if scaling is None or any(getattr(module, "rope_type", None) == scaling.type.value for module in model.modules()):
        return
    raise Failure(
        Reason.CONFIG_INVALID, f"{FIELD}: the code of {model.config.model_type} does not read RoPE scaling; remove it"
    )
