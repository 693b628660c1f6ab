"""Load the model to train, from its directory, the run config and the machine."""

import logging
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from safetensors import SafetensorError

from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import Attention, Model, Precision, RunConfig
from sftjob_contract.run.method import Quantization
from sftjob_trainer.models.hardware import VARLEN_ATTENTION, Choices
from sftjob_trainer.models.packing.varlen_attention import use_varlen_attention
from sftjob_trainer.models.quantized_base import BITSANDBYTES, compute_dtype, loading_config, save_unquantized
from sftjob_trainer.models.rope import check_scaled, model_config, scale
from sftjob_trainer.process.errors import StageError

logger = logging.getLogger(__name__)

_UNLOADABLE: Final = (ValueError, OSError, KeyError, ImportError, RuntimeError, SafetensorError, pickle.UnpicklingError)
"""Errors of loading files that are damaged, or are not a model of their config."""


def load_model(directory: Path, config: RunConfig, choices: Choices, base: Path | None = None) -> Any:
    """Load the model of a directory onto the training device; RoPE scaling is that of the model in `base`, or its own.

    Raises:
        StageError: the directory holds no causal language model that transformers can load.
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
        model = _from_pretrained(directory, config, choices.loaded_attention, options)
    except torch.OutOfMemoryError:
        raise
    except _UNLOADABLE as error:
        raise StageError(
            Reason.CONFIG_INVALID,
            f"model.source: {config.model.source} cannot be loaded as a causal language model: {error}",
        ) from error
    check_scaled(model, config.model.rope_scaling)
    if quantization is None and stored is not None:
        _cast(model, dtype)
        save_unquantized(model)
    return model


def load_teacher(directory: Path, config: RunConfig, choices: Choices) -> Any:
    """Load the frozen teacher of a directory onto the training device, in the arithmetic of a training step.

    Raises:
        StageError: the directory holds no causal language model that transformers can load.
    """
    half_types = {Precision.BF16: torch.bfloat16, Precision.FP16: torch.float16}
    options: dict[str, Any] = {"dtype": half_types.get(choices.precision, torch.float32)}
    try:
        stored = loading_config(directory, config, choices.precision)
        if stored is not None:
            options["config"] = stored
            options["device_map"] = {"": _device(config)}
        teacher = _from_pretrained(directory, config, choices.loaded_attention, options)
    except torch.OutOfMemoryError:
        raise
    except _UNLOADABLE as error:
        raise StageError(
            Reason.CONFIG_INVALID,
            f"method.distillation.teacher.source cannot be loaded as a causal language model: {error}",
        ) from error
    if stored is None:
        teacher = teacher.to(_device(config))
    elif getattr(teacher, "quantization_method", None) != BITSANDBYTES:
        _cast(teacher, options["dtype"])
    set_attention(teacher, choices, options["dtype"])
    return teacher.eval().requires_grad_(requires_grad=False)


def set_attention(model: Any, choices: Choices, precision: torch.dtype) -> None:
    """Let a loaded model that computes in `precision` use VARLEN_ATTENTION, if chosen and the model takes it."""
    if choices.attention != VARLEN_ATTENTION:
        return
    reason = use_varlen_attention(model, precision)
    if reason is not None:
        logger.info("attention %s is not used: %s", VARLEN_ATTENTION, reason)


def config_option(stored: Any | None, directory: Path, model: Model, base: Path | None = None) -> dict[str, Any]:
    """The option `config` of `from_pretrained`, if the model's config is changed: by `stored`, or by its RoPE scaling.

    Raises:
        StageError: the model does not support this scaling.
    """
    if model.rope_scaling is not None:
        stored = model_config(directory, model) if stored is None else stored
        scale(stored, model.rope_scaling, model_config(base or directory, model))
    return {} if stored is None else {"config": stored}


def _device(config: RunConfig) -> str:
    """The device that this process trains on."""
    return f"cuda:{torch.cuda.current_device()}" if config.gpus else "cpu"


def _cast(model: Any, dtype: torch.dtype) -> None:
    """Cast 16-bit weights of a dequantized `model` to `dtype`: transformers skips those that were not quantized."""
    for weights in model.parameters():
        if weights.dtype in (torch.bfloat16, torch.float16):
            weights.data = weights.data.to(dtype)


def _from_pretrained(directory: Path, config: RunConfig, attention: str | None, options: dict[str, Any]) -> Any:
    """Load from local files only. Unless the config sets the attention, a model without it falls back to its own."""
    from transformers import AutoModelForCausalLM

    from_pretrained: Any = AutoModelForCausalLM.from_pretrained  # annotated without output_loading_info
    attention_options = {} if attention is None else {"attn_implementation": str(attention)}
    options = {**options, "trust_remote_code": config.model.trust_remote_code}
    try:
        return _complete_model(
            AutoModelForCausalLM.from_pretrained(directory, **options, **attention_options, output_loading_info=True)
        )
    except (ValueError, ImportError) as error:
        if attention is None or config.model.attention is not Attention.AUTO:
            raise
        logger.info("attention: the model does not take %s and gets its default: %s", attention, error)
    return _complete_model(from_pretrained(directory, **options, output_loading_info=True))


def _complete_model(loaded: tuple[Any, Mapping[str, Any]]) -> Any:
    """A model whose files had all its weights, from its loading info; transformers initializes missing weights."""
    model, info = loaded
    if missing := sorted(info["missing_keys"]):
        raise ValueError(f"its files have no weights for {missing[0]} and {len(missing) - 1} more")
    if getattr(model, "quantization_method", None) == BITSANDBYTES:
        keep_cpu_weights_trainable(model)
    return model


def attention_of(model: Any) -> str:
    """A loaded model's attention implementation, by transformers' name; transformers has no public attribute for it."""
    return str(model.config._attn_implementation)  # noqa: SLF001 -- tests compare it with the requested one


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

    On CPUs with AVX512-BF16 an evaluation repacks them in place. Gradients through them are then silently wrong, and a
    layer of fewer inputs than a block of the quantization fails.
    https://github.com/bitsandbytes-foundation/bitsandbytes, `Linear4bit.forward` in 0.50.
    """
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False
