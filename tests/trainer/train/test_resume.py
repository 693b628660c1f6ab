"""Going on after an attempt died: from the newest checkpoint that verifies, as if nothing had happened."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reports.outcome import Outcome
from support.trainer.tiny import lora
from support.trainer.training import PEFT_IS_BEHIND, Finished, as_died_after, finish, job, read_metrics, run_train
from support.trainer.weights import assert_same_weights

pytestmark = PEFT_IS_BEHIND
DROPOUT = lora(rank=4, dropout=0.2, target_modules=("q_proj", "v_proj"))


def assert_continues(finished: Finished, volume: Path, outcome: Outcome, step: int) -> None:
    """The second attempt took the steps after `step` exactly as the undisturbed run did."""
    undisturbed, resumed = read_metrics(finished.volume), read_metrics(volume)
    for name in ("loss", "gradNorm", "learningRate", "evalLoss"):
        expected = {at: value for at, value in undisturbed.values(name).items() if at > step}
        assert resumed.values(name) == pytest.approx(expected, abs=1e-6)
    assert outcome.exit_code is ExitCode.DONE
    assert outcome.output is not None
    weights = next((finished.volume / outcome.output.path).glob("*.safetensors")).relative_to(finished.volume)
    assert_same_weights(finished.volume / weights, volume / weights, atol=1e-6)


def test_a_resumed_run_takes_the_steps_that_an_undisturbed_one_takes(finished: Finished, tmp_path: Path) -> None:
    """Step 8 is in the middle of the second epoch."""
    volume = as_died_after(8, finished, tmp_path / "volume")

    outcome = run_train(volume, finished.config, attempt=2)

    assert_continues(finished, volume, outcome, 8)


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(
            {"packing": True, "gradient_accumulation_steps": 2, "epochs": 4.0}, id="packed, at an epoch's end"
        ),
        pytest.param({"method": DROPOUT, "max_steps": 8}, id="LoRA with dropout"),
        pytest.param({"gradient_checkpointing": True, "max_steps": 8, "seed": 3}, id="gradient checkpointing"),
    ],
)
def test_this_holds_for_every_way_to_train(qwen2: Path, tmp_path: Path, options: dict[str, Any]) -> None:
    finished = finish(tmp_path / "undisturbed", job(qwen2, save_every=4, learning_rate=1e-2, **options))
    volume = as_died_after(4, finished, tmp_path / "volume")

    outcome = run_train(volume, finished.config, attempt=2)

    assert_continues(finished, volume, outcome, 4)


def test_what_was_known_survives(finished: Finished, tmp_path: Path) -> None:
    volume = as_died_after(8, finished, tmp_path / "volume")

    state = run_train(volume, finished.config, attempt=2).progress

    before = finished.outcome.progress
    assert state is not None
    assert before is not None
    assert (state.attempt, state.resumed_from_step, state.step) == (2, 8, 12)
    assert state.tokens == before.tokens
    assert [(point.step, point.eval_loss) for point in state.history] == [
        (point.step, pytest.approx(point.eval_loss, abs=1e-6)) for point in before.history
    ]
    assert [found.step for found in state.checkpoints] == [4, 8, 12]
    assert state.skipped_checkpoints == ()


def truncate(checkpoint: Path) -> None:
    path = checkpoint / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])


def flip_a_bit(checkpoint: Path) -> None:
    path = checkpoint / "optimizer.pt"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def unseal(checkpoint: Path) -> None:
    (checkpoint / layout.MANIFEST).unlink()


def lose_a_file(checkpoint: Path) -> None:
    (checkpoint / "scheduler.pt").unlink()


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (truncate, "model.safetensors has 1000 bytes instead of"),
        (flip_a_bit, "optimizer.pt was damaged"),
        (unseal, "never completed"),
        (lose_a_file, "scheduler.pt is missing"),
    ],
)
def test_a_damaged_newest_checkpoint_is_passed_over_told_and_replaced(
    finished: Finished, tmp_path: Path, damage: Callable[[Path], None], why: str
) -> None:
    volume = as_died_after(8, finished, tmp_path / "volume")
    damage(volume / layout.CHECKPOINTS / "checkpoint-8")

    outcome = run_train(volume, finished.config, attempt=2)

    assert_continues(finished, volume, outcome, 4)
    state = outcome.progress
    assert state is not None
    assert state.resumed_from_step == 4
    assert [skipped.path for skipped in state.skipped_checkpoints] == ["checkpoints/checkpoint-8"]
    assert why in state.skipped_checkpoints[0].why
    assert [found.step for found in state.checkpoints] == [4, 8, 12]


@pytest.mark.parametrize("reached", [8, 12])
def test_a_damaged_older_checkpoint_is_told_and_listed_no_more(
    finished: Finished, tmp_path: Path, caplog: pytest.LogCaptureFixture, reached: int
) -> None:
    """Whether there are steps left to take or not."""
    volume = as_died_after(reached, finished, tmp_path / "volume")
    flip_a_bit(volume / layout.CHECKPOINTS / "checkpoint-4")

    outcome = run_train(volume, finished.config, attempt=2)

    state = outcome.progress
    assert state is not None
    assert state.resumed_from_step == reached
    assert [found.step for found in state.checkpoints] == [8, 12]
    assert [skipped.path for skipped in state.skipped_checkpoints] == ["checkpoints/checkpoint-4"]
    assert state.unverified_checkpoints == ()
    assert "checkpoints/checkpoint-4 is skipped: optimizer.pt was damaged" in caplog.text


def test_with_no_checkpoint_that_verifies_the_run_begins_anew(finished: Finished, tmp_path: Path) -> None:
    volume = as_died_after(4, finished, tmp_path / "volume")
    truncate(volume / layout.CHECKPOINTS / "checkpoint-4")

    outcome = run_train(volume, finished.config, attempt=2)

    assert_continues(finished, volume, outcome, -1)
    assert outcome.progress is not None
    assert outcome.progress.resumed_from_step == 0


def test_a_completed_run_is_not_trained_further_but_only_brought_to_its_end(
    finished: Finished, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    volume = as_died_after(12, finished, tmp_path / "volume")
    monkeypatch.setattr("sftjob_trainer.training.build.fit", lambda *_: pytest.fail("trained further"))

    outcome = run_train(volume, finished.config, attempt=2)

    assert finished.outcome.output is not None
    assert outcome.output == finished.outcome.output
    assert outcome.progress is not None
    assert outcome.progress.step == 12
    weights = "output/model/model.safetensors"
    assert (volume / weights).read_bytes() == (finished.volume / weights).read_bytes()
    assert (volume / layout.EVAL_RESULTS).read_bytes() == (finished.volume / layout.EVAL_RESULTS).read_bytes()


def test_leftovers_of_a_killed_attempt_are_cleared(finished: Finished, tmp_path: Path) -> None:
    volume = as_died_after(12, finished, tmp_path / "volume")
    staged = volume / layout.CHECKPOINTS / ".staging" / "checkpoint-12"
    staged.mkdir(parents=True)
    (staged / "model.safetensors").write_bytes(b"half")

    run_train(volume, finished.config, attempt=2)

    assert not staged.parent.exists()
