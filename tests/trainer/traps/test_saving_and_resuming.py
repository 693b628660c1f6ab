"""What transformers saves, and from what it goes on, against checkpoints that are sealed and verified."""

import os
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract import layout
from sftjob_trainer.run.checkpoints import CheckpointStore
from support.trainer.stock import STOCK_WARNS, logged, stock_trainer
from support.trainer.training import Finished, as_died_after, finish, job

pytestmark = STOCK_WARNS

ROWS = [{"text": f"open file {number} " * (1 + number % 3)} for number in range(16)]
STEPS = 4


def stock(model: Path, output: Path, **options: Any) -> Any:
    """A stock trainer that saves every second of 4 steps."""
    usual = {"max_steps": STEPS, "save_strategy": "steps", "save_steps": 2, "learning_rate": 1e-2}
    return stock_trainer(model, ROWS, output, per_device_train_batch_size=2, **{**usual, **options})


@pytest.fixture(scope="module")
def trained(qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A stock run of 4 steps that nothing disturbed. Read only."""
    trainer = stock(qwen2, tmp_path_factory.mktemp("stock"))
    trainer.train()
    return trainer


@pytest.fixture(scope="module")
def finished(qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """The same with our trainer. Read only."""
    return finish(tmp_path_factory.mktemp("ours"), job(qwen2, save_every=2, max_steps=STEPS, learning_rate=1e-2))


@pytest.fixture
def died(trained: Any, tmp_path: Path) -> Path:
    """What would be there, had the stock run died after step 2."""
    directory = tmp_path / "died"
    shutil.copytree(trained.args.output_dir, directory)
    shutil.rmtree(directory / "checkpoint-4")
    return directory


@pytest.fixture
def volume(finished: Finished, tmp_path: Path) -> Path:
    """What would be there, had our run died after step 4, before its output."""
    return as_died_after(4, finished, tmp_path / "volume")


def test_weights_can_be_read_by_others_where_transformers_keeps_them_to_itself(
    trained: Any, finished: Finished
) -> None:
    theirs = Path(trained.args.output_dir) / "checkpoint-4" / "model.safetensors"
    ours = finished.volume / layout.CHECKPOINTS / "checkpoint-4" / "model.safetensors"

    assert theirs.stat().st_mode & 0o044 == 0
    assert ours.stat().st_mode & 0o044 == 0o044


def test_the_model_card_tells_the_results_where_trls_says_what_trl_is(trained: Any, finished: Finished) -> None:
    theirs = (Path(trained.args.output_dir) / "README.md").read_text()
    ours = (finished.volume / layout.OUTPUT_MODEL / "README.md").read_text()

    assert "evalLoss" in ours
    assert finished.stats.dataset_fingerprint in ours
    assert "trl" not in ours.partition("## Made of")[0].lower()
    assert "evalLoss" not in theirs
    assert "TRL" in theirs


@pytest.mark.parametrize("content", ["", "checkpoint-is-incomplete.txt"], ids=["empty", "with a sentinel"])
def test_a_half_written_checkpoint_is_passed_over_where_transformers_takes_it_for_the_last(
    qwen2: Path, died: Path, volume: Path, content: str
) -> None:
    from transformers.trainer_utils import get_last_checkpoint

    for root in (died, volume / layout.CHECKPOINTS):
        (root / "checkpoint-9").mkdir()
        if content:
            (root / "checkpoint-9" / content).touch()

    assert Path(str(get_last_checkpoint(str(died)))).name == "checkpoint-9"
    with pytest.raises(ValueError, match="Can't find a valid checkpoint"):
        stock(qwen2, died).train(resume_from_checkpoint=True)
    assert CheckpointStore(volume, keep=3).open().step == 4


def test_a_checkpoint_without_its_optimizer_is_passed_over_where_transformers_trains_on_in_silence(
    qwen2: Path, trained: Any, died: Path, volume: Path
) -> None:
    (died / "checkpoint-2" / "optimizer.pt").unlink()
    (volume / layout.CHECKPOINTS / "checkpoint-4" / "optimizer.pt").unlink()

    resumed = stock(qwen2, died)
    resumed.train(resume_from_checkpoint=str(died / "checkpoint-2"))

    assert resumed.state.global_step == STEPS
    assert abs(logged(resumed, "loss")[3] - logged(trained, "loss")[3]) > 1e-4
    point = CheckpointStore(volume, keep=3).open()
    assert point.step == 2
    assert [skipped.why for skipped in point.skipped] == ["optimizer.pt is missing"]


def test_a_flipped_bit_is_found_where_transformers_loads_it(qwen2: Path, died: Path, volume: Path) -> None:
    for path in (died / "checkpoint-2", volume / layout.CHECKPOINTS / "checkpoint-4"):
        weights = path / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-2] ^= 1
        weights.write_bytes(content)

    stock(qwen2, died).train(resume_from_checkpoint=str(died / "checkpoint-2"))

    [skipped] = CheckpointStore(volume, keep=3).open().skipped
    assert skipped.why.startswith("model.safetensors was damaged")


def test_an_attempt_without_a_checkpoint_begins_where_transformers_gives_up(qwen2: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="No valid checkpoint found in output directory"):
        stock(qwen2, tmp_path / "none").train(resume_from_checkpoint=True)

    assert CheckpointStore(tmp_path / "volume", keep=3).open().step == 0


def test_transformers_trains_a_completed_run_one_step_further(qwen2: Path, trained: Any, tmp_path: Path) -> None:
    """Our side: the run is only brought to its end."""
    directory = tmp_path / "completed"
    shutil.copytree(trained.args.output_dir, directory)

    again = stock(qwen2, directory)
    again.train(resume_from_checkpoint=True)

    assert (trained.state.global_step, again.state.global_step) == (STEPS, STEPS + 1)


def test_trl_counts_tokens_from_zero_after_a_resume(qwen2: Path, trained: Any, died: Path) -> None:
    """Our side: what was known survives."""
    resumed = stock(qwen2, died)
    resumed.train(resume_from_checkpoint=True)

    undisturbed, after = logged(trained, "num_tokens"), logged(resumed, "num_tokens")
    assert after[:2] == undisturbed[:2]
    assert after[3] < undisturbed[3]


@pytest.fixture
def handlers() -> Iterator[None]:
    """Whoever listens for SIGTERM does so again afterwards."""
    before = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, before)


def test_transformers_own_stop_looks_like_success(qwen2: Path, tmp_path: Path, handlers: None) -> None:
    """It returns normally some seconds after the signal. Our side: exit code and sentence of an interrupted run."""
    from transformers import TrainerCallback

    class Terminator(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:  # noqa: ARG002
            if state.global_step == 1:
                os.kill(os.getpid(), signal.SIGTERM)

    trainer = stock(qwen2, tmp_path, enable_jit_checkpoint=True, max_steps=100_000, logging_steps=100_000)
    trainer.add_callback(Terminator())

    trainer.train()

    assert 1 < trainer.state.global_step < 100_000
