"""The Publish stage: it makes of the final checkpoint what Train would have made, and again where that failed."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sftjob_contract import layout
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.outcome import Outcome
from sftjob_contract.run.config import RunConfig
from sftjob_contract.run.destinations import Retain
from sftjob_trainer import publish
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.train import train
from support.trainer.tiny import lora
from support.trainer.training import PEFT_IS_BEHIND, Finished, environment, job, run_train, write_prepared

pytestmark = PEFT_IS_BEHIND


def of(config: RunConfig, retain: Retain = Retain.ALL) -> RunConfig:
    return replace(config, output=replace(config.output, merge_adapter=True, upload_uri="s3://lab/run", retain=retain))


@pytest.fixture(scope="module")
def trained(qwen2: Path, tmp_path_factory: pytest.TempPathFactory) -> Finished:
    """A run whose output is left to stage publish."""
    volume = tmp_path_factory.mktemp("trained")
    config = of(job(qwen2, method=lora(), max_steps=3, save_every=2, learning_rate=1e-2))
    stats = write_prepared(volume, config)
    return Finished(volume, config, stats, train(config, replace(environment(volume), publish_stage=True)))


@pytest.fixture
def volume(trained: Finished, tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained.volume, tmp_path / "volume"))


class Store:
    """Stands for the object store: it fails as often as it is told."""

    def __init__(self) -> None:
        self.failures = 0
        self.copies = 0

    def upload(self, uri: str, *_: object) -> str:
        if self.failures:
            self.failures -= 1
            raise StageError(Reason.UNREACHABLE, f"{uri} does not answer")
        self.copies += 1
        return uri


@pytest.fixture
def store(monkeypatch: pytest.MonkeyPatch) -> Store:
    found = Store()
    monkeypatch.setattr("sftjob_trainer.output.deliver.upload", found.upload)
    return found


def published(volume: Path, config: RunConfig) -> Outcome:
    return publish.publish(config, environment(volume))


def files(directory: Path) -> dict[str, bytes]:
    return {str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()}


def test_train_leaves_the_final_checkpoint_and_no_output(trained: Finished) -> None:
    outcome = trained.outcome

    assert (outcome.exit_code, outcome.stage, outcome.unpublished) == (ExitCode.DONE, Stage.TRAIN, True)
    assert outcome.output is None
    assert outcome.progress is not None
    assert outcome.progress.checkpoints[-1].step == 3
    assert not (trained.volume / layout.OUTPUT).exists()


def test_the_output_is_the_one_that_train_would_have_made(
    trained: Finished, volume: Path, store: Store, tmp_path: Path
) -> None:
    other = Path(shutil.copytree(trained.volume, tmp_path / "other"))

    by_stage, by_train = published(volume, trained.config), run_train(other, trained.config, attempt=2)

    assert files(volume / layout.OUTPUT) == files(other / layout.OUTPUT)
    assert (volume / layout.OUTPUT_MERGED / "model.safetensors").exists()
    assert files(volume / layout.RESULTS) == files(other / layout.RESULTS)
    assert by_stage.stage is Stage.PUBLISH
    assert by_stage.output == by_train.output
    assert by_stage.output is not None
    assert by_stage.output.uploaded == ("s3://lab/run",)
    assert by_stage.output.metrics["mergedEvalLoss"] > 0


def test_after_a_failed_copy_the_next_attempt_copies(trained: Finished, volume: Path, store: Store) -> None:
    store.failures = 1

    with pytest.raises(StageError, match="s3://lab/run does not answer; training is complete and its output is on"):
        published(volume, trained.config)

    assert published(volume, trained.config).output is not None
    assert store.copies == 1


def test_what_it_is_made_of_goes_only_once_it_is_copied(trained: Finished, volume: Path, store: Store) -> None:
    config, store.failures = of(trained.config, Retain.OUTPUT), 1

    with pytest.raises(StageError):
        published(volume, config)
    assert (volume / layout.CHECKPOINTS).exists()

    first, again = published(volume, config), published(volume, config)

    assert not (volume / layout.CHECKPOINTS).exists()
    assert (first.output, first.stage) == (again.output, again.stage)
    assert store.copies == 1


@pytest.mark.parametrize(
    ("harm", "sentence"),
    [
        (layout.PREPARED_UNPUBLISHED, "there is nothing to publish, the Train stage must end first"),
        (
            f"{layout.CHECKPOINTS}/checkpoint-3/adapter_model.safetensors",
            "the final checkpoint checkpoint-3 cannot be",
        ),
    ],
)
def test_what_can_not_be_published_is_a_failure_that_says_so(
    harm: str, sentence: str, trained: Finished, volume: Path, store: Store
) -> None:
    (volume / harm).unlink()

    with pytest.raises(StageError, match=sentence):
        published(volume, trained.config)
    assert store.copies == 0
