"""Changes with which a run fits into a GPU, by the same arithmetic that rejects it."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sftjob_contract.reports.model_shape import ModelShape
from sftjob_contract.run.batches import micro_batches
from sftjob_contract.run.config import RunConfig
from sftjob_contract.run.optimization import Optimizer
from sftjob_operator.api import LoraSpec, QuantizationSpec
from sftjob_operator.plan.memory import gpu_memory

_ADAMW: Final = frozenset({Optimizer.ADAMW_TORCH, Optimizer.ADAMW_TORCH_FUSED, Optimizer.PAGED_ADAMW_32BIT})
"""Optimizers that paged_adamw_8bit can replace."""


@dataclass(frozen=True, kw_only=True)
class Alternative:
    """Changes that together make a run fit, with the resource's field names, and the memory needed with them."""

    changes: tuple[str, ...]
    total_bytes: int


@dataclass(frozen=True)
class _Change:
    """One step: the changed config, and how to write the change."""

    config: RunConfig
    text: str


_Step = Callable[[RunConfig], Sequence[_Change]]
"""Function from a config to the possible next changes, the mildest first; empty if there is none."""


def alternative(config: RunConfig, shape: ModelShape, row_tokens: int, limit_bytes: int) -> Alternative | None:
    """Return the first changes, from the mildest on, with which the run fits into `limit_bytes`; None: none suffice.

    Each step adds to those before it. Unnecessary steps are then removed, the most severe first.
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
    changed, text = _after(wanted, config, total, limit_bytes)
    return Alternative(changes=text, total_bytes=total(changed))


def _after(
    steps: list[_Step], config: RunConfig, total: Callable[[RunConfig], int], limit_bytes: int
) -> tuple[RunConfig, tuple[str, ...]]:
    text = []
    for step in steps:
        changes = step(config)
        fitting = (change for change in changes if total(change.config) <= limit_bytes)
        if (change := next(fitting, changes[-1] if changes else None)) is not None:
            config = change.config
            text.append(change.text)
    return config, tuple(text)


def _checkpointing(config: RunConfig) -> Sequence[_Change]:
    if config.training.gradient_checkpointing is not False:
        return ()
    training = replace(config.training, gradient_checkpointing=True)
    return (_Change(replace(config, training=training), "training.gradientCheckpointing: true"),)


def _smaller_batch(config: RunConfig) -> Sequence[_Change]:
    """Return the smaller micro-batches with the same number of sequences in a step.

    If sequences pass through the model one at a time already, a smaller micro-batch needs no less memory.
    """
    training, changes = config.training, []
    if micro_batches(config)[0] == 1:
        return ()
    sequences = training.per_device_batch_size * training.gradient_accumulation_steps
    for size in range(training.per_device_batch_size - 1, 0, -1):
        if sequences % size == 0:
            changed = replace(training, per_device_batch_size=size, gradient_accumulation_steps=sequences // size)
            accumulated = f"gradientAccumulationSteps: {sequences // size} (the same global batch)"
            text = f"training.perDeviceBatchSize: {size} with {accumulated}"
            changes.append(_Change(replace(config, training=changed), text))
    return changes


def _optimizer(config: RunConfig) -> Sequence[_Change]:
    if config.training.optimizer not in _ADAMW:
        return ()
    optimizer = Optimizer.PAGED_ADAMW_8BIT
    training = replace(config.training, optimizer=optimizer)
    return (_Change(replace(config, training=training), f"training.optimizer: {optimizer}"),)


def _lora(config: RunConfig) -> Sequence[_Change]:
    if config.method.lora is not None:
        return ()
    method = replace(config.method, lora=LoraSpec().to_contract())
    return (_Change(replace(config, method=method), "method.lora: {} instead of method.full"),)


def _qlora(config: RunConfig) -> Sequence[_Change]:
    wanted, quantization = QuantizationSpec().to_contract(), config.method.quantization
    if config.method.lora is None or (quantization is not None and quantization.bits == wanted.bits):
        return ()
    method = replace(config.method, quantization=wanted)
    return (_Change(replace(config, method=method), f"method.quantization: {{bits: {wanted.bits}}}"),)


_STEPS: Final[tuple[_Step, ...]] = (_checkpointing, _smaller_batch, _optimizer, _lora, _qlora)
"""From changes that cost only time to changes of what is trained."""
