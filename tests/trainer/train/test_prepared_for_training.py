"""What Prepare leaves for the options of training: questions to ask, and a teacher."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import EarlyStopping, Metric, RunConfig
from sftjob_contract.run.destinations import Retain
from sftjob_contract.run.method import Distillation, Teacher
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.training.starting_point import initial_paths
from support.trainer.preparing import Workbench, environment
from support.trainer.tiny import CHATML, held_out_fraction, lora, write_model_without_weights
from support.trainer.training import PEFT_IS_BEHIND, run_train

PAIRS = [{"prompt": f"what does {number} do ", "completion": f"it is {number}"} for number in range(30)]


@pytest.fixture
def bench(tmp_path: Path, model_without_weights: Path) -> Workbench:
    return Workbench(tmp_path, model_without_weights)


def asking(config: RunConfig, **changes: Any) -> RunConfig:
    return replace(config, evaluation=replace(config.evaluation, metrics=(Metric.ROUGE,), **changes))


@pytest.mark.parametrize("packing", [False, True])
def test_the_first_held_out_rows_are_kept_as_they_are_before_packing(bench: Workbench, packing: bool) -> None:
    data = bench.write("d.jsonl", PAIRS)
    config = bench.config(data, held_out=held_out_fraction(0.3), packing=packing)
    bench.run(config)
    assert not (bench.volume / layout.PREPARED_SAMPLES).exists()

    bench.run(asking(config, max_samples=4))

    kept = bench.sequences(layout.PREPARED_SAMPLES)
    evaluation = bench.sequences(layout.PREPARED_EVALUATION)
    assert len(kept) == 4
    assert all(set(row) == {"input_ids", "labels"} for row in kept)
    if not packing:
        assert kept == evaluation[:4]
    else:
        assert len(evaluation) < 9
        together = [" ".join(map(str, row["input_ids"])) for row in evaluation]
        assert all(any(" ".join(map(str, row["input_ids"])) in one for one in together) for row in kept)


def test_held_out_rows_without_a_prompt_are_refused_before_training(bench: Workbench) -> None:
    data = bench.write("d.jsonl", [{"text": f"open file {number}"} for number in range(20)])

    with pytest.raises(StageError, match="the held-out rows have no prompt to answer") as raised:
        bench.run(asking(bench.config(data, held_out=held_out_fraction(0.2))))

    assert raised.value.reason is Reason.CONFIG_INVALID


def taught_by(config: RunConfig, source: str) -> RunConfig:
    teacher = Distillation(teacher=Teacher(source=source, revision=None), temperature=2.0, alpha=0.5)
    return replace(config, method=replace(config.method, distillation=teacher))


def test_a_teacher_is_looked_at_and_found_again_when_training(bench: Workbench, tmp_path: Path) -> None:
    teacher = write_model_without_weights(tmp_path / "teacher", chat_template=CHATML)
    config = taught_by(bench.config(bench.write("d.jsonl", PAIRS)), str(teacher))

    stats = bench.run(config)

    assert stats.teacher_snapshot is None  # it is read in place
    assert initial_paths(config, environment(bench.volume), stats).teacher == teacher


def test_a_teacher_from_elsewhere_is_found_in_the_cache(bench: Workbench, tmp_path: Path) -> None:
    config = taught_by(bench.config(bench.write("d.jsonl", PAIRS)), "hf://org/teacher")
    where = environment(bench.volume)
    write_model_without_weights(where.cache / "snapshot")
    stats = replace(bench.run(bench.config(bench.write("d.jsonl", PAIRS))), teacher_snapshot="snapshot")

    assert initial_paths(config, where, stats).teacher == where.cache / "snapshot"


def test_a_teacher_that_is_not_there_or_of_another_family_is_refused(bench: Workbench, tmp_path: Path) -> None:
    data = bench.write("d.jsonl", PAIRS)
    with pytest.raises(StageError, match=r"nowhere does not exist; ") as raised:
        bench.run(taught_by(bench.config(data), str(tmp_path / "nowhere")))
    assert raised.value.reason is Reason.MODEL_NOT_FOUND

    other = write_model_without_weights(tmp_path / "other")
    tokenizer = other / "tokenizer.json"
    tokenizer.write_text(tokenizer.read_text().replace("<|im_start|>", "<|begin|>"))
    with pytest.raises(StageError, match=r"must have the tokenizer of the model that is trained") as raised:
        bench.run(taught_by(bench.config(data), str(other)))
    assert raised.value.reason is Reason.CONFIG_INVALID


@PEFT_IS_BEHIND
def test_both_stages_together_with_everything_asked_for(qwen2: Path, llama: Path, tmp_path: Path) -> None:
    """Packed rows, a teacher, early stopping, every metric, samples, a merged model, and only the output kept."""
    bench = Workbench(tmp_path, qwen2)
    made = bench.config(
        bench.write("d.jsonl", PAIRS),
        held_out=held_out_fraction(0.2),
        method=lora(rslora=True),
        packing=True,
        epochs=3.0,
        learning_rate=1e-2,
        early_stopping=EarlyStopping(patience=2, threshold=0.0),
    )
    config = replace(
        taught_by(made, str(llama)),
        evaluation=replace(
            made.evaluation, metrics=tuple(Metric), save_predictions=True, sample_prompts=("what does 7 do ",)
        ),
        output=replace(made.output, merge_adapter=True, retain=Retain.OUTPUT),
        tracking=replace(made.tracking, tensorboard=True),
    )
    bench.run(config)

    outcome = run_train(bench.volume, config)

    assert outcome.exit_code is ExitCode.DONE, outcome.message
    assert outcome.output is not None
    assert outcome.output.metrics["evalLoss"] < outcome.output.metrics["initialEvalLoss"]
    assert {"evalBleu", "evalRougeL", "evalExactMatch"} <= set(outcome.output.metrics)
    there = {path.relative_to(bench.volume).as_posix() for path in bench.volume.rglob("*")}
    assert {
        layout.OUTPUT_ADAPTER,
        layout.OUTPUT_MERGED,
        layout.PREDICTIONS,
        layout.SAMPLES,
        layout.TENSORBOARD,
    } <= there
    assert not {layout.CHECKPOINTS, layout.CACHE, layout.PREPARED_TRAIN} & there
    assert len((bench.volume / layout.PREDICTIONS).read_text().splitlines()) == 4
