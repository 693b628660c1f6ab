"""Checkpoints on the volume: what counts as complete, what is kept, and what is never deleted."""

import errno
import hashlib
import itertools
import os
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sftjob_contract import layout
from sftjob_contract.codec import from_json
from sftjob_contract.reports.progress import Checkpoint
from sftjob_trainer.run import checkpoints
from sftjob_trainer.run.checkpoints import BrokenCheckpointError, CheckpointStore, Manifest, retained, verify

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
    assert [found.step for found in again.complete] == [10]


def test_a_checkpoint_half_written_is_no_checkpoint_and_is_cleared_away(tmp_path: Path) -> None:
    store = sealed(tmp_path, 5)
    stage(store, 6)

    assert CheckpointStore(tmp_path, keep=2).open().step == 5
    assert directories(tmp_path) == {"checkpoint-5"}


def overwrite(text: str) -> Callable[[Path], object]:
    return lambda directory: (directory / layout.MANIFEST).write_text(text)


def flip_every_bit_once(directory: Path) -> None:
    """Leaves the last of them flipped."""
    path = directory / "model.safetensors"
    good = path.read_bytes()
    for bit in range(8 * len(good)):
        path.write_bytes(bytes(byte ^ (1 << bit % 8 if at == bit // 8 else 0) for at, byte in enumerate(good)))
        with pytest.raises(BrokenCheckpointError, match="damaged"):
            verify(directory)


def move_manifest_of_another(directory: Path) -> None:
    other = directory.with_name("checkpoint-4") / layout.MANIFEST
    (directory / layout.MANIFEST).write_bytes(other.read_bytes())


@pytest.mark.parametrize(
    ("damage", "why"),
    [
        (lambda directory: (directory / layout.MANIFEST).unlink(), "never completed"),
        (overwrite('{"version": 1'), "cannot be read"),
        (overwrite("[]"), "cannot be read"),
        (overwrite('{"version":2,"step":5,"time":"","files":[]}'), "not that of this checkpoint"),
        (move_manifest_of_another, "not that of this checkpoint"),
        (lambda directory: (directory / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda directory: (directory / "model.safetensors").write_bytes(b"weigh"), "has 5 bytes instead of 8"),
        (lambda directory: (directory / "nested/state.bin").write_bytes(b"weights6"), "nested/state.bin was damaged"),
        (flip_every_bit_once, "model.safetensors was damaged"),
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


class Crash(BaseException):
    """The process is gone: nothing after this runs, and no cleaning up either."""


WRITES = ("fsync", "rename", "replace", "unlink", "rmdir", "mkdir", "chmod")
"""What changes a directory, or makes a change last."""


def crash_at(moment: int, patch: pytest.MonkeyPatch) -> None:
    """Crash before the call number `moment` of those that write."""
    calls = itertools.count()

    def crashing(original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            if next(calls) == moment:
                raise Crash
            return original(*arguments, **options)

        return call

    for name in WRITES:
        patch.setattr(os, name, crashing(getattr(os, name)))


@pytest.mark.parametrize(
    "reached",
    [pytest.param(6, id="a new checkpoint"), pytest.param(5, id="one in the place of a broken one")],
)
def test_a_crash_at_any_moment_of_a_save_leaves_the_checkpoint_before_or_the_new_one(
    tmp_path: Path, reached: int
) -> None:
    steps = set()
    for moment in itertools.count():
        volume = tmp_path / str(moment)
        sealed(volume, 4, 5)
        if reached == 5:
            (volume / layout.CHECKPOINTS / "checkpoint-5" / "model.safetensors").unlink()
        store = CheckpointStore(volume, keep=1)
        before = store.open().step
        store.collect_verified(wait=True)
        stage(store, reached, content=b"again")
        with pytest.MonkeyPatch.context() as patch:
            crash_at(moment, patch)
            try:
                store.seal(reached, time=TIME, eval_loss=None)
            except Crash:
                crashed = True
            else:
                crashed = False

        again = CheckpointStore(volume, keep=1)
        point = again.open()

        assert point.step in {before, reached}
        assert point.directory is not None
        verify(point.directory)
        assert [found.step for found in again.complete][-1] == point.step
        assert not any(name.startswith(".") for name in directories(volume))
        steps.add(point.step)
        if not crashed:
            break

    assert moment > 10
    assert steps == {before, reached}
    assert directories(volume) == {f"checkpoint-{reached}"}


def test_a_disk_that_fails_to_read_a_checkpoint_is_a_reason_to_pass_it_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sealed(tmp_path, 4, 5)
    path_open = Path.open

    def failing(self: Path, *arguments: Any, **options: Any) -> Any:
        if self.parent.name == "checkpoint-5" and self.suffix == ".safetensors":
            raise OSError(errno.EIO, "Input/output error")
        return path_open(self, *arguments, **options)

    monkeypatch.setattr(Path, "open", failing)
    point = CheckpointStore(tmp_path, keep=2).open()

    assert point.step == 4
    assert point.skipped[0].why == "model.safetensors cannot be read: [Errno 5] Input/output error"


def test_every_file_and_directory_is_written_through_before_the_manifest_and_that_before_the_rename(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = CheckpointStore(tmp_path, keep=2)
    store.open()
    stage(store, 3)
    root, order = tmp_path / layout.CHECKPOINTS, []
    fsync, rename = os.fsync, os.rename

    def synced(descriptor: int) -> None:
        order.append(str(Path(f"/proc/self/fd/{descriptor}").readlink().relative_to(root)))
        fsync(descriptor)

    def renamed(source: Path, target: Path) -> None:
        order.append(f"{source.relative_to(root)} becomes {target.relative_to(root)}")
        rename(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    store.seal(3, time=TIME, eval_loss=None)

    staged = ".staging/checkpoint-3"
    content = [f"{staged}/nested/state.bin", f"{staged}/nested", f"{staged}/model.safetensors", staged]
    assert order == [
        *content,
        f"{staged}/.{layout.MANIFEST}.staging",
        staged,
        f"{staged} becomes checkpoint-3",
        ".",
    ]


def test_a_broken_best_checkpoint_found_on_resume_does_not_cost_the_last_good_one(tmp_path: Path) -> None:
    store = CheckpointStore(tmp_path, keep=1)
    store.open()
    for step, loss in ((1, 0.1), (2, 0.5), (3, 0.9)):
        stage(store, step)
        store.seal(step, time=TIME, eval_loss=loss)
    assert directories(tmp_path) == {"checkpoint-1", "checkpoint-3"}
    (tmp_path / layout.CHECKPOINTS / "checkpoint-1" / "model.safetensors").unlink()

    again = CheckpointStore(tmp_path, keep=1)

    assert again.open().step == 3
    assert [found.path for found in again.collect_verified(wait=True)] == ["checkpoints/checkpoint-1"]
    assert again.best_step == 3
    assert [found.step for found in again.complete] == [3]


def resumed(volume: Path, *losses: float | None, keep: int = 10) -> CheckpointStore:
    """Opened anew after checkpoints from step 1 on with these evaluation losses, of which none was ever deleted."""
    store = CheckpointStore(volume, 99)
    store.open()
    for step, loss in enumerate(losses, 1):
        stage(store, step)
        store.seal(step, time=TIME, eval_loss=loss)
    again = CheckpointStore(volume, keep)
    again.open()
    return again


def damage(volume: Path, step: int) -> None:
    """Other bytes, as many as there were."""
    path = volume / layout.CHECKPOINTS / f"checkpoint-{step}" / "model.safetensors"
    path.write_bytes(bytes(len(path.read_bytes())))


def steps(store: CheckpointStore) -> list[int]:
    return [found.step for found in store.complete]


def test_older_checkpoints_are_listed_once_their_content_is_verified_and_broken_ones_are_told(tmp_path: Path) -> None:
    store = resumed(tmp_path, 0.5, 0.4, 0.6, 0.7)
    damage(tmp_path, 2)

    assert (steps(store), store.unverified, store.best_step) == ([4], (3, 2, 1), 4)
    broken = store.collect_verified(wait=True)

    assert (steps(store), store.unverified, store.best_step) == ([1, 3, 4], (), 1)
    assert [found.path for found in broken] == ["checkpoints/checkpoint-2"]
    assert broken[0].why == "model.safetensors was damaged: its content differs from the manifest"
    assert store.collect_verified(wait=True) == ()


def test_nobody_waits_for_the_verification_of_older_checkpoints(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = resumed(tmp_path, None, None, None)
    begun, go_on = threading.Event(), threading.Event()
    digest = checkpoints.sha256

    def slow(path: Path) -> str:
        if "checkpoint-1" in path.parts:
            begun.set()
            assert go_on.wait(60)
        return digest(path)

    monkeypatch.setattr(checkpoints, "sha256", slow)
    store.verify_older()
    assert begun.wait(60)

    assert store.collect_verified() == ()
    assert (steps(store), store.unverified) == ([2, 3], (1,))
    go_on.set()
    store.collect_verified(wait=True)
    assert (steps(store), store.unverified) == ([1, 2, 3], ())


def test_what_is_not_verified_yet_is_neither_deleted_nor_makes_others_dispensable(tmp_path: Path) -> None:
    """Of those before 4, number 1 would be the best, but is broken; as long as nobody knows that, 2 stays as well."""
    store = resumed(tmp_path, 0.1, 0.3, 0.2, keep=2)
    damage(tmp_path, 1)

    stage(store, 4)
    store.seal(4, time=TIME, eval_loss=0.9)
    assert steps(store) == [3, 4]
    assert directories(tmp_path) == {f"checkpoint-{step}" for step in (1, 2, 3, 4)}

    store.collect_verified(wait=True)
    assert (steps(store), store.best_step) == ([3, 4], 3)
    assert directories(tmp_path) == {"checkpoint-3", "checkpoint-4"}


def test_what_is_left_of_a_deletion_that_was_broken_off_is_no_broken_checkpoint(tmp_path: Path) -> None:
    store = resumed(tmp_path, None, None)
    (tmp_path / layout.CHECKPOINTS / "checkpoint-1" / layout.MANIFEST).unlink()

    again = CheckpointStore(tmp_path, keep=2)

    assert again.open().skipped == ()
    assert (again.unverified, again.collect_verified(wait=True)) == ((), ())
    assert store.unverified == (1,)
