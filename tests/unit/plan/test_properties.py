"""What must hold for every run: parts sum up, and more of anything never takes less."""

from dataclasses import fields, replace
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from sftjob_contract.reports.model_shape import ModelShape
from sftjob_contract.run.config import ModelDtype, Precision, RunConfig
from sftjob_contract.run.method import ComputeDtype, LoraBias, Method, Quantization, QuantizationType
from sftjob_contract.run.optimization import Optimizer
from sftjob_operator.plan import (
    alternative,
    checkpoint_bytes,
    disk_bytes,
    gpu_memory,
    host_memory_bytes,
    trainable_parameters,
)
from support.jobs.model_shapes import LLAMA_8B, QWEN_05B, stats_with
from support.trainer.tiny import lora, run_config

SHAPES = st.sampled_from([QWEN_05B, LLAMA_8B])
QUANTIZATIONS = st.builds(
    Quantization,
    bits=st.sampled_from([4, 8]),
    type=st.sampled_from(QuantizationType),
    double_quantization=st.booleans(),
    compute_dtype=st.just(ComputeDtype.BFLOAT16),
)


@st.composite
def methods(draw: st.DrawFn) -> Method:
    if draw(st.booleans()):
        return Method(lora=None, quantization=None, distillation=None)
    return lora(
        draw(st.integers(1, 256)),
        quantization=draw(st.none() | QUANTIZATIONS),
        dropout=draw(st.sampled_from([0.0, 0.05])),
        target_modules=draw(st.sampled_from([("all-linear",), ("q_proj", "v_proj"), ("mlp.down_proj",)])),
        bias=draw(st.sampled_from(LoraBias)),
        dora=draw(st.booleans()),
        modules_to_save=draw(st.sampled_from([(), ("lm_head",), ("embed_tokens", "lm_head")])),
    )


@st.composite
def runs(draw: st.DrawFn) -> RunConfig:
    config = run_config(
        model="/m",
        dataset="/d",
        method=draw(methods()),
        per_device_batch_size=draw(st.integers(1, 64)),
        gradient_accumulation_steps=draw(st.integers(1, 8)),
        max_length=draw(st.integers(8, 16_384)),
        optimizer=draw(st.sampled_from(Optimizer)),
        precision=draw(st.sampled_from(Precision)),
        packing=draw(st.booleans()),
        gradient_checkpointing=draw(st.booleans()),
    )
    dtype = draw(st.sampled_from(ModelDtype))
    return replace(config, gpus=draw(st.integers(0, 8)), model=replace(config.model, dtype=dtype))


def training(config: RunConfig, **changes: Any) -> RunConfig:
    return replace(config, training=replace(config.training, **changes))


def total(config: RunConfig, shape: ModelShape) -> int:
    return gpu_memory(config, shape, config.training.max_length).total


@given(runs(), SHAPES)
def test_parts_are_counts_and_sum_to_the_total(config: RunConfig, shape: ModelShape) -> None:
    memory = gpu_memory(config, shape, config.training.max_length)
    parts = [getattr(memory, field.name) for field in fields(memory)]
    assert all(isinstance(part, int) and part >= 0 for part in parts)
    assert memory.total == sum(parts)


@given(runs(), SHAPES, st.integers(1, 64))
def test_a_larger_batch_never_takes_less(config: RunConfig, shape: ModelShape, more: int) -> None:
    larger = training(config, per_device_batch_size=config.training.per_device_batch_size + more)
    assert total(larger, shape) >= total(config, shape)


@given(runs(), SHAPES, st.integers(1, 4096))
def test_longer_rows_never_take_less(config: RunConfig, shape: ModelShape, more: int) -> None:
    longer = training(config, max_length=config.training.max_length + more)
    assert total(longer, shape) >= total(config, shape)


@given(runs(), SHAPES)
def test_checkpointing_never_takes_more(config: RunConfig, shape: ModelShape) -> None:
    with_it, without = training(config, gradient_checkpointing=True), training(config, gradient_checkpointing=False)
    assert total(with_it, shape) <= total(without, shape)


@given(runs(), SHAPES, st.integers(1, 64))
def test_a_higher_rank_never_trains_or_stores_less(config: RunConfig, shape: ModelShape, more: int) -> None:
    if config.method.lora is None:
        return
    wider = replace(config.method, lora=replace(config.method.lora, rank=config.method.lora.rank + more))
    higher = replace(config, method=wider)
    assert trainable_parameters(wider, shape) > trainable_parameters(config.method, shape)
    assert gpu_memory(higher, shape, 1024).adapter > gpu_memory(config, shape, 1024).adapter
    assert gpu_memory(higher, shape, 1024).gradients > gpu_memory(config, shape, 1024).gradients
    assert checkpoint_bytes(higher, shape) > checkpoint_bytes(config, shape)


@given(runs(), SHAPES)
def test_an_adapter_trains_no_more_than_there_is_room_for(config: RunConfig, shape: ModelShape) -> None:
    trained = trainable_parameters(config.method, shape)
    assert trained == shape.parameters if config.method.lora is None else trained > 0


@given(runs(), SHAPES, st.integers(1, 100_000))
def test_more_checkpoints_never_need_less_room(config: RunConfig, shape: ModelShape, steps: int) -> None:
    stats = stats_with(shape, max_steps=steps, steps_per_epoch=max(1, steps // 3))
    more = replace(config, checkpoints=replace(config.checkpoints, keep=config.checkpoints.keep + 1))
    needed = disk_bytes(config, shape, stats, caches_on_volume=True)
    assert needed >= checkpoint_bytes(config, shape)
    assert disk_bytes(more, shape, stats, caches_on_volume=True) >= needed


@given(runs(), SHAPES)
def test_the_container_of_a_run_without_gpus_holds_all_of_it(config: RunConfig, shape: ModelShape) -> None:
    cpu = replace(config, gpus=0)
    assert host_memory_bytes(cpu, shape, 512) > gpu_memory(cpu, shape, 512).total


@given(runs(), SHAPES, st.integers(1, 200))
def test_an_alternative_fits_by_the_same_arithmetic(config: RunConfig, shape: ModelShape, gib: int) -> None:
    config = replace(config, gpus=max(1, config.gpus))
    found = alternative(config, shape, config.training.max_length, gib << 30)
    if found is not None and total(config, shape) > gib << 30:
        assert found.changes
        assert found.total_bytes <= gib << 30
