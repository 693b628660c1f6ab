"""Base models with quantized weights: what can be trained on them, and how they are loaded."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import Precision, RunConfig
from sftjob_contract.run.method import LOFTQ, ComputeDtype, Quantization, uses_loftq
from sftjob_trainer.process.errors import StageError

logger = logging.getLogger(__name__)

BITSANDBYTES: Final = "bitsandbytes"
DEQUANTIZED: Final = ("fp8", "mxfp4")
"""Methods whose weights transformers dequantizes to 16 bits on loading, with PyTorch alone."""
_FILES: Final = {"quantize_config.json": "gptq", "quant_config.json": "awq", "hf_quant_config.json": "modelopt"}
"""Files in which AutoGPTQ, AutoAWQ and ModelOpt store what transformers has in config.json."""
_TRAINABLE: Final = (
    f"only bases of {BITSANDBYTES} (with method.lora and method.quantization) and of {' and '.join(DEQUANTIZED)} "
    "(which are dequantized) can be trained"
)
_UNQUANTIZED: Final = "name the repository with the model's 16-bit weights in model.source"


@dataclass(frozen=True, kw_only=True)
class BaseQuantization:
    """How a base stores its weights: transformers' `quant_method`, and with bitsandbytes the number of bits."""

    method: str
    bits: int | None

    def __str__(self) -> str:
        return self.method if self.bits is None else f"{self.method}, {self.bits} bits"


def base_quantization(settings: Mapping[str, Any], directory: Path) -> BaseQuantization | None:
    """Quantization of the weights in `directory` from its config.json; None if they are not quantized."""
    found = _section(settings)
    if found is None:
        method = next((method for name, method in _FILES.items() if (directory / name).is_file()), None)
        return None if method is None else BaseQuantization(method=method, bits=None)
    if found.get("load_in_4bit") or found.get("load_in_8bit"):
        return BaseQuantization(method=BITSANDBYTES, bits=4 if found.get("load_in_4bit") else 8)
    return BaseQuantization(method=str(found.get("quant_method", "an unnamed method")), bits=None)


def check_base(config: RunConfig, base: BaseQuantization | None) -> None:
    """Check that `config` can be trained on weights stored as in `base`.

    Raises:
        StageError: it cannot; one sentence names all required changes.
    """
    if base is None:
        return
    if found := list(_problems(config, base)):
        message = f"{config.model.source} is quantized already ({base}): {', and '.join(found)}; or {_UNQUANTIZED}"
        raise StageError(Reason.CONFIG_INVALID, f"model.source: {message}")
    if base.method in DEQUANTIZED:
        logger.info("      the model's weights are quantized (%s) and are dequantized when they are loaded", base)
    else:
        logger.info("      the model's weights keep their own quantization (%s), type and doubleQuantization too", base)


def check_teacher(source: str, base: BaseQuantization | None) -> None:
    """Check that a teacher whose weights are stored as in `base` can be loaded.

    Raises:
        StageError: it cannot.
    """
    if base is not None and base.method not in (BITSANDBYTES, *DEQUANTIZED):
        raise StageError(
            Reason.CONFIG_INVALID,
            f"method.distillation.teacher.source: {source} is quantized with {base}, which this trainer cannot load; "
            "name the repository with the teacher's 16-bit weights",
        )


def loading_config(directory: Path, config: RunConfig, precision: Precision) -> Any | None:
    """The model's own config, modified for training, to load it with; None if it is not quantized and loads unmodified.

    Products of 4-bit weights are computed in the dtype of method.quantization; other formats are dequantized. If this
    were passed as a separate `quantization_config`, transformers would drop its list of unquantized layers.
    """
    from transformers import AutoConfig

    loaded = AutoConfig.from_pretrained(directory, trust_remote_code=config.model.trust_remote_code)
    stored = getattr(loaded, "quantization_config", None)
    if stored is None:
        return None
    settings = dict(stored if isinstance(stored, Mapping) else stored.to_dict())
    if settings.get("quant_method") in DEQUANTIZED:
        settings["dequantize"] = True
    elif config.method.quantization is not None:
        settings["bnb_4bit_compute_dtype"] = compute_dtype(config.method.quantization, precision).value
    loaded.quantization_config = settings
    return loaded


def save_unquantized(model: Any) -> None:
    """Make a dequantized `model` save its weights under the names of its class.

    transformers reverses the loading conversions when it saves. It would store 16-bit weights under the names of
    quantized blocks, without the scales, and a model loaded from them would have new experts. Its own GGUF loader
    clears the same attribute.
    """
    model._weight_conversions = None  # noqa: SLF001 -- tests verify loadable names


def compute_dtype(quantization: Quantization, precision: Precision) -> ComputeDtype:
    """Dtype for products of 4-bit weights. In fp16 training, 16 bits means fp16."""
    compute_type = quantization.compute_dtype
    return (
        ComputeDtype.FLOAT16 if precision is Precision.FP16 and compute_type is ComputeDtype.BFLOAT16 else compute_type
    )


def _problems(config: RunConfig, base: BaseQuantization) -> Iterator[str]:
    quantization = config.method.quantization
    if base.method in DEQUANTIZED:
        if quantization is not None:
            yield "remove method.quantization, which cannot quantize such weights again"
        return
    if base.method != BITSANDBYTES:
        yield f"{_TRAINABLE}, so write another model.source"
        return
    if config.method.lora is None:
        yield f"write method.lora with method.quantization.bits: {base.bits}, since such weights cannot be trained"
    elif quantization is None or quantization.bits != base.bits:
        yield f"write method.quantization.bits: {base.bits}"
    if uses_loftq(config.method.lora):
        yield f"remove method.lora.extra.init_lora_weights: {LOFTQ}, which needs the weights before they were quantized"
    if config.output.merge_adapter:
        yield "remove output.mergeAdapter, since an adapter is not merged into such weights"


def _section(settings: Mapping[str, Any]) -> Mapping[str, Any] | None:
    """The quantization section of config.json: at the top level, in the text config, or under its old name."""
    text = settings.get("text_config")
    locations = (settings, text if isinstance(text, Mapping) else {})
    names = ("quantization_config", "compression_config")
    return next(
        (found for location in locations for name in names if isinstance(found := location.get(name), Mapping)), None
    )
