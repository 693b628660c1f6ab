"""Checkpoints on the volume: what counts as complete, what is kept, and what is never deleted."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

from sftjob_contract import layout
from sftjob_contract.codec import from_json
from sftjob_contract.progress import Checkpoint
from sftjob_trainer.checkpoints import BrokenCheckpointError, CheckpointStore, Manifest, retained, verify

TIME = "2026-05-04T03:02:01Z"


def stage(store: CheckpointStore, step: int, content: bytes = b"weights") -> Path:
    """What transformers leaves in the staging directory."""
    directory = store.staging / layout.checkpoint_name(step)
    (directory / "nested").mkdir(parents=True)
    for name in ("model.safetensors", "nested/state.bin"):
        (directory / name).write_bytes(content + str(step).encode())
        (directory / name).chmod(0o600)
    return directory


def sealed(volume: Path, *steps: int, keep: int = 10) -> CheckpointStore:
    store = CheckpointStore(volume, keep)
    store.open()
    for step in steps:
        stage(store, step)
        store.seal(step, time=TIME, eval_loss=None)
    return store


def directories(volume: Path) -> set[str]:
    return {path.name for path in (volume / layout.CHECKPOINTS).iterdir()}


def test_a_sealed_checkpoint_names_every_file_with_size_and_digest(tmp_path: Path) -> None:
    store = sealed(tmp_path, 3)
    directory = tmp_path / layout.CHECKPOINTS / "checkpoint-3"

    manifest = from_json(Manifest, (directory / layout.MANIFEST).read_text(), ignore_unknown=False)

    assert [(file.path, file.size) for file in manifest.files] == [("model.safetensors", 8), ("nested/state.bin", 8)]
    assert manifest.files[0].sha256 == hashlib.sha256(b"weights3").hexdigest()
    assert store.complete == (Checkpoint(step=3, path="checkpoints/checkpoint-3", bytes=16, time=TIME),)
    assert {path.stat().st_mode & 0o777 for path in directory.rglob("*") if path.is_file()} == {0o644}


def test_a_new_run_begins_at_step_0(tmp_path: Path) -> None:
    point = CheckpointStore(tmp_path, keep=2).open()

    assert (point.step, point.directory, point.skipped) == (0, None, ())


def test_a_run_goes_on_from_the_newest_checkpoint(tmp_path: Path) -> None:
    sealed(tmp_path, 9, 10)

    again = CheckpointStore(tmp_path, keep=2)

    assert again.open().step == 10
    assert [found.step for found in again.complete] == [9, 10]


def test_a_checkpoint_half_written_is_no_checkpoint_and_is_cleared_away(tmp_path: Path) -> None:
    store = sealed(tmp_path, 5)
    stage(store, 6)

    assert CheckpointStore(tmp_path, keep=2).open().step == 5
    assert directories(tmp_path) == {"checkpoint-5"}


def overwrite(text: str) -> Callable[[Path], object]:
    return lambda directory: (directory / layout.MANIFEST).write_text(text)


def move_manifest_of_another(directory: Path) -> None:
    other = directory.with_name("checkpoint-4") / layout.MANIFEST
    (directory / layout.MANIFEST).write_bytes(other.read_bytes())


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda directory: (directory / layout.MANIFEST).unlink(), "never completed"),
        (overwrite('{"version": 1'), "can not be read"),
        (overwrite("[]"), "can not be read"),
        (overwrite('{"version":2,"step":5,"time":"","files":[]}'), "not that of this checkpoint"),
        (move_manifest_of_another, "not that of this checkpoint"),
        (lambda directory: (directory / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda directory: (directory / "model.safetensors").write_bytes(b"weigh"), "has 5 bytes instead of 8"),
        (lambda directory: (directory / "nested/state.bin").write_bytes(b"weights6"), "nested/state.bin was damaged"),
    ],
)
def test_a_damaged_checkpoint_is_passed_over_and_told_and_left_alone(
    tmp_path: Path, damage: Callable[[Path], object], why: str
) -> None:
    sealed(tmp_path, 4, 5)
    directory = tmp_path / layout.CHECKPOINTS / "checkpoint-5"
    damage(directory)

    store = CheckpointStore(tmp_path, keep=1)
    point = store.open()

    assert point.step == 4
    assert [skipped.path for skipped in point.skipped] == ["checkpoints/checkpoint-5"]
    assert why in point.skipped[0].why
    assert [found.step for found in store.complete] == [4]
    assert directory.is_dir()
    with pytest.raises(BrokenCheckpointError, match=r".+"):
        verify(directory)


def test_a_broken_checkpoint_is_deleted_only_once_a_newer_one_is_complete(tmp_path: Path) -> None:
    sealed(tmp_path, 4, 6)
    (tmp_path / layout.CHECKPOINTS / "checkpoint-6" / "model.safetensors").unlink()
    store = CheckpointStore(tmp_path, keep=1)
    store.open()

    stage(store, 5)
    store.seal(5, time=TIME, eval_loss=None)
    assert directories(tmp_path) == {"checkpoint-5", "checkpoint-6"}

    stage(store, 7)
    store.seal(7, time=TIME, eval_loss=None)
    assert directories(tmp_path) == {"checkpoint-7"}


def test_a_broken_checkpoint_is_replaced_when_its_step_is_reached_again(tmp_path: Path) -> None:
    sealed(tmp_path, 4, 6)
    directory = tmp_path / layout.CHECKPOINTS / "checkpoint-6"
    (directory / "model.safetensors").write_bytes(b"")
    store = CheckpointStore(tmp_path, keep=2)
    store.open()

    stage(store, 6, content=b"again")
    store.seal(6, time=TIME, eval_loss=None)

    assert (directory / "model.safetensors").read_bytes() == b"again6"
    assert CheckpointStore(tmp_path, keep=2).open().step == 6
    assert directories(tmp_path) == {"checkpoint-4", "checkpoint-6"}


@pytest.mark.parametrize(
    ("losses", "keep", "expected"),
    [
        ({1: None, 2: None, 3: None}, 2, [2, 3]),
        ({1: 0.5, 2: 0.9, 3: 0.8}, 1, [1, 3]),
        ({1: 0.5, 2: 0.9, 3: 0.4}, 1, [3]),
        ({1: 0.5, 2: 0.5, 3: None}, 1, [1, 3]),
        ({1: None}, 5, [1]),
        ({1: None, 2: None}, 0, [2]),
    ],
)
def test_the_newest_and_the_best_are_kept(losses: dict[int, float | None], keep: int, expected: list[int]) -> None:
    complete = tuple(
        Checkpoint(step=step, path="", bytes=1, time=TIME, eval_loss=loss) for step, loss in losses.items()
    )

    assert [found.step for found in retained(complete, keep)] == expected


def test_what_is_no_checkpoint_is_never_touched(tmp_path: Path) -> None:
    mine = tmp_path / layout.CHECKPOINTS / "my-notes"
    mine.mkdir(parents=True)

    sealed(tmp_path, 1, 2, 3, keep=1)

    assert directories(tmp_path) == {"my-notes", "checkpoint-3"}
