"""What a job's status tells of its plan, and when a run is refused, with which words."""

import dataclasses
import re

import pytest

from sftjob_contract.reports.model_shape import ModelShape, UnfrozenShape
from sftjob_operator.api import PlanStatus, SFTJob
from sftjob_operator.plan import training_disk_bytes
from sftjob_operator.reconcile.spec.plan_status import misfit, plan_status
from sftjob_operator.render import run_config
from support.jobs.builders import JobBuilder, a_job
from support.jobs.model_shapes import LLAMA_8B, QWEN_05B, stats_with

GIB = 1 << 30


def plan(builder: JobBuilder, shape: ModelShape | None = LLAMA_8B, **numbers: int) -> PlanStatus:
    usual = {
        "rows": 1000,
        "train_rows": 1000,
        "tokens": 900_000,
        "truncated_rows": 1,
        "max_steps": 100,
        "evaluation_rows": 0,
    }
    return plan_status(builder.build(), stats_with(shape, **{**usual, **numbers}))


def sentence(builder: JobBuilder, shape: ModelShape = LLAMA_8B, **numbers: int) -> str:
    said = misfit(plan(builder, shape, **numbers))
    assert said is not None
    return said


def on(memory: str) -> JobBuilder:
    return a_job().resources(gpus=1, gpu_memory=memory)


def predicted(builder: JobBuilder, shape: ModelShape = LLAMA_8B) -> int:
    memory = plan(builder, shape).memory
    assert memory is not None
    return memory.total


def apply(builder: JobBuilder, advice: str) -> JobBuilder:
    """The job with what the sentence advises."""
    values = dict(re.findall(r"(\w+): (\w+|\{.*?\})", advice.split("These changes make it fit")[1]))
    if "perDeviceBatchSize" in values:
        builder = builder.training(
            per_device_batch_size=int(values["perDeviceBatchSize"]),
            gradient_accumulation_steps=int(values["gradientAccumulationSteps"]),
        )
    if "gradientCheckpointing" in values:
        builder = builder.training(gradient_checkpointing=True)
    if "optimizer" in values:
        builder = builder.training(optimizer=values["optimizer"])
    if "lora" in values:
        builder = builder.lora()
    return builder.set("method.quantization", {"bits": 4}) if "quantization" in values else builder


def test_the_status_has_counts_and_predictions() -> None:
    told = plan(on("80Gi"), QWEN_05B, steps_per_epoch=25)
    assert (told.steps, told.steps_per_epoch, told.rows, told.tokens) == (100, 25, 1000, 900_000)
    assert told.parameters == 494_032_768
    assert told.trainable_parameters == 8_798_208
    assert told.gpu_memory_bytes == 80 * GIB
    assert told.memory is not None
    parts = told.memory.model_dump(exclude={"total"})
    assert sum(parts.values()) == told.memory.total
    assert told.checkpoint_bytes == 8_798_208 * (4 + 8)
    assert told.misfit is None


def test_without_a_shape_there_are_the_counts_only() -> None:
    told = plan(on("1Gi"), None)
    assert told.steps == 100
    assert (told.parameters, told.memory, told.disk_bytes, told.misfit) == (None, None, None, None)


def test_options_of_peft_that_may_change_the_adapter_leave_the_rest_open() -> None:
    told = plan(on("1Gi").lora(extra={"rank_pattern": {"q_proj": 4}}))
    assert told.parameters == LLAMA_8B.parameters
    assert (told.trainable_parameters, told.memory, told.misfit) == (None, None, None)


def test_an_initialization_of_the_adapter_is_planned_for_and_eva_which_chooses_ranks_is_not() -> None:
    usual, pissa, eva = (
        plan(on("80Gi").lora(extra=extra), QWEN_05B)
        for extra in ({}, {"init_lora_weights": "pissa"}, {"init_lora_weights": "eva"})
    )
    assert pissa.trainable_parameters == usual.trainable_parameters
    assert (pissa.checkpoint_bytes or 0) - (usual.checkpoint_bytes or 0) == 4 * 8_798_208
    assert (eva.parameters, eva.checkpoint_bytes) == (usual.parameters, None)


