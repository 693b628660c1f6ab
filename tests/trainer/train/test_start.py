"""Starting from another run's checkpoint: its weights, and nothing else of it."""

import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.outcome import Outcome
from sftjob_contract.run.config import RunConfig
from sftjob_contract.run.method import LoraBias, Method
from support.trainer.tiny import lora
from support.trainer.training import (
    PEFT_IS_BEHIND,
    Finished,
    environment,
    finish,
    job,
    read_metrics,
    run_train,
    write_prepared,
)

pytestmark = PEFT_IS_BEHIND


@pytest.fixture(scope="module")
def adapted(qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A LoRA run with checkpoints at steps 3 and 6."""
    config = job(qwen2, method=lora(), max_steps=6, save_every=3, evaluate_every=3, learning_rate=3e-2)
    return finish(tmp_path_factory.mktemp("adapted"), config)


def starting_from(config: RunConfig, source: Path | str) -> RunConfig:
    return replace(config, checkpoints=replace(config.checkpoints, resume_from=str(source)))


def run(volume: Path, config: RunConfig) -> Outcome:
    write_prepared(volume, config)
    return run_train(volume, config)


@pytest.mark.parametrize("place", ["checkpoints/checkpoint-12", "checkpoints"])
def test_full_fine_tuning_starts_from_the_weights_with_everything_else_fresh(
    finished: Finished, tmp_path: Path, place: str
) -> None:
    """The directory of checkpoints stands for the newest one."""
    config = starting_from(job(Path(finished.config.model.source), max_steps=2), finished.volume / place)

    outcome = run(tmp_path, config)

    assert finished.outcome.output is not None
    assert outcome.output is not None
    assert outcome.progress is not None
    assert (outcome.progress.step, outcome.progress.resumed_from_step) == (2, 0)
    reached = finished.outcome.output.metrics["evalLoss"]
    assert outcome.output.metrics["initialEvalLoss"] == pytest.approx(reached, abs=1e-6)
    assert read_metrics(tmp_path).values("learningRate")[1] == 0  # the warmup is that of a new run


def test_lora_starts_from_the_adapter(adapted: Finished, qwen2: Path, tmp_path: Path) -> None:
    config = starting_from(job(qwen2, method=lora(), max_steps=2), adapted.volume / layout.CHECKPOINTS)

    outcome = run(tmp_path, config)

    assert adapted.outcome.output is not None
    assert outcome.output is not None
    reached = adapted.outcome.output.metrics["evalLoss"]
    assert outcome.output.metrics["initialEvalLoss"] == pytest.approx(reached, abs=1e-6)
    assert reached < adapted.outcome.output.metrics["initialEvalLoss"] - 0.01


def test_an_attempt_that_resumes_goes_on_from_its_own_checkpoint(
    adapted: Finished, qwen2: Path, tmp_path: Path
) -> None:
    """Even if the other run's is gone by then."""
    other = shutil.copytree(adapted.volume / layout.CHECKPOINTS, tmp_path / layout.CHECKPOINTS)
    config = starting_from(job(qwen2, method=lora(), max_steps=4, save_every=2), other)
    volume = tmp_path / "volume"
    whole = run(volume, config)
    for name in (layout.OUTPUT, layout.LOGS, layout.RESULTS, "checkpoints/checkpoint-4"):
        shutil.rmtree(volume / name)
    shutil.rmtree(other)

    outcome = run_train(volume, config, attempt=2)

    assert outcome.progress is not None
    assert outcome.progress.resumed_from_step == 2
    assert outcome.output is not None
    assert whole.output is not None
    assert outcome.output.metrics["evalLoss"] == pytest.approx(whole.output.metrics["evalLoss"], abs=1e-7)


def test_the_newest_checkpoint_that_verifies_is_taken(adapted: Finished, qwen2: Path, tmp_path: Path) -> None:
    checkpoints = shutil.copytree(adapted.volume / layout.CHECKPOINTS, tmp_path / layout.CHECKPOINTS)
    (checkpoints / "checkpoint-6" / "adapter_model.safetensors").write_bytes(b"")
    config = starting_from(job(qwen2, method=lora(), max_steps=1), checkpoints)

    outcome = run(tmp_path / "volume", config)

    assert outcome.output is not None
    reached = read_metrics(adapted.volume).values("evalLoss")[3]
    assert outcome.output.metrics["initialEvalLoss"] == pytest.approx(reached, abs=1e-6)
    assert "checkpoint-6 cannot be used: adapter_model.safetensors has 0 bytes" in (
        (tmp_path / "volume" / layout.TRAIN_LOG).read_text()
    )


def test_a_claim_is_where_it_is_mounted(finished: Finished, tmp_path: Path) -> None:
    from sftjob_trainer.training.starting_point import starting_checkpoint

    (tmp_path / "other").symlink_to(finished.volume)
    config = starting_from(finished.config, "pvc://other/checkpoints/checkpoint-8")
    where = replace(environment(tmp_path / "volume"), claims=tmp_path)

    assert starting_checkpoint(config, where) == tmp_path / "other" / "checkpoints" / "checkpoint-8"


def no_change(directory: Path) -> None:
    """Nothing is wrong with the checkpoint."""


def cut_off(directory: Path) -> None:
    (directory / "checkpoint-6" / layout.MANIFEST).unlink()
    (directory / "checkpoint-3" / layout.MANIFEST).unlink()


REFUSED: list[tuple[Method | None, str, Callable[[Path], None], Reason, str]] = [
    (lora(), "nowhere", no_change, Reason.MODEL_NOT_FOUND, "nowhere does not exist"),
    (lora(), "", cut_off, Reason.MODEL_NOT_FOUND, "it has no complete checkpoint; it has checkpoint-"),
    (lora(), "checkpoint-6", cut_off, Reason.MODEL_NOT_FOUND, "checkpoint-6 cannot be used: it has no "),
    (None, "checkpoint-6", no_change, Reason.CONFIG_INVALID, "it is a LoRA adapter, but this run trains every weig"),
    (lora(8), "", no_change, Reason.CONFIG_INVALID, "it was trained with rank 4, not 8; write method.lora as that"),
    (lora(alpha=4), "", no_change, Reason.CONFIG_INVALID, "it was trained with alpha 8, not 4; write method.lora a"),
    (lora(dora=True), "", no_change, Reason.CONFIG_INVALID, "it was trained with dora false, not true; write metho"),
    (
        lora(target_modules=("q_proj",)),
        "",
        no_change,
        Reason.CONFIG_INVALID,
        "base_model.model.model.layers.0.mlp.down_proj.lora_A.weight and 23 more of its weights do not fit; ",
    ),
    (lora(bias=LoraBias.LORA_ONLY), "", no_change, Reason.CONFIG_INVALID, "base_model.model.model.layers.0."),
]


@pytest.mark.parametrize("case", REFUSED)
def test_what_can_not_be_started_from_is_refused_in_a_sentence(
    case: tuple[Method | None, str, Callable[[Path], None], Reason, str],
    adapted: Finished,
    qwen2: Path,
    tmp_path: Path,
) -> None:
    method, place, damage, reason, sentence = case
    checkpoints = shutil.copytree(adapted.volume / layout.CHECKPOINTS, tmp_path / layout.CHECKPOINTS)
    damage(checkpoints)
    config = starting_from(job(qwen2, max_steps=1, method=method), checkpoints / place)

    outcome = run(tmp_path / "volume", config)

    assert outcome.reason is reason
    assert outcome.message is not None
    assert outcome.message.startswith("checkpoints.resumeFrom: ")
    assert sentence in outcome.message


@pytest.mark.parametrize("source", ["hf://org/model", "https://example.com/checkpoints/checkpoint-8"])
def test_a_place_of_another_kind_is_refused(source: str, finished: Finished, tmp_path: Path) -> None:
    outcome = run(tmp_path, starting_from(finished.config, source))

    assert outcome.reason is Reason.CONFIG_INVALID
    assert outcome.message == (
        f"checkpoints.resumeFrom: {source}: it must be pvc://CLAIM/PATH, or an s3:// or gs:// URI, of a checkpoint "
        "directory"
    )


def test_an_adapter_does_not_start_from_a_whole_model(finished: Finished, tmp_path: Path) -> None:
    model = Path(finished.config.model.source)
    config = starting_from(job(model, method=lora(), max_steps=1), finished.volume / layout.CHECKPOINTS)

    outcome = run(tmp_path, config)

    assert outcome.exit_code is ExitCode.INVALID
    assert outcome.message is not None
    assert outcome.message.endswith(
        "it is a whole model, but this run trains an adapter; name it in model.source instead"
    )


def test_peft_still_writes_rank_and_scale_under_the_names_that_are_compared(adapted: Finished) -> None:
    settings = json.loads((adapted.volume / layout.CHECKPOINTS / "checkpoint-6" / "adapter_config.json").read_text())

    assert (settings["r"], settings["lora_alpha"], settings["use_rslora"], settings["use_dora"]) == (4, 8, False, False)
