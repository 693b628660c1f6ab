"""What to change so that a run fits into a GPU, by the same arithmetic that says it does not."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Final

from sftjob_contract.config import RunConfig
from sftjob_contract.method import Lora, Quantization
from sftjob_contract.model_shape import ModelShape
from sftjob_contract.optimization import Optimizer
from sftjob_operator.api import LoraSpec, QuantizationSpec
from sftjob_operator.plan.memory import gpu_memory

_ADAMW: Final = frozenset({Optimizer.ADAMW_TORCH, Optimizer.ADAMW_TORCH_FUSED, Optimizer.PAGED_ADAMW_32BIT})
"""Optimizers that paged_adamw_8bit stands in for."""


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """Changes that together make a run fit, in the resource's words, and the memory that it needs then."""

    changes: tuple[str, ...]
    total_bytes: int


@dataclass(frozen=True)
class _Change:
    """One step: the config after it, and how to write it."""

    config: RunConfig
    words: str


_Step = Callable[[RunConfig, Callable[[RunConfig], int], int], _Change | None]
"""From a config, its arithmetic and the limit to the next change; None where it changes nothing."""


def alternative(config: RunConfig, shape: ModelShape, row_tokens: int, limit_bytes: int) -> Alternative | None:
    """The first changes, from the mildest on, after which the run needs no more than `limit_bytes`; None: none do.

    Each step comes on top of those before it. Those that turn out not to be needed are left out again, the harshest
    first.
    """

    def total(changed: RunConfig) -> int:
        return gpu_memory(changed, shape, row_tokens).total

    wanted: list[_Step] = []
    for step in _STEPS:
        wanted.append(step)
        if total(_after(wanted, config, total, limit_bytes)[0]) <= limit_bytes:
            break
    else:
        return None
    for step in reversed(wanted[:-1]):
        fewer = [kept for kept in wanted if kept is not step]
        if total(_after(fewer, config, total, limit_bytes)[0]) <= limit_bytes:
            wanted = fewer
    changed, words = _after(wanted, config, total, limit_bytes)
    return Alternative(changes=words, total_bytes=total(changed))


def _after(
    steps: list[_Step], config: RunConfig, total: Callable[[RunConfig], int], limit_bytes: int
) -> tuple[RunConfig, tuple[str, ...]]:
    words = []
    for step in steps:
        change = step(config, total, limit_bytes)
        if change is not None:
            config = change.config
            words.append(change.words)
    return config, tuple(words)


def _checkpointing(config: RunConfig, total: Callable[[RunConfig], int], limit_bytes: int) -> _Change | None:
    del total, limit_bytes
    if config.training.gradient_checkpointing is not False:
        return None
    training = replace(config.training, gradient_checkpointing=True)
    return _Change(replace(config, training=training), "training.gradientCheckpointing: true")


def _smaller_batch(config: RunConfig, total: Callable[[RunConfig], int], limit_bytes: int) -> _Change | None:
    """The largest micro-batch that fits, else the smallest, with the same sequences in a step."""
    smaller = [change for change in _batches(config) if total(change.config) < total(config)]
    fitting = (change for change in smaller if total(change.config) <= limit_bytes)
    return next(fitting, smaller[-1] if smaller else None)


def _batches(config: RunConfig) -> Iterator[_Change]:
    training = config.training
    sequences = training.per_device_batch_size * training.gradient_accumulation_steps
    for size in range(training.per_device_batch_size - 1, 0, -1):
        if sequences % size == 0:
            changed = replace(training, per_device_batch_size=size, gradient_accumulation_steps=sequences // size)
            accumulated = f"gradientAccumulationSteps: {sequences // size} (the same global batch)"
            words = f"training.perDeviceBatchSize: {size} with {accumulated}"
            yield _Change(replace(config, training=changed), words)


def _optimizer(config: RunConfig, total: Callable[[RunConfig], int], limit_bytes: int) -> _Change | None:
    del total, limit_bytes
    if config.training.optimizer not in _ADAMW:
        return None
    optimizer = Optimizer.PAGED_ADAMW_8BIT
    training = replace(config.training, optimizer=optimizer)
    return _Change(replace(config, training=training), f"training.optimizer: {optimizer}")


def _lora(config: RunConfig, total: Callable[[RunConfig], int], limit_bytes: int) -> _Change | None:
    del total, limit_bytes
    if config.method.lora is not None:
        return None
    spec = LoraSpec()
    lora = Lora(
        rank=spec.rank,
        alpha=spec.alpha,
        dropout=spec.dropout,
        target_modules=spec.target_modules,
        bias=spec.bias,
        rslora=spec.rslora,
        dora=spec.dora,
        modules_to_save=spec.modules_to_save,
        extra=spec.extra,
    )
    return _Change(replace(config, method=replace(config.method, lora=lora)), "method.lora: {} instead of method.full")


def _qlora(config: RunConfig, total: Callable[[RunConfig], int], limit_bytes: int) -> _Change | None:
    del total, limit_bytes
    spec = QuantizationSpec()
    quantization = config.method.quantization
    if config.method.lora is None or (quantization is not None and quantization.bits == spec.bits):
        return None
    changed = Quantization(
        bits=spec.bits,
        type=spec.type,
        double_quantization=spec.double_quantization,
        compute_dtype=spec.compute_dtype,
    )
    method = replace(config.method, quantization=changed)
    return _Change(replace(config, method=method), f"method.quantization: {{bits: {spec.bits}}}")


_STEPS: Final[tuple[_Step, ...]] = (_checkpointing, _smaller_batch, _optimizer, _lora, _qlora)
"""From what costs only time to what trains something else."""
