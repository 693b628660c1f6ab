"""The model to train, as its directory, the run config and the machine say."""

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError

from sftjob_contract.config import Attention, Model, Precision, RunConfig
from sftjob_contract.method import Quantization
from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure
from sftjob_trainer.hardware import Choices
from sftjob_trainer.quantized_base import BITSANDBYTES, compute_dtype, loading_config, save_unquantized
from sftjob_trainer.rope import check_scaled, model_config, scale

logger = logging.getLogger(__name__)

_UNLOADABLE: Final = (ValueError, OSError, KeyError, ImportError, RuntimeError, SafetensorError, pickle.UnpicklingError)
"""What comes out of loading files that are no model of their config, or damaged."""


def load_model(directory: Path, config: RunConfig, choices: Choices, base: Path | None = None) -> Any:
    """The model of a directory, on the device to train on; RoPE scaling is of the model in `base`, or its own.

    Raises:
        Failure: the directory holds no causal language model that transformers can load.
    """
    quantization = config.method.quantization
    dtype = getattr(torch, choices.dtype.value)
    options: dict[str, Any] = {"dtype": dtype}
    try:
        stored = loading_config(directory, config, choices.precision)
        if stored is None and quantization is not None:
            options["quantization_config"] = quantization_config(quantization, choices.precision)
        options |= config_option(stored, directory, config.model, base)
        if quantization is not None:
            options["device_map"] = {"": _device(config)}
        model = _from_pretrained(directory, config, choices.attention, options)
    except torch.OutOfMemoryError:
        raise
    except _UNLOADABLE as error:
        raise Failure(
            Reason.CONFIG_INVALID,
            f"model.source: {config.model.source} can not be loaded as a causal language model: {error}",
        ) from error
    check_scaled(model, config.model.rope_scaling)
    if quantization is not None:
        keep_cpu_weights_trainable(model)
    elif stored is not None:
        _cast(model, dtype)
        save_unquantized(model)
    return model


def load_teacher(directory: Path, config: RunConfig, choices: Choices) -> Any:
    """The frozen teacher of a directory, on the device to train on, in the arithmetic of a step.

    Raises:
        Failure: the directory holds no causal language model that transformers can load.
    """
    half = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
    options: dict[str, Any] = {"dtype": half.get(choices.precision, torch.float32)}
    try:
        stored = loading_config(directory, config, choices.precision)
        if stored is not None:
            options["config"] = stored
            options["device_map"] = {"": _device(config)}
        teacher = _from_pretrained(directory, config, choices.attention, options)
    except torch.OutOfMemoryError:
        raise
    except _UNLOADABLE as error:
        raise Failure(
            Reason.CONFIG_INVALID,
            f"method.distillation.teacher.source can not be loaded as a causal language model: {error}",
        ) from error
    if stored is None:
        teacher = teacher.to(_device(config))
    elif getattr(teacher, "quantization_method", None) != BITSANDBYTES:
        _cast(teacher, options["dtype"])
    return teacher.eval().requires_grad_(requires_grad=False)


def config_option(stored: Any | None, directory: Path, model: Model, base: Path | None = None) -> dict[str, Any]:
    """The option `config` of `from_pretrained`, where the model's own is changed: `stored` already, or by its scaling.

    Raises:
        Failure: such a model cannot be scaled so.
    """
    if model.rope_scaling is not None:
        stored = model_config(directory, model) if stored is None else stored
        scale(stored, model.rope_scaling, model_config(base or directory, model))
    return {} if stored is None else {"config": stored}


def _device(config: RunConfig) -> str:
    """Where this process trains."""
    return f"cuda:{torch.cuda.current_device()}" if config.gpus else "cpu"


def _cast(model: Any, dtype: torch.dtype) -> None:
    """Bring 16-bit weights of a dequantized `model` to `dtype`: transformers leaves those that were not quantized."""
    for weights in model.parameters():
        if weights.dtype in (torch.bfloat16, torch.float16):
            weights.data = weights.data.to(dtype)


def _from_pretrained(directory: Path, config: RunConfig, attention: Attention | None, options: dict[str, Any]) -> Any:
    """Load from files alone. Where the attention was not asked for, a model that does not have it gets its own."""
    from transformers import AutoModelForCausalLM

    given = {} if attention is None else {"attn_implementation": attention.value}
    options = {**options, "trust_remote_code": config.model.trust_remote_code}
    try:
        return _whole(AutoModelForCausalLM.from_pretrained(directory, **options, **given, output_loading_info=True))
    except (ValueError, ImportError) as error:
        if attention is None or config.model.attention is not Attention.AUTO:
            raise
        logger.info("attention: the model does not take %s and gets its default: %s", attention, error)
    return _whole(AutoModelForCausalLM.from_pretrained(directory, **options, output_loading_info=True))


def _whole(loaded: tuple[Any, Mapping[str, Any]]) -> Any:
    """A model with the information on its loading, whose files had all its weights; transformers makes up the rest."""
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"its files have no weights for {missing[0]} and {len(missing) - 1} more")
    return model


def attention_of(model: Any) -> str:
    """What computes a loaded model's attention, under transformers' names; it has no public word for it."""
    return str(model.config._attn_implementation)  # noqa: SLF001 -- tests hold it to what is asked for


def quantization_config(quantization: Quantization, precision: Precision) -> Any:
    """Bitsandbytes' settings, under transformers' names."""
    from transformers import BitsAndBytesConfig

    if quantization.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.type.value,
        bnb_4bit_use_double_quant=quantization.double_quantization,
        bnb_4bit_compute_dtype=getattr(torch, compute_dtype(quantization, precision).value),
    )


def keep_cpu_weights_trainable(model: Any) -> None:
    """Keep bitsandbytes from repacking 4-bit weights for inference.

    On CPUs with AVX512-BF16 an evaluation repacks them in place, after which gradients through them are wrong, without
    a word. https://github.com/bitsandbytes-foundation/bitsandbytes, `Linear4bit.forward` in 0.50.
    """
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