def test_a_run_that_trains_a_part_of_the_weights_is_not_refused_for_activations_that_it_may_not_need() -> None:
    part = dataclasses.replace(LLAMA_8B, unfrozen=(UnfrozenShape(rows=4096, columns=1, count=1),))
    job = on("40Gi").full().training(per_device_batch_size=256, gradient_checkpointing=False)
    told = plan(job, part)
    assert told.memory is not None
    assert told.memory.total > 1.25 * 40 * GIB
    assert (told.trainable_parameters, told.misfit) == (4096, None)
    assert misfit(plan(job)) is not None


def test_disk_holds_model_data_checkpoints_and_output() -> None:
    base = on("80Gi").model("acme/model").checkpoints(keep=2, every_steps=10)
    told = plan(base, QWEN_05B, max_steps=1000, evaluation_rows=100)
    adapter, checkpoint = 4 * 8_798_208, 12 * 8_798_208
    data = 8 * 900_000 * 11 // 10
    assert told.disk_bytes == QWEN_05B.weight_bytes + data + 4 * checkpoint + adapter
    shared = plan(base.storage(shared_cache_claim="hub"), QWEN_05B, max_steps=1000, evaluation_rows=100)
    assert told.disk_bytes - QWEN_05B.weight_bytes == shared.disk_bytes
    sources = ("s3://lab/model", "https://lab.example/model.zip", "pvc://models/qwen", "/models/qwen")
    found = {source: plan(base.model(source), QWEN_05B, max_steps=1000, evaluation_rows=100) for source in sources}
    assert [told.disk_bytes - other.disk_bytes for other in found.values()] == [0, 0, *[QWEN_05B.weight_bytes] * 2]
    merged = plan(base.set("output", {"mergeAdapter": True}), QWEN_05B, max_steps=1000, evaluation_rows=100)
    assert merged.disk_bytes == told.disk_bytes + 2 * (2 * QWEN_05B.parameters)  # where it is made, and made


def test_a_run_takes_no_more_checkpoints_than_it_has_steps_for() -> None:
    once = plan(on("80Gi").checkpoints(keep=10, every_steps=1000), QWEN_05B, max_steps=100)
    assert once.disk_bytes == 8 * 900_000 + 12 * 8_798_208 + 4 * 8_798_208


def test_host_memory_is_that_of_loading_or_saving() -> None:
    full = on("80Gi").full().training(optimizer="adamw_torch")
    assert plan(full, QWEN_05B).host_memory_bytes == 2 * GIB + 4 * QWEN_05B.parameters
    two = full.resources(gpus=2)
    assert plan(two, QWEN_05B).host_memory_bytes == 2 * (2 * GIB + 4 * QWEN_05B.parameters)
    assert plan(on("80Gi").qlora(bits=4), QWEN_05B).host_memory_bytes == 2 * GIB + 4 * 8_798_208


def test_paged_states_count_as_host_memory() -> None:
    plain, paged = (
        plan(on("80Gi").full().training(optimizer=name), QWEN_05B) for name in ("adamw_torch", "paged_adamw_32bit")
    )
    assert plain.memory is not None
    assert paged.memory is not None
    moved = plain.memory.optimizer - paged.memory.optimizer
    assert moved > 0.99 * plain.memory.optimizer
    assert (paged.host_memory_bytes or 0) - (plain.host_memory_bytes or 0) == moved


def test_several_gpus_keep_no_second_copy_of_the_gradients_since_they_are_views_of_the_buckets() -> None:
    one, two = plan(on("80Gi")), plan(on("80Gi").resources(gpus=2))
    assert one.memory is not None
    assert two.memory is not None
    assert two.memory.gradients == one.memory.gradients


# -- gradient checkpointing ------------------------------------------------------------------------------------------


def recomputes(builder: JobBuilder, shape: ModelShape | None = QWEN_05B) -> bool | None:
    return plan(builder, shape).gradient_checkpointing


def storing(builder: JobBuilder) -> int:
    """Predicted peak in bytes without checkpointing, of what the process trains on."""
    told = plan(builder.training(gradient_checkpointing=False), QWEN_05B)
    assert told.memory is not None
    return told.memory.total if told.gpu_memory_bytes else told.host_memory_bytes or 0


