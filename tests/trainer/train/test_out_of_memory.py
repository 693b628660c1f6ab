"""Out of GPU memory: said where and with what, and the attempt with smaller micro-batches trains the same run."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import ENV_ATTEMPT, ENV_MICRO_BATCH
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.outcome import Outcome
from sftjob_contract.run.batches import micro_batches
from sftjob_contract.run.config import PackingStrategy, RunConfig
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.run.sft_config import with_micro_batch
from support import faults
from support.trainer.processes import prepare_for_two, train_in_two
from support.trainer.tiny import lora
from support.trainer.training import PEFT_IS_BEHIND, environment, finish, job, read_metrics, write_prepared
from support.trainer.weights import assert_same_weights

pytestmark = PEFT_IS_BEHIND
COMPARED = ("loss", "gradNorm", "learningRate", "evalLoss", "tokens")
WRAPPED = PackingStrategy.WRAPPED


def assert_same_course(one: Path, other: Path) -> None:
    for name in COMPARED:
        assert read_metrics(other).values(name) == pytest.approx(read_metrics(one).values(name), abs=1e-5)


def assert_same_output(one: Path, other: Path) -> None:
    weights = next((one / layout.OUTPUT).rglob("*.safetensors")).relative_to(one)
    assert_same_weights(one / weights, other / weights, atol=1e-5)


def attempt(volume: Path, config: RunConfig, number: int, *, micro_batch: int | None = None) -> Outcome:
    from sftjob_trainer.train import train

    return train(config, replace(environment(volume, attempt=number), micro_batch=micro_batch))


@pytest.fixture
def out_of_memory(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """The step after `step`, or the evaluation after it, has room for no more than `above` rows at a time."""

    def arrange(step: int, *, above: int, evaluating: bool = False) -> None:
        import torch

        from sftjob_trainer.training.sft_trainer import Trainer

        compute_loss = Trainer.compute_loss

        def computed(self: Any, model: Any, *arguments: Any, **options: Any) -> Any:
            rows, here = self.args.per_device_train_batch_size, self.state.global_step
            if here >= step and rows > above and evaluating is not self.model.training:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
            return compute_loss(self, model, *arguments, **options)

        monkeypatch.setattr(Trainer, "compute_loss", computed)

    return arrange


@pytest.mark.parametrize(
    "options",
    [
        pytest.param({"save_every": 3}, id="every weight"),
        pytest.param({"gradient_accumulation_steps": 2, "save_every": 2}, id="every weight, accumulating"),
        pytest.param({"method": lora(), "save_every": 3}, marks=pytest.mark.slow, id="LoRA"),
        pytest.param(
            {"packing": True, "packing_strategy": WRAPPED, "max_length": 32, "epochs": 5.0, "save_every": 1},
            marks=pytest.mark.slow,
            id="wrapped",
        ),
    ],
)
def test_the_run_with_smaller_micro_batches_is_the_run_that_had_the_memory(
    qwen2: Path, tmp_path: Path, out_of_memory: Callable[..., None], options: dict[str, Any]
) -> None:
    """In the middle of the second epoch the batch of 4 has to become 2, and at its end 1. 23 rows end unevenly."""
    usual: dict[str, Any] = {"per_device_batch_size": 4, "epochs": 3.0, "learning_rate": 1e-2}
    config = job(qwen2, evaluate_every=4, keep=9, **{**usual, **options})
    undisturbed = finish(tmp_path / "undisturbed", config, rows=23)
    volume, per_epoch = tmp_path / "volume", undisturbed.stats.steps_per_epoch
    write_prepared(volume, config, rows=23)

    out_of_memory(per_epoch + per_epoch // 2, above=2)
    first = attempt(volume, config, 1)
    out_of_memory(2 * per_epoch, above=1)
    second = attempt(volume, config, 2, micro_batch=2)
    third = attempt(volume, config, 3, micro_batch=1)

    assert [ended.exit_code for ended in (first, second, third)] == [
        *(ExitCode.GPU_OUT_OF_MEMORY, ExitCode.GPU_OUT_OF_MEMORY, ExitCode.DONE)
    ]
    assert second.progress is not None
    assert (second.progress.resumed_from_step, second.progress.step) == (per_epoch + per_epoch // 2, 2 * per_epoch)
    assert_same_course(undisturbed.volume, volume)
    assert_same_output(undisturbed.volume, volume)
    assert "perDeviceBatchSize: 4" in (volume / layout.RUN_CONFIG).read_text()


@pytest.mark.slow
def test_of_two_processes_one_runs_out_and_both_go_on_with_smaller_micro_batches(qwen2: Path, tmp_path: Path) -> None:
    """Neither 23 nor 7 rows can be dealt out evenly."""
    config = job(
        qwen2, method=lora(), per_device_batch_size=2, epochs=2.0, learning_rate=1e-2, save_every=2, evaluate_every=3
    )
    single = finish(
        tmp_path / "one", replace(config, training=replace(config.training, per_device_batch_size=4)), rows=23
    )
    volume = tmp_path / "two"
    prepare_for_two(volume, config, rows=23)
    fault = faults.oom(8, above=1, rank=1)

    first = train_in_two(tmp_path / "pod-1", volume, config, fault)
    second = train_in_two(tmp_path / "pod-2", volume, config, fault, **{ENV_ATTEMPT: "2", ENV_MICRO_BATCH: "1"})

    assert first.code == ExitCode.GPU_OUT_OF_MEMORY, first.err
    assert second.code == ExitCode.DONE, second.err
    assert second.outcome is not None
    assert second.outcome.progress is not None
    assert second.outcome.progress.resumed_from_step == 8
    assert_same_course(single.volume, volume)
    assert_same_output(single.volume, volume)


def test_one_batch_of_the_evaluation_can_be_too_much_as_well(
    qwen2: Path, tmp_path: Path, out_of_memory: Callable[..., None]
) -> None:
    config = job(qwen2, max_steps=4, evaluate_every=2, save_every=2)
    write_prepared(tmp_path, config)
    out_of_memory(2, above=1, evaluating=True)

    first, second = attempt(tmp_path, config, 1), attempt(tmp_path, config, 2, micro_batch=1)

    assert first.exit_code is ExitCode.GPU_OUT_OF_MEMORY
    assert first.message is not None
    assert first.message.startswith(
        "the GPU ran out of memory in the evaluation after step 2, with up to 2 sequence(s)"
    )
    assert second.exit_code is ExitCode.DONE


def test_rows_packed_by_best_fit_go_one_by_one_already_so_only_shorter_ones_help(
    qwen2: Path, tmp_path: Path, out_of_memory: Callable[..., None]
) -> None:
    config = job(qwen2, max_steps=2, packing=True, gradient_checkpointing=True)
    write_prepared(tmp_path, config)
    out_of_memory(0, above=0)

    ended = attempt(tmp_path, config, 1)

    assert ended.message is not None
    assert "with up to 1 sequence(s) of at most 64 tokens at a time" in ended.message
    assert ended.message.endswith("; lower maxLength")


@pytest.mark.parametrize(
    "error",
    [
        "CUDA error: out of memory",
        "CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`",
        "NCCL error: ... Cuda failure 2 'out of memory'",
    ],
)
def test_other_libraries_than_torch_run_out_of_gpu_memory_in_other_words(
    qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: str
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError(error)

    config = job(qwen2, max_steps=1)
    write_prepared(tmp_path, config)
    monkeypatch.setattr("sftjob_trainer.training.build.fit", broken)

    ended = attempt(tmp_path, config, 1)

    assert (ended.exit_code, ended.reason) == (ExitCode.GPU_OUT_OF_MEMORY, Reason.GPU_OUT_OF_MEMORY)


def test_a_process_without_memory_is_told_apart_from_a_gpu_without(
    qwen2: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:121] . DefaultCPUAllocator: can't allocate memory")

    config = job(qwen2, max_steps=1)
    write_prepared(tmp_path, config)
    monkeypatch.setattr("sftjob_trainer.training.build.fit", broken)

    ended = attempt(tmp_path, config, 1)

    assert (ended.exit_code, ended.reason) == (ExitCode.INTERNAL, Reason.HOST_OUT_OF_MEMORY)
    assert ended.message is not None
    assert ended.message.endswith("raise resources.memory")


@pytest.mark.parametrize(
    ("packing", "micro_batch", "expected"),
    [(False, None, (6, 2)), (False, 6, (6, 2)), (False, 3, (3, 4)), (False, 1, (1, 12)), (True, 1, (1, 12))],
)
def test_a_smaller_micro_batch_is_made_up_for_by_accumulation(
    qwen2: Path, packing: bool, micro_batch: int | None, expected: tuple[int, int]
) -> None:
    config = job(qwen2, per_device_batch_size=6, gradient_accumulation_steps=2, packing=packing)

    adjusted = with_micro_batch(config, micro_batch)

    assert micro_batches(adjusted) == expected


def test_a_micro_batch_that_would_change_the_global_batch_is_refused(qwen2: Path) -> None:
    with pytest.raises(
        StageError, match=r"SFTJOB_MICRO_BATCH must divide training.perDeviceBatchSize \(6\), which 4 does"
    ):
        with_micro_batch(job(qwen2, per_device_batch_size=6), 4)
