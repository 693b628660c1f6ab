"""The model to train: weights, quantization and LoRA, from the run config."""

from pathlib import Path
from typing import Any, Final

import torch

from sftjob_contract.config import Lora, Method, Precision, Quantization, RunConfig
from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure

ALL_LINEAR: Final = "all-linear"
"""PEFT's word for every linear layer but the output head."""


def use_bf16(config: RunConfig) -> bool:
    """Whether training steps run in bf16 autocast; decided by the hardware when the precision is auto.

    Raises:
        Failure: the run asks for GPUs or an arithmetic that is not there.
    """
    if config.gpus and not torch.cuda.is_available():
        raise Failure(
            Reason.CONFIG_INVALID,
            "resources.gpus: 1 was asked for, but no CUDA device is visible in the container; "
            "write 0 to train on the CPU, or see that the node's GPU driver and device plugin work",
        )
    precision = config.training.precision
    if precision is Precision.AUTO:
        return config.gpus > 0 and torch.cuda.is_bf16_supported()
    if precision is Precision.BF16 and config.gpus and not torch.cuda.is_bf16_supported():
        raise Failure(
            Reason.CONFIG_INVALID,
            f"training.precision: bf16 is not supported by {torch.cuda.get_device_name()}; write fp32 or auto",
        )
    return precision is Precision.BF16


def load_model(directory: Path, config: RunConfig, *, bf16: bool) -> Any:
    """The model of a directory, on the device to train on.

    Trained weights are fp32, since updates of bf16 weights get lost in rounding. Frozen ones need only the precision
    that they are computed in.

    Raises:
        Failure: the directory holds no causal language model that transformers can load.
    """
    from transformers import AutoModelForCausalLM

    frozen = config.method.lora is not None
    quantization = config.method.quantization
    options: dict[str, Any] = {"dtype": torch.bfloat16 if frozen and bf16 else torch.float32}
    if quantization is not None:
        options["quantization_config"] = quantization_config(quantization)
        options["device_map"] = {"": "cuda:0" if config.gpus else "cpu"}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            directory, trust_remote_code=config.model.trust_remote_code, **options
        )
    except (ValueError, OSError, KeyError) as error:
        raise Failure(
            Reason.CONFIG_INVALID,
            f"model.source: {config.model.source} can not be loaded as a causal language model: {error}",
        ) from error
    if quantization is not None:
        keep_cpu_weights_trainable(model)
    return model


def quantization_config(quantization: Quantization) -> Any:
    """Bitsandbytes' settings, under transformers' names."""
    from transformers import BitsAndBytesConfig

    if quantization.bits == 8:
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization.type.value,
        bnb_4bit_use_double_quant=quantization.double_quantization,
        bnb_4bit_compute_dtype=getattr(torch, quantization.compute_dtype.value),
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


def lora_config(method: Method) -> Any:
    """PEFT's LoraConfig; None for full fine-tuning."""
    return None if method.lora is None else _lora_config(method.lora)


def _lora_config(lora: Lora) -> Any:
    from peft import LoraConfig

    modules = list(lora.target_modules)
    return LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=ALL_LINEAR if modules == [ALL_LINEAR] else modules,
        task_type="CAUSAL_LM",
    )