ON_CPU = a_job().resources(gpus=0)


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        pytest.param(on("80Gi"), False, id="the GPU has room"),
        pytest.param(on("8Gi"), True, id="the GPU has none"),
        pytest.param(a_job().resources(gpus=1).scheduling(gpu_products=["NVIDIA-L4"]), False, id="room by product"),
        pytest.param(a_job().resources(gpus=1), True, id="GPU not known"),
        pytest.param(a_job().resources(gpus=1, memory="512Gi"), True, id="host memory is not the GPU's"),
        pytest.param(ON_CPU.resources(memory="64Gi"), False, id="the container has room"),
        pytest.param(ON_CPU.resources(memory="8Gi"), True, id="the container has none"),
        pytest.param(ON_CPU, True, id="container without a limit"),
        pytest.param(on("80Gi").training(extra={"use_cache": False}), True, id="options of TRL's own"),
        pytest.param(on("80Gi").lora(extra={"rank_pattern": {"q_proj": 4}}), True, id="options of PEFT's own"),
        pytest.param(on("80Gi").distillation("pvc://a/b"), True, id="teacher"),
        pytest.param(on("8Gi").training(gradient_checkpointing=False), False, id="off as the spec says"),
        pytest.param(on("80Gi").training(gradient_checkpointing=True), True, id="on as the spec says"),
    ],
)
def test_activations_are_stored_only_where_the_spec_says_so_or_they_are_known_to_fit(
    job: JobBuilder, expected: bool
) -> None:
    assert recomputes(job) is expected


def test_without_a_shape_activations_are_recomputed() -> None:
    assert recomputes(on("80Gi"), None) is True


def test_activations_are_stored_only_where_a_quarter_more_than_they_need_is_there() -> None:
    needed = storing(on("80Gi"))
    assert recomputes(on(str(int(needed * 1.25) + 1))) is False
    assert recomputes(on(str(int(needed * 1.25) - 1))) is True
    needed = storing(ON_CPU)
    assert recomputes(ON_CPU.resources(memory=str(int(needed * 1.25) + 1))) is False
    assert recomputes(ON_CPU.resources(memory=str(int(needed * 1.25) - 1))) is True


def test_the_plan_predicts_the_memory_of_what_it_chose() -> None:
    for memory, chosen in (("80Gi", False), ("8Gi", True)):
        assert (
            plan(on(memory), QWEN_05B).memory
            == plan(on(memory).training(gradient_checkpointing=chosen), QWEN_05B).memory
        )


def test_what_fits_with_checkpointing_is_not_refused() -> None:
    job = on("24Gi")
    assert misfit(plan(job.training(gradient_checkpointing=False))) is not None
    assert (misfit(plan(job)), recomputes(job, LLAMA_8B)) == (None, True)


# -- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "job",
    [
        a_job().full().resources(gpus=1),
        a_job().full().resources(gpus=0, gpu_memory="1Gi"),
        a_job().full().resources(gpus=1).scheduling(gpu_products=["NVIDIA-Something-New"]),
        on("1Gi").full().training(extra={"fsdp": True}),
        on("200Gi").full(),
    ],
    ids=["memory not known", "no GPU", "product not known", "options of TRL's own", "it fits"],
)
def test_what_is_not_certain_to_fail_is_not_refused(job: JobBuilder) -> None:
    assert misfit(plan(job)) is None


def test_a_job_without_a_plan_is_not_refused() -> None:
    assert misfit(None) is None


def test_a_run_is_refused_only_when_it_needs_a_quarter_more_than_there_is() -> None:
    needed = predicted(on("1Gi"))
    assert misfit(plan(on(str(int(needed / 1.25) + 1)))) is None
    assert misfit(plan(on(str(int(needed / 1.25) - 1)))) is not None


def test_the_sentence_has_the_numbers_and_what_would_fit() -> None:
    assert sentence(on("16Gi").full().training(gradient_checkpointing=False)) == (
        "The run cannot fit: training needs about 165.4 GiB of GPU memory (59.8 GiB for optimizer, 42.9 GiB for "
        "weights, 29.9 GiB for gradients), and a GPU has 16.0 GiB (resources.gpuMemory: 16Gi). These changes make it "
        "fit, with about 8.8 GiB: training.gradientCheckpointing: true, method.lora: {} instead of method.full, "
        "method.quantization: {bits: 4}."
    )


@pytest.mark.parametrize(
    ("job", "source"),
    [
        (on("1Gi"), "1.0 GiB (resources.gpuMemory: 1Gi)"),
        (
            a_job().resources(gpus=1, gpu_resource_name="nvidia.com/mig-1g.5gb"),
            "5.0 GiB (resources.gpuResourceName: nvidia.com/mig-1g.5gb)",
        ),
        (
            a_job().resources(gpus=1).scheduling(gpu_products=["NVIDIA-A100-SXM4-40GB-MIG-1g.5gb", "NVIDIA-L4"]),
            "5.0 GiB (scheduling.gpuProducts: NVIDIA-A100-SXM4-40GB-MIG-1g.5gb, NVIDIA-L4)",
        ),
    ],
)
def test_the_sentence_names_the_field_that_tells_the_memory(job: JobBuilder, source: str) -> None:
    assert f"and a GPU has {source}." in sentence(job)


