"""A run from step 0 to its output: what lies on the volume, what was told, and that it is true."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from sftjob_contract import layout
from sftjob_contract.codec import encode
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import TERMINATION_MESSAGE_LIMIT_BYTES
from sftjob_contract.reports.outcome import termination_message
from sftjob_contract.reports.progress import Activity, Progress
from sftjob_contract.run.optimization import Scheduler
from support.trainer.training import Finished, finish, job, read_metrics, run_train, write_prepared


def progress(finished: Finished) -> Progress:
    assert finished.outcome.progress is not None
    return finished.outcome.progress


def test_a_run_ends_done_with_its_last_state(finished: Finished) -> None:
    state = progress(finished)

    assert finished.outcome.exit_code is ExitCode.DONE
    assert state.activity is Activity.FINISHED
    assert (state.step, state.max_steps, state.resumed_from_step, state.epoch) == (12, 12, 0, 2.0)
    assert state.tokens == 2 * finished.stats.tokens
    assert state.eta_seconds == 0
    assert state.tokens_per_second is not None
    assert state.tokens_per_second > 0


def test_the_last_word_fits_a_termination_message(finished: Finished) -> None:
    assert len(termination_message(finished.outcome).encode()) < TERMINATION_MESSAGE_LIMIT_BYTES


def test_the_history_tells_every_step_of_a_short_run_and_the_evaluation_before_training(finished: Finished) -> None:
    history = progress(finished).history

    assert [point.step for point in history] == list(range(13))
    assert [point.step for point in history if point.eval_loss is not None] == [0, 4, 8, 12]
    assert history[0].loss is None


def test_training_lowers_the_evaluation_loss(finished: Finished) -> None:
    output = finished.outcome.output
    assert output is not None
    metrics = output.metrics

    assert metrics["evalLoss"] < metrics["initialEvalLoss"]
    assert metrics["evalPerplexity"] == pytest.approx(math.exp(metrics["evalLoss"]))
    assert metrics["evalLoss"] == progress(finished).eval_loss
    assert metrics["initialEvalLoss"] == progress(finished).history[0].eval_loss


def test_final_metrics_lie_in_results(finished: Finished) -> None:
    written = json.loads((finished.volume / layout.EVAL_RESULTS).read_text())

    assert finished.outcome.output is not None
    assert written == finished.outcome.output.metrics
    assert set(written) == {"initialEvalLoss", "evalLoss", "evalPerplexity", "trainLoss", "trainSeconds"}


def test_metrics_have_a_line_for_each_log_and_each_evaluation(finished: Finished) -> None:
    metrics = read_metrics(finished.volume)

    assert list(metrics.values("loss")) == list(range(1, 13))
    assert list(metrics.values("evalLoss")) == [0, 4, 8, 12]
    trained = next(line for line in metrics.lines if line["step"] == 5)
    assert set(trained) == {
        *("time", "attempt", "step", "epoch", "loss", "learningRate", "gradNorm", "tokens", "tokensPerSecond"),
        *("stepSeconds", "dataWaitSeconds", "peakMemoryBytes"),
    }


def test_the_train_loss_is_the_mean_over_all_steps(finished: Finished) -> None:
    losses = read_metrics(finished.volume).values("loss").values()

    assert finished.outcome.output is not None
    assert finished.outcome.output.metrics["trainLoss"] == pytest.approx(sum(losses) / 12, rel=1e-9)


def test_the_learning_rate_rises_for_the_warmup_and_falls_as_half_a_cosine(finished: Finished) -> None:
    peak, warmup, steps = 1e-2, 3, 12

    def expected(step: int) -> float:
        done = step - 1
        if done < warmup:
            return peak * done / warmup
        return peak * 0.5 * (1 + math.cos(math.pi * (done - warmup) / (steps - warmup)))

    rates = read_metrics(finished.volume).values("learningRate")
    assert rates == pytest.approx({step: expected(step) for step in range(1, 13)}, abs=1e-12)


def test_checkpoints_are_listed_with_their_evaluation_and_the_best_is_known(finished: Finished) -> None:
    state = progress(finished)
    losses = read_metrics(finished.volume).values("evalLoss")

    assert [(found.step, found.path, found.eval_loss) for found in state.checkpoints] == [
        (step, f"checkpoints/checkpoint-{step}", losses[step]) for step in (4, 8, 12)
    ]
    assert state.best_step == min((4, 8, 12), key=lambda step: losses[step])


def test_the_resolved_config_lies_on_the_volume_for_people(finished: Finished) -> None:
    written = yaml.safe_load((finished.volume / layout.RUN_CONFIG).read_text())

    assert written == encode(finished.config)


def test_every_file_left_behind_can_be_read_by_another_user(finished: Finished) -> None:
    files = [
        path for root in ("output", "checkpoints", "results", "logs") for path in (finished.volume / root).rglob("*")
    ]

    assert len(files) > 30
    assert [path for path in files if path.is_file() and path.stat().st_mode & 0o444 != 0o444] == []


def test_nothing_half_done_and_nothing_for_resuming_is_left_in_the_output(finished: Finished) -> None:
    model = finished.volume / layout.OUTPUT_MODEL

    assert sorted(path.name for path in model.parent.iterdir()) == ["model"]
    assert {path.name for path in model.iterdir()} == {
        *("config.json", "generation_config.json", "model.safetensors"),
        *("tokenizer.json", "tokenizer_config.json", "chat_template.jinja", "README.md"),
    }
    assert sorted(path.name for path in (finished.volume / layout.CHECKPOINTS).iterdir()) == [
        *("checkpoint-12", "checkpoint-4", "checkpoint-8")
    ]


def test_the_output_is_the_last_checkpoint(finished: Finished) -> None:
    name = "model.safetensors"
    output = (finished.volume / layout.OUTPUT_MODEL / name).read_bytes()

    assert output == (finished.volume / layout.CHECKPOINTS / "checkpoint-12" / name).read_bytes()
    assert output != (finished.volume / layout.CHECKPOINTS / "checkpoint-8" / name).read_bytes()


def test_without_held_out_data_nothing_is_evaluated(qwen2: Path, tmp_path: Path) -> None:
    config = job(qwen2, max_steps=2)
    write_prepared(tmp_path, config, held_out=0)

    outcome = run_train(tmp_path, config)

    assert outcome.exit_code is ExitCode.DONE
    assert outcome.output is not None
    assert set(outcome.output.metrics) == {"trainLoss", "trainSeconds"}
    assert read_metrics(tmp_path).values("evalLoss") == {}


def test_logging_windows_are_means_and_a_save_closes_one(finished: Finished, tmp_path: Path) -> None:
    """Every fifth step is logged, so are the first, and those with an evaluation or a checkpoint."""
    every_step = read_metrics(finished.volume).values("loss")
    config = replace(finished.config, training=replace(finished.config.training, logging_steps=5))

    windows = read_metrics(finish(tmp_path, config).volume).values("loss")

    assert list(windows) == [1, 4, 5, 8, 10, 12]
    assert windows[4] == pytest.approx(sum(every_step[step] for step in (2, 3, 4)) / 3, abs=1e-6)
    assert windows[10] == pytest.approx(sum(every_step[step] for step in (9, 10)) / 2, abs=1e-6)


def test_only_the_newest_checkpoints_are_kept_and_the_best_one(qwen2: Path, tmp_path: Path) -> None:
    """A learning rate this high makes the loss rise at every step, so the first checkpoint is the best."""
    config = job(
        qwen2,
        save_every=1,
        evaluate_every=1,
        keep=2,
        max_steps=5,
        learning_rate=1.0,
        warmup_ratio=None,
        scheduler=Scheduler.CONSTANT,
    )

    state = progress(finish(tmp_path, config))

    assert state.best_step == 1
    assert [found.step for found in state.checkpoints] == [1, 4, 5]
    assert {path.name for path in (tmp_path / layout.CHECKPOINTS).iterdir()} == {
        layout.checkpoint_name(step) for step in (1, 4, 5)
    }
