"""Bytes per element: of the weights, of trained parameters, and of the arithmetic in a step."""

from typing import Final

from sftjob_contract.run.config import ModelDtype, Precision, RunConfig

_FP32: Final = 4
_HALF: Final = 2
"""bf16 and fp16."""


def weight_bytes(config: RunConfig) -> int:
    """Return the bytes of an unquantized weight. Dtype auto: fp32 if it is trained, else that of the steps."""
    dtype = config.model.dtype
    if dtype is ModelDtype.AUTO:
        return _FP32 if config.method.lora is None else _step_bytes(config)
    return _FP32 if dtype is ModelDtype.FLOAT32 else _HALF


def compute_bytes(config: RunConfig) -> int:
    """Return the bytes of a matrix product's result: 16 bits under autocast, else those of the weights."""
    step = _step_bytes(config)
    return step if step == _HALF else weight_bytes(config)


def _step_bytes(config: RunConfig) -> int:
    """Return the bytes of an element in training.precision; auto is bf16 or fp16 on GPUs."""
    precision = config.training.precision
    if precision is Precision.AUTO:
        return _HALF if config.gpus else _FP32
    return _FP32 if precision is Precision.FP32 else _HALF


def trained_bytes(config: RunConfig) -> int:
    """Return the bytes of a trained weight. LoRA trains fp32, whatever the dtype of the base."""
    return weight_bytes(config) if config.method.lora is None else _FP32