CASES = {
    "checkpointing": (on("24Gi").training(gradient_checkpointing=False), LLAMA_8B, ("gradientCheckpointing: true",)),
    "a smaller micro-batch": (
        on("3Gi").training(per_device_batch_size=64, gradient_accumulation_steps=2),
        QWEN_05B,
        ("perDeviceBatchSize: 8 with gradientAccumulationSteps: 16 (the same global batch)",),
    ),
    "the optimizer": (on("80Gi").full(), LLAMA_8B, ("optimizer: paged_adamw_8bit",)),
    "LoRA": (on("24Gi").full(), LLAMA_8B, ("method.lora: {} instead of method.full",)),
    "QLoRA": (on("10Gi"), LLAMA_8B, ("method.quantization: {bits: 4}",)),
}


@pytest.mark.parametrize("case", CASES)
def test_the_mildest_change_that_fits_is_advised(case: str) -> None:
    job, shape, advice = CASES[case]
    said = sentence(job, shape)
    for words in advice:
        assert words in said


@pytest.mark.parametrize("case", CASES)
def test_the_advice_does_fit(case: str) -> None:
    job, shape, _ = CASES[case]
    advised = apply(job, sentence(job, shape))
    built: SFTJob = advised.build()
    assert built != job.build()
    told = plan(advised, shape)
    assert told.memory is not None
    assert told.memory.total <= (told.gpu_memory_bytes or 0)


def test_nothing_fits_into_too_little() -> None:
    assert sentence(on("2Gi")).endswith(
        "Not even gradient checkpointing, a smaller micro-batch, an 8-bit optimizer, LoRA and 4-bit weights make it "
        "fit: request GPUs with more memory, or use a smaller model."
    )


def test_rows_that_are_short_for_certain_are_judged_as_such() -> None:
    job = on("8Gi").training(max_length=16_384, per_device_batch_size=8)
    assert misfit(plan(job, QWEN_05B, truncated_rows=1)) is not None
    assert misfit(plan(job, QWEN_05B, truncated_rows=0, tokens=100_000)) is None


def test_packed_rows_are_judged_as_full() -> None:
    job = on("2Gi").training(max_length=16_384, packing=True)
    assert misfit(plan(job, QWEN_05B, truncated_rows=0, tokens=100_000)) is not None


def test_a_run_whose_checkpoints_do_not_fit_onto_the_volume_is_refused_with_numbers() -> None:
    job = a_job().full().training(gradient_checkpointing=True).checkpoints(keep=3, every_steps=10)
    needed = training_disk_bytes(run_config(job.build()), QWEN_05B, stats_with(QWEN_05B, max_steps=100))
    numbers = {"max_steps": 100}
    said = sentence(job, QWEN_05B, free_bytes=int(needed / 1.25) - 1, **numbers)
    assert "The run cannot fit on its volume" in said
    assert f"need {needed / GIB:.1f} GiB, and the volume (storage.size: 50Gi) has {needed / 1.25 / GIB:.1f} GiB" in said
    assert "a larger storage.size, or lower checkpoints.keep (3)" in said
    on_a_claim = sentence(job.storage(existing_claim="team"), QWEN_05B, free_bytes=GIB, **numbers)
    assert (
        f"and the claim team has 1.0 GiB free after Prepare. Free {(needed - GIB) / GIB:.1f} GiB on the" in on_a_claim
    )
    assert "storage.size" not in on_a_claim
    for free in (int(needed / 1.25) + 1, 1 << 53, None):
        assert plan_status(job.build(), stats_with(QWEN_05B, free_bytes=free, **numbers)).misfit is None


@pytest.mark.parametrize(
    ("job", "percent"),
    [
        (a_job().lora(rank=48, target_modules=["k_proj", "v_proj"]), 0.4753),
        (a_job().full(), 100.0),
    ],
)
def test_the_trained_share_is_the_one_that_peft_prints(job: JobBuilder, percent: float) -> None:
    assert plan(job, QWEN_05B).trainable_percent == percent
