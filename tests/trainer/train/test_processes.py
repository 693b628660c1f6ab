"""One run in several processes, in one Pod or several: it trains what one process would, and ends as one."""

import signal
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.outcome import OUTCOME_VERSION, Outcome
from sftjob_contract.run.config import EarlyStopping, Metric, RunConfig
from sftjob_contract.run.method import Distillation, Method, Teacher
from sftjob_trainer.distributed.launch import ProcessExit, find_root_cause
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.termination import failed
from sftjob_trainer.run.checkpoints import verify
from support import faults
from support.trainer.processes import prepare_for_two, train_in_two, two_nodes
from support.trainer.tiny import held_out_fraction, lora, write_model
from support.trainer.training import PEFT_IS_BEHIND, finish, job, read_metrics
from support.trainer.weights import assert_same_weights

COMPARED = ("loss", "gradNorm", "learningRate", "evalLoss", "tokens")
DROPOUT = lora(rank=4, dropout=0.2, target_modules=("q_proj", "v_proj"))


def with_held_out(config: RunConfig) -> RunConfig:
    return replace(config, dataset=replace(config.dataset, evaluation=held_out_fraction(0.3)))


def examined(config: RunConfig) -> RunConfig:
    """With everything that is generated during a run."""
    return replace(
        with_held_out(config),
        evaluation=replace(
            config.evaluation,
            metrics=(Metric.EXACT_MATCH, Metric.PERPLEXITY),
            save_predictions=True,
            sample_prompts=("a b", "c"),
            max_new_tokens=4,
        ),
    )


def assert_same_course(one: Path, other: Path) -> None:
    for name in COMPARED:
        assert read_metrics(other).values(name) == pytest.approx(read_metrics(one).values(name), abs=1e-5)


def files(volume: Path) -> set[str]:
    """Names of all files, those of one process's random numbers as those of a single process."""
    found = {str(path.relative_to(volume)) for path in volume.rglob("*") if path.is_file()}
    return {name.replace("rng_state_0.pth", "rng_state.pth") for name in found if "rng_state_1" not in name}


