"""SIGTERM: the step is finished, the state saved, and the run goes on later as if nothing had happened."""

import logging
import os
import signal
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import RunConfig
from sftjob_trainer.distributed.stop_request import StopRequest
from sftjob_trainer.reporting.telemetry import Telemetry
from sftjob_trainer.run.checkpoints import verify
from support.trainer.training import Finished, environment, read_metrics, run_train, write_prepared


def terminate() -> None:
    os.kill(os.getpid(), signal.SIGTERM)


@pytest.fixture
def terminated_after(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Send this process SIGTERM when a step has ended."""

    def arrange(step: int) -> None:
        original = Telemetry.end_step

        def step_ended(self: Telemetry, number: int, epoch: float) -> None:
            original(self, number, epoch)
            if number == step:
                terminate()

        monkeypatch.setattr(Telemetry, "end_step", step_ended)

    return arrange


@pytest.fixture
def terminated_in_evaluation(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Send this process SIGTERM when the evaluation after a step has begun."""
    from sftjob_trainer.training.sft_trainer import Trainer

    def arrange(step: int) -> None:
        original = Trainer.prediction_step

        def prediction_step(self: Any, *arguments: Any, **options: Any) -> Any:
            if self.state.global_step == step:
                terminate()
            return original(self, *arguments, **options)

        monkeypatch.setattr(Trainer, "prediction_step", prediction_step)

    return arrange


@pytest.fixture
def volume(finished: Finished, tmp_path: Path) -> Path:
    write_prepared(tmp_path, finished.config)
    return tmp_path


def assert_goes_on_as_if_undisturbed(finished: Finished, volume: Path) -> None:
    again = run_train(volume, finished.config, attempt=3)

    assert again.exit_code is ExitCode.DONE
    for name in ("loss", "evalLoss"):
        expected = read_metrics(finished.volume).values(name)
        assert read_metrics(volume).values(name) == pytest.approx(expected, abs=1e-6)


def test_the_run_stops_at_the_step_edge_with_a_checkpoint_and_goes_on_later(
    finished: Finished, volume: Path, terminated_after: Callable[[int], None]
) -> None:
    terminated_after(7)

    outcome = run_train(volume, finished.config)

    assert (outcome.exit_code, outcome.reason) == (ExitCode.RETRY, Reason.INTERRUPTED)
    assert outcome.message == "stopped on request after step 7 of 12; checkpoints/checkpoint-7 is saved"
    assert outcome.progress is not None
    assert outcome.progress.step == 7
    verify(volume / layout.CHECKPOINTS / "checkpoint-7")
    assert not (volume / layout.OUTPUT).exists()
    assert_goes_on_as_if_undisturbed(finished, volume)


def test_an_evaluation_that_was_due_is_made_up_for(
    finished: Finished, volume: Path, terminated_after: Callable[[int], None]
) -> None:
    terminated_after(4)

    run_train(volume, finished.config)

    assert 4 not in read_metrics(volume).values("evalLoss")
    assert_goes_on_as_if_undisturbed(finished, volume)


def test_an_evaluation_is_broken_off_and_made_later(
    finished: Finished, volume: Path, terminated_in_evaluation: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminated_in_evaluation(8)

    outcome = run_train(volume, finished.config)

    assert outcome.exit_code is ExitCode.RETRY
    assert 8 not in read_metrics(volume).values("evalLoss")
    verify(volume / layout.CHECKPOINTS / "checkpoint-8")
    monkeypatch.undo()
    assert_goes_on_as_if_undisturbed(finished, volume)


def test_before_the_first_step_there_is_nothing_to_save(
    finished: Finished, volume: Path, terminated_in_evaluation: Callable[[int], None]
) -> None:
    terminated_in_evaluation(0)

    outcome = run_train(volume, finished.config)

    assert outcome.exit_code is ExitCode.RETRY
    assert outcome.message == "stopped on request after step 0 of 12; there is no checkpoint yet"
    assert list((volume / layout.CHECKPOINTS).iterdir()) == []


def test_a_request_after_the_last_step_lets_the_run_come_to_its_end(
    finished: Finished, volume: Path, terminated_after: Callable[[int], None]
) -> None:
    terminated_after(12)

    outcome = run_train(volume, finished.config)

    assert outcome.exit_code is ExitCode.DONE
    assert outcome.output is not None
    assert outcome.progress is not None
    assert 12 in read_metrics(volume).values("evalLoss")


def test_the_signal_belongs_to_its_former_owner_afterwards() -> None:
    before = signal.getsignal(signal.SIGTERM)

    with StopRequest() as stop:
        assert not stop.requested
        terminate()
        assert stop.requested

    assert signal.getsignal(signal.SIGTERM) is before


def without_saving(finished: Finished) -> RunConfig:
    return replace(finished.config, checkpoints=replace(finished.config.checkpoints, on_termination=False))


def test_without_a_checkpoint_on_termination_the_last_one_taken_is_where_it_goes_on(
    finished: Finished, volume: Path, terminated_after: Callable[[int], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    terminated_after(7)

    outcome = run_train(volume, without_saving(finished))

    assert (outcome.exit_code, outcome.reason) == (ExitCode.RETRY, Reason.INTERRUPTED)
    assert outcome.message == "stopped on request after step 7 of 12; checkpoints/checkpoint-4 is saved"
    assert [path.name for path in (volume / layout.CHECKPOINTS).iterdir()] == ["checkpoint-4"]
    monkeypatch.undo()
    assert_goes_on_as_if_undisturbed(finished, volume)


def test_a_checkpoint_that_is_due_anyway_is_taken(
    finished: Finished, volume: Path, terminated_after: Callable[[int], None]
) -> None:
    terminated_after(8)

    outcome = run_train(volume, without_saving(finished))

    assert outcome.message == "stopped on request after step 8 of 12; checkpoints/checkpoint-8 is saved"


def test_an_evaluation_that_is_broken_off_takes_none_either(
    finished: Finished, volume: Path, terminated_in_evaluation: Callable[[int], None]
) -> None:
    terminated_in_evaluation(6)
    config = without_saving(finished)
    config = replace(config, evaluation=replace(config.evaluation, every_steps=6))

    outcome = run_train(volume, config)

    assert outcome.message == "stopped on request after step 6 of 12; checkpoints/checkpoint-4 is saved"


@pytest.mark.parametrize(
    ("seconds", "warned"),
    [
        pytest.param((40.0, 30), True, id="too short"),
        pytest.param((20.0, 30), False, id="long enough"),
        pytest.param((40.0, None), False, id="not known"),
        pytest.param((None, 30), False, id="nothing was saved yet"),
    ],
)
def test_a_save_that_may_not_end_within_the_grace_period_is_announced(
    finished: Finished,
    volume: Path,
    terminated_after: Callable[[int], None],
    caplog: pytest.LogCaptureFixture,
    seconds: tuple[float | None, int | None],
    warned: bool,
) -> None:
    from sftjob_trainer.train import train

    longest_save, grace = seconds
    progress = Telemetry.progress
    terminated_after(7)

    with caplog.at_level(logging.WARNING, "sftjob_trainer.run.context"), pytest.MonkeyPatch.context() as patch:
        patch.setattr(Telemetry, "progress", lambda self: replace(progress(self), longest_save_seconds=longest_save))
        outcome = train(finished.config, replace(environment(volume), grace_seconds=grace))

    assert outcome.exit_code is ExitCode.RETRY
    told = [record.getMessage() for record in caplog.records if record.name == "sftjob_trainer.run.context"]
    expected = (
        "stop requested with 30 s of 30 s left after this step, but a checkpoint took up to 40 s: "
        "this one may not be complete in time"
    )
    assert told == ([expected] if warned else [])


def test_answers_that_are_being_generated_are_broken_off_at_the_next_token(
    finished: Finished, volume: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One batch of long answers can take longer than the grace period."""
    from transformers import Qwen2ForCausalLM

    config = replace(
        finished.config,
        evaluation=replace(finished.config.evaluation, sample_prompts=("a b",), max_new_tokens=400),
    )
    write_prepared(volume, config)
    generated = []
    forward = Qwen2ForCausalLM.forward

    def counted(self: Any, *arguments: Any, **options: Any) -> Any:
        if options.get("past_key_values") is not None and not self.training:
            generated.append(1)
            if len(generated) == 5:
                terminate()
        return forward(self, *arguments, **options)

    monkeypatch.setattr(Qwen2ForCausalLM, "forward", counted)
    outcome = run_train(volume, config)

    assert outcome.message == "stopped on request after step 0 of 12; there is no checkpoint yet"
    assert len(generated) == 5
    assert not (volume / layout.SAMPLES).exists()
