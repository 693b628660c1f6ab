"""SIGTERM to a real trainer, whatever it is doing: it ends with 75 in time, and nothing of what was done is lost."""

import signal
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import RunConfig
from sftjob_trainer.run.checkpoints import CheckpointStore
from support import faults
from support.trainer.processes import train_in_one
from support.trainer.tiny import lora
from support.trainer.training import PEFT_IS_BEHIND, Finished, finish, job, run_train, write_prepared
from support.trainer.weights import assert_same_weights

pytestmark = [pytest.mark.slow, PEFT_IS_BEHIND]

STEPS = 4
AT_ONCE = "train was stopped (SIGTERM)"


@dataclass(frozen=True)
class Stopped:
    """What an attempt leaves that is stopped so: a sentence, its newest checkpoint, and what of the output is whole."""

    faults: tuple[faults.Fault, ...]
    message: str
    step: int
    output: frozenset[str] = frozenset()


ADAPTER, MERGED = "adapter", "merged"
TABLE = {
    "loading": Stopped((faults.signal_in("sftjob_trainer.training.build.load_model"),), AT_ONCE, 0),
    "loading, of the second attempt": Stopped(
        (faults.signal_in("sftjob_trainer.training.build.load_model"),), AT_ONCE, 2
    ),
    "a step, and once more at its end": Stopped(
        (
            faults.signal_in("sftjob_trainer.training.sft_trainer.Trainer.training_step"),
            faults.signal(signal.SIGTERM, 1),
        ),
        "stopped on request after step 1 of 4; checkpoints/checkpoint-1 is saved",
        1,
    ),
    "a save": Stopped(
        (faults.signal_in("sftjob_trainer.run.checkpoints.CheckpointStore.seal"),),
        "stopped on request after step 2 of 4; checkpoints/checkpoint-2 is saved",
        2,
    ),
    "a step, and once more when all is saved": Stopped(
        (faults.signal(signal.SIGTERM, 1), faults.signal_in("sftjob_trainer.process.termination.failed")), AT_ONCE, 1
    ),
    "after the last step": Stopped(
        (faults.signal(signal.SIGTERM, STEPS), faults.signal_in("sftjob_trainer.output.export.publish")), AT_ONCE, STEPS
    ),
    "making the output": Stopped((faults.signal_in("sftjob_trainer.output.export.replace_directory"),), AT_ONCE, STEPS),
    "merging": Stopped(
        (faults.signal_in("sftjob_trainer.output.merge.replace_directory"),), AT_ONCE, STEPS, frozenset({ADAPTER})
    ),
    "uploading": Stopped(
        (faults.signal_in("sftjob_trainer.publish.deliver"),), AT_ONCE, STEPS, frozenset({ADAPTER, MERGED})
    ),
}


@pytest.fixture(scope="module")
def undisturbed(qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """Four steps with LoRA, a checkpoint after the second and the last, and a merged model."""
    config = job(qwen2, method=lora(), max_steps=STEPS, save_every=2, learning_rate=1e-2)
    config = replace(config, output=replace(config.output, merge_adapter=True))
    return finish(tmp_path_factory.mktemp("undisturbed"), config)


def whole_outputs(volume: Path) -> set[str]:
    """What of the output is there under its own name."""
    output = volume / layout.OUTPUT
    return {path.name for path in output.iterdir() if not path.name.startswith(".")} if output.exists() else set()


def killed_after(step: int, directory: Path, volume: Path, config: RunConfig) -> None:
    """An attempt that came so far."""
    ended = train_in_one(directory, volume, config, faults.killed(step))
    assert ended.code == -signal.SIGKILL, ended.err


@pytest.mark.parametrize("doing", TABLE)
def test_a_stop_ends_the_attempt_with_what_was_saved_and_the_next_one_brings_the_run_to_its_end(
    undisturbed: Finished, tmp_path: Path, doing: str
) -> None:
    expected, config, volume = TABLE[doing], undisturbed.config, tmp_path / "volume"
    write_prepared(volume, config)
    if "second attempt" in doing:
        killed_after(3, tmp_path / "first", volume, config)

    ended = train_in_one(tmp_path / "pod", volume, config, *expected.faults)

    assert ended.code == ExitCode.RETRY, ended.err
    assert ended.outcome is not None
    assert (ended.outcome.reason, ended.outcome.message) == (Reason.INTERRUPTED, expected.message)
    assert whole_outputs(volume) == expected.output
    assert CheckpointStore(volume, keep=3).open().step == expected.step

    again = run_train(volume, config, attempt=2)

    assert again.exit_code is ExitCode.DONE
    assert again.progress is not None
    assert again.progress.resumed_from_step == expected.step
    assert [path.name for path in (volume / layout.OUTPUT).iterdir() if path.name.startswith(".")] == []
    for weights in (f"{layout.OUTPUT_ADAPTER}/adapter_model.safetensors", f"{layout.OUTPUT_MERGED}/model.safetensors"):
        assert_same_weights(undisturbed.volume / weights, volume / weights, atol=1e-6)