@pytest.mark.slow
@PEFT_IS_BEHIND
@pytest.mark.parametrize(
    "options",
    [
        pytest.param({}, id="every weight"),
        pytest.param(
            {"method": lora(), "packing": True, "gradient_accumulation_steps": 2, "gradient_checkpointing": True},
            id="LoRA, packed, accumulating",
        ),
    ],
)
def test_two_processes_train_what_one_trains_with_batches_twice_as_large(
    qwen2: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    """Neither 23 nor 7 rows can be dealt out evenly."""
    usual: dict[str, Any] = {"save_every": 3, "evaluate_every": 3, "epochs": 2.0, "learning_rate": 1e-2, **options}
    one = examined(job(qwen2, per_device_batch_size=4, **usual))
    two = examined(job(qwen2, per_device_batch_size=2, **usual))
    single = finish(tmp_path / "one", one, rows=23)
    volume = tmp_path / "two"
    stats = prepare_for_two(volume, two, rows=23)

    ended = train_in_two(tmp_path / "pod", volume, two)

    assert ended.code == ExitCode.DONE, ended.err
    assert stats == single.stats
    assert_same_course(single.volume, volume)
    assert files(volume) == files(single.volume)
    assert ended.outcome is not None
    assert ended.outcome.output is not None
    assert single.outcome.output is not None
    expected = {**single.outcome.output.metrics, "trainSeconds": ended.outcome.output.metrics["trainSeconds"]}
    assert ended.outcome.output.metrics == pytest.approx(expected, rel=1e-5, abs=1e-5)
    weights = next((single.volume / layout.OUTPUT).rglob("*.safetensors")).relative_to(single.volume)
    assert_same_weights(single.volume / weights, volume / weights, atol=1e-5)
    for path in (layout.PREDICTIONS, layout.SAMPLES):
        assert (volume / path).read_text() == (single.volume / path).read_text()
    assert len(read_metrics(volume).lines) == len(read_metrics(single.volume).lines)
    assert ended.out.count("step 1 of ") == 1
    assert "DDP with find_unused_parameters False: every trained weight got a gradient" in ended.out


@pytest.mark.slow
def test_two_processes_learn_from_a_teacher_and_stop_early_as_one_does(qwen2: Path, tmp_path: Path) -> None:
    teacher = Teacher(source=str(write_model(tmp_path / "teacher", "llama", seed=5)), revision=None)
    taught = Distillation(teacher=teacher, temperature=2.0, alpha=0.5)
    usual: dict[str, Any] = {
        "method": Method(lora=None, quantization=None, distillation=taught),
        "early_stopping": EarlyStopping(patience=1, threshold=10.0),
        "evaluate_every": 3,
        "epochs": 3.0,
        "learning_rate": 1e-2,
    }
    one, two = (with_held_out(job(qwen2, per_device_batch_size=size, **usual)) for size in (4, 2))
    single = finish(tmp_path / "one", one)
    volume = tmp_path / "two"
    prepare_for_two(volume, two)

    ended = train_in_two(tmp_path / "pod", volume, two)

    assert ended.code == ExitCode.DONE, ended.err
    assert_same_course(single.volume, volume)
    assert ended.outcome is not None
    assert ended.outcome.progress is not None
    assert ended.outcome.progress.step == 3


@pytest.mark.slow
@PEFT_IS_BEHIND
def test_a_stop_that_one_process_is_asked_for_stops_all_at_a_step_from_which_they_go_on_as_if_undisturbed(
    qwen2: Path, tmp_path: Path
) -> None:
    """Step 8 is in the middle of the second epoch, whose order of rows is its own."""
    config = job(qwen2, method=DROPOUT, max_steps=10, learning_rate=1e-2, save_every=10)
    undisturbed, volume = tmp_path / "undisturbed", tmp_path / "volume"
    for path in (undisturbed, volume):
        prepare_for_two(path, config)
    assert train_in_two(tmp_path / "pod-0", undisturbed, config).code == ExitCode.DONE

    stopped = train_in_two(tmp_path / "pod-1", volume, config, faults.signal(signal.SIGTERM, 8, rank=1))
    resumed = train_in_two(tmp_path / "pod-2", volume, config)

    assert (stopped.code, stopped.outcome and stopped.outcome.reason) == (ExitCode.RETRY, Reason.INTERRUPTED)
    assert "train failed: Interrupted: stopped on request after step 8 of 10; checkpoints/checkpoint-8 is saved" in (
        stopped.err
    )
    sealed = {file.path for file in verify(volume / layout.CHECKPOINTS / "checkpoint-8").files}
    assert {"rng_state_0.pth", "rng_state_1.pth"} <= sealed
    assert resumed.code == ExitCode.DONE, resumed.err
    assert resumed.outcome is not None
    assert resumed.outcome.progress is not None
    assert resumed.outcome.progress.resumed_from_step == 8
    assert_same_course(undisturbed, volume)
    weights = f"{layout.OUTPUT_ADAPTER}/adapter_model.safetensors"
    assert_same_weights(undisturbed / weights, volume / weights, atol=1e-5)


@pytest.mark.slow
def test_a_pod_that_is_told_to_stop_tells_its_processes(qwen2: Path, tmp_path: Path) -> None:
    config = job(qwen2, max_steps=100_000, save_every=100_000, logging_steps=1000)
    prepare_for_two(tmp_path / "volume", config)

    ended = train_in_two(
        tmp_path / "pod", tmp_path / "volume", config, faults.signal(signal.SIGTERM, 3, to="parent", rank=1)
    )

    assert ended.code == ExitCode.RETRY, ended.err
    assert ended.outcome is not None
    assert ended.outcome.reason is Reason.INTERRUPTED
    assert ended.outcome.progress is not None
    assert [found.step for found in ended.outcome.progress.checkpoints] == [ended.outcome.progress.step]


@pytest.mark.slow
def test_a_process_that_is_killed_ends_the_others_and_the_pod_as_if_it_were_the_only_one(
    qwen2: Path, tmp_path: Path
) -> None:
    config = job(qwen2, max_steps=50, save_every=2)
    prepare_for_two(tmp_path / "volume", config)

    ended = train_in_two(tmp_path / "pod", tmp_path / "volume", config, faults.killed(3, rank=1))

    assert (ended.code, ended.outcome) == (128 + signal.SIGKILL, None)
    assert "the process of rank 1 was ended by SIGKILL" in ended.err
    assert [path.name for path in (tmp_path / "volume" / layout.CHECKPOINTS).iterdir()] == ["checkpoint-2"]


@pytest.mark.slow
def test_what_diverges_in_one_process_ends_all(qwen2: Path, tmp_path: Path) -> None:
    config = job(qwen2, max_steps=50, save_every=2)
    prepare_for_two(tmp_path / "volume", config)

    ended = train_in_two(tmp_path / "pod", tmp_path / "volume", config, faults.nan(3, rank=1))

    assert ended.code == ExitCode.DIVERGED, ended.err
    assert ended.outcome is not None
    assert ended.outcome.message is not None
    assert ended.outcome.message.startswith("training diverged: loss is nan at step 4")
    assert ended.outcome.progress is not None
    assert [found.step for found in ended.outcome.progress.checkpoints] == [2]


@pytest.mark.slow
def test_gpus_that_are_not_there_end_the_attempt_as_for_one_process(qwen2: Path, tmp_path: Path) -> None:
    config = replace(job(qwen2, max_steps=5), gpus=2)
    prepare_for_two(tmp_path / "volume", config)

    ended = train_in_two(tmp_path / "pod", tmp_path / "volume", config)

    assert ended.code == ExitCode.INTERNAL, ended.err  # of the node, so that another attempt may find them
    assert ended.err.count("train failed") == 1
    assert "GpuUnavailable: resources.gpus: 2 was requested, but no CUDA device is visible" in ended.err


@pytest.mark.slow
def test_the_pods_of_two_nodes_train_what_one_process_trains_and_the_first_leaves_the_result(
    qwen2: Path, tmp_path: Path
) -> None:
    config = replace(job(qwen2, per_device_batch_size=2, max_steps=5), nodes=2)
    single = finish(tmp_path / "one", job(qwen2, per_device_batch_size=4, max_steps=5))
    volume = tmp_path / "two"
    prepare_for_two(volume, config)

    with two_nodes(tmp_path / "pods", volume, config) as pods:
        first, second = [pod.end() for pod in pods]

    assert (first.code, second.code) == (ExitCode.DONE, ExitCode.DONE), first.err + second.err
    assert_same_course(single.volume, volume)
    assert first.outcome is not None
    assert first.outcome.output is not None
    assert second.outcome is not None
    assert (second.outcome.output, second.outcome.progress) == (None, None)
    assert "step 1 of 5" not in second.out


@pytest.mark.slow
def test_the_pod_of_a_node_that_loses_the_other_says_so_and_can_be_run_again(qwen2: Path, tmp_path: Path) -> None:
    config = replace(job(qwen2, max_steps=50, save_every=2), nodes=2)
    prepare_for_two(tmp_path / "volume", config)

    with two_nodes(tmp_path / "pods", tmp_path / "volume", config, faults.killed(3, rank=1)) as pods:
        first, second = [pod.end() for pod in pods]

    assert (second.code, second.outcome) == (128 + signal.SIGKILL, None)
    assert first.code == ExitCode.INTERNAL
    assert first.outcome is not None
    assert first.outcome.message is not None
    assert "another process of this run ended or could no longer be reached" in first.outcome.message


def ended(rank: int, time: float, reason: Reason | None = None, code: int | None = None, **of: bool) -> ProcessExit:
    """How a process ended: with a reason, or with a code and no last word."""
    said = None
    if reason is not None:
        said = failed(Stage.TRAIN, StageError(reason, f"rank {rank}", blames_peer=of.get("blames_peer", False)))
    code = said.exit_code if said else code or 0
    return ProcessExit(rank=rank, code=code, time=time, outcome=said, was_killed=of.get("was_killed", False))


LOST: dict[str, Any] = {"reason": Reason.INTERNAL_ERROR, "blames_peer": True}
WAITING: dict[str, Any] = {"reason": Reason.HUNG, "blames_peer": True}


def finished(rank: int) -> ProcessExit:
    said = Outcome(version=OUTCOME_VERSION, stage=Stage.TRAIN, exit_code=ExitCode.DONE)
    return ProcessExit(rank=rank, code=0, time=float(-rank), outcome=said)


@pytest.mark.parametrize(
    ("ends", "blamed"),
    [
        pytest.param([finished(1), finished(0)], 0, id="all ended well"),
        pytest.param([finished(1), ended(0, 9, Reason.CONFIG_INVALID)], 0, id="the leader failed after training"),
        pytest.param(
            [ended(0, 1, Reason.INTERNAL_ERROR), ended(1, 2, Reason.GPU_OUT_OF_MEMORY)], 1, id="a reason of its own"
        ),
        pytest.param(
            [ended(0, 2, Reason.INTERNAL_ERROR), ended(1, 1, code=-9)], 1, id="killed before the other failed"
        ),
        pytest.param([ended(0, 2, code=-9), ended(1, 1, Reason.INTERNAL_ERROR)], 1, id="failed before the other's end"),
        pytest.param([ended(0, 1, **LOST), ended(1, 2, code=-9)], 1, id="killed, which the other noticed first"),
        pytest.param([ended(0, 1, **LOST), ended(1, 2, code=1)], 1, id="gone with no word, which the other noticed"),
        pytest.param([ended(0, 1, **LOST), ended(1, 2, Reason.INTERRUPTED)], 1, id="stopped, which the other noticed"),
        pytest.param(
            [ended(0, 1, **LOST), ended(1, 9, code=-9, was_killed=True)], 0, id="a peer on another node was lost"
        ),
        pytest.param([ended(0, 1, **WAITING), ended(1, 2, Reason.HUNG)], 1, id="one hung, another waited for it"),
        pytest.param([ended(0, 1, **WAITING), ended(1, 2, code=1)], 0, id="one hung and could not say so"),
        pytest.param([ended(1, 1, **WAITING), ended(0, 2, **WAITING)], 0, id="each seems to wait for the other"),
        pytest.param([ended(0, 1, **WAITING), ended(1, 2, Reason.DISK_FULL)], 1, id="one waited, the other knows"),
        pytest.param([ended(1, 1, Reason.DIVERGED), ended(0, 2, Reason.DIVERGED)], 0, id="all diverged"),
        pytest.param([ended(1, 1, Reason.INTERRUPTED), ended(0, 2, Reason.INTERRUPTED)], 0, id="all were stopped"),
        pytest.param(
            [ended(1, 2, Reason.INTERRUPTED), ended(0, 3, Reason.DIVERGED), ended(2, 1, Reason.INTERNAL_ERROR)],
            0,
            id="known reasons come before the others",
        ),
    ],
)
def test_the_verdict_is_that_of_the_process_with_a_reason_of_its_own_or_of_the_first_that_failed(
    ends: list[ProcessExit], blamed: int
) -> None:
    assert find_root_cause(ends).rank == blamed
