"""Verifiable checkpoints: sealed by a manifest, renamed into place when complete, verified before use."""

import queue
import shutil
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sftjob_contract import layout
from sftjob_contract.codec import ContractError, from_json, to_json
from sftjob_contract.reports.progress import Checkpoint, SkippedCheckpoint
from sftjob_trainer.distributed.world import World
from sftjob_trainer.process.atomic_files import replace_directory, sha256, sync, sync_tree, write_atomically
from sftjob_trainer.process.ownership import JobDirectory

MANIFEST_VERSION: Final = 1
_STAGING: Final = ".staging"
_REPLACED: Final = ".replaced"
_RNG_STATE: Final = "rng_state_{}.pth"


@dataclass(frozen=True, kw_only=True)
class SealedFile:
    """One file: `path` is relative to the checkpoint, `size` in bytes, `sha256` in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The content of a complete checkpoint. `time` is RFC 3339 in UTC.

    `job_uid` is the job that took it; None if an earlier release did not record it.
    """

    version: int
    step: int
    time: str
    eval_loss: float | None
    files: tuple[SealedFile, ...]
    job_uid: str | None = None


@dataclass(frozen=True, kw_only=True)
class ResumePoint:
    """Where a run resumes: the directory to load, and the newer checkpoints that were skipped."""

    step: int
    directory: Path | None
    skipped: tuple[SkippedCheckpoint, ...]


NO_CHECKPOINT: Final = ResumePoint(step=0, directory=None, skipped=())
"""Before the first step, without a checkpoint to resume from."""


class BrokenCheckpointError(Exception):
    """A checkpoint that must not be used; the message gives the reason."""


class CheckpointStore:
    """The checkpoints of one run on its volume. Only verified ones count; `complete` lists them, oldest first.

    `unverified` are the steps of older checkpoints that earlier attempts sealed: verifying them first would take too
    long. Until then they neither count nor are deleted.
    """

    def __init__(self, volume: Path, keep: int, directory: JobDirectory | None = None) -> None:
        """Without a `directory`, ownership is not checked."""
        self._directory = directory
        self._root = volume / layout.CHECKPOINTS
        self._keep = keep
        self.staging = self._root / _STAGING
        self.complete: tuple[Checkpoint, ...] = ()
        self.unverified: tuple[int, ...] = ()
        self._verified: queue.SimpleQueue[tuple[int, Checkpoint | SkippedCheckpoint]] = queue.SimpleQueue()
        self._verification: threading.Thread | None = None

    def open(self) -> ResumePoint:
        """Remove what an interrupted attempt left half done, and find the newest checkpoint that verifies.

        Nothing else is deleted: a broken checkpoint stays until a newer good one is sealed.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        sync(self._root.parent)
        self.discard_staged()
        shutil.rmtree(self._root / _REPLACED, ignore_errors=True)
        skipped: list[SkippedCheckpoint] = []
        steps = sorted(_steps(self._root), reverse=True)
        for tried, step in enumerate(steps, 1):
            result = self._verify_step(step)
            if isinstance(result, Checkpoint):
                self.complete = (result,)
                self.unverified = tuple(older for older in steps[tried:] if self._is_sealed(older))
                directory = self._root / layout.checkpoint_name(step)
                return ResumePoint(step=step, directory=directory, skipped=tuple(skipped))
            skipped.append(result)
        return replace(NO_CHECKPOINT, skipped=tuple(skipped))

    def verify_older(self) -> None:
        """Start verifying `unverified` in a separate thread, newest first."""
        if self._verification is None and self.unverified:
            self._verification = threading.Thread(
                target=self._verify, args=(self.unverified,), name="verification", daemon=True
            )
            self._verification.start()

    def collect_verified(self, *, wait: bool = False) -> tuple[SkippedCheckpoint, ...]:
        """Count the checkpoints verified so far, or with `wait` all of them; returns the broken ones."""
        if wait:
            self.verify_older()
            if self._verification is not None:
                self._verification.join()
        complete, broken = list(self.complete), []
        while not self._verified.empty():
            step, result = self._verified.get()
            self.unverified = tuple(other for other in self.unverified if other != step)
            if isinstance(result, Checkpoint):
                complete.append(result)
            else:
                broken.append(result)
        if len(complete) > len(self.complete):
            self._retain(tuple(complete))
        return tuple(broken)

    def seal(self, step: int, *, time: str, eval_loss: float | None) -> None:
        """Complete the staged checkpoint of `step`, move it into place, and delete those no longer needed.

        Raises:
            OSError: writing failed; older checkpoints are unchanged.
            StageError: another job has taken over the directory meanwhile.
        """
        name = layout.checkpoint_name(step)
        self.check_still_owned()
        manifest = seal(self.staging / name, step=step, time=time, eval_loss=eval_loss, job_uid=self._job_uid)
        replace_directory(self.staging / name, self._root / name, backup=self._root / _REPLACED)
        self.discard_staged()
        older = (checkpoint for checkpoint in self.complete if checkpoint.step != step)
        self._retain((*older, _checkpoint(manifest)))

    @property
    def uri(self) -> str | None:
        """Display name of the volume."""
        return None if self._directory is None else self._directory.uri

    def check_still_owned(self) -> None:
        """Check that the directory still belongs to this job.

        Raises:
            StageError: another job has taken it over.
        """
        if self._directory is not None:
            self._directory.check_still_owned()

    def discard_staged(self) -> None:
        """Delete everything that is half done."""
        shutil.rmtree(self.staging, ignore_errors=True)

    @property
    def best_step(self) -> int | None:
        """Step of the complete checkpoint with the lowest evaluation loss."""
        return best_step(self.complete)

    @property
    def _job_uid(self) -> str | None:
        return None if self._directory is None else self._directory.job.uid

    def _verify(self, steps: Iterable[int]) -> None:
        for step in steps:
            self._verified.put((step, self._verify_step(step)))

    def _verify_step(self, step: int) -> Checkpoint | SkippedCheckpoint:
        try:
            manifest = verify(self._root / layout.checkpoint_name(step))
        except BrokenCheckpointError as broken:
            return SkippedCheckpoint(path=_path(step), why=str(broken))
        if None not in (manifest.job_uid, self._job_uid) and manifest.job_uid != self._job_uid:
            return SkippedCheckpoint(path=_path(step), why=f"it belongs to another job (uid {manifest.job_uid})")
        return _checkpoint(manifest)

    def _is_sealed(self, step: int) -> bool:
        """Whether a checkpoint has a manifest. One without is the rest of an interrupted deletion."""
        return (self._root / layout.checkpoint_name(step) / layout.MANIFEST).exists()

    def _retain(self, complete: tuple[Checkpoint, ...]) -> None:
        kept = retained(complete, self._keep)
        newest = kept[-1].step
        kept_steps = {checkpoint.step for checkpoint in kept}.union(self.unverified)
        for step in _steps(self._root):
            if step < newest and step not in kept_steps:
                _delete_checkpoint(self._root / layout.checkpoint_name(step))
        self.complete = kept


def seal(directory: Path, *, step: int, time: str, eval_loss: float | None, job_uid: str | None = None) -> Manifest:
    """Flush every file of `directory` to disk, then write the manifest that lists them."""
    sync_tree(directory)
    files = tuple(
        SealedFile(path=path.relative_to(directory).as_posix(), size=path.stat().st_size, sha256=sha256(path))
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    )
    manifest = Manifest(
        version=MANIFEST_VERSION, step=step, time=time, eval_loss=eval_loss, files=files, job_uid=job_uid
    )
    write_atomically(directory / layout.MANIFEST, to_json(manifest))
    return manifest


def collect_rng_states(directory: Path, world: World) -> None:
    """Let the leader write each process's RNG state: files from another node may become visible too late to seal.

    File names are those of transformers with several processes. Collective.
    """
    if world.size == 1:
        return
    for rank, content in enumerate(world.all_gather((directory / _RNG_STATE.format(world.rank)).read_bytes())):
        if world.is_leader:
            (directory / _RNG_STATE.format(rank)).write_bytes(content)


def verify(directory: Path) -> Manifest:
    """The manifest of `directory`, after checking every file against it.

    Raises:
        BrokenCheckpointError: a file does not match.
    """
    manifest = _read_manifest(directory)
    _check_sizes(directory, manifest)
    for file in manifest.files:
        try:
            digest = sha256(directory / file.path)
        except OSError as error:
            raise BrokenCheckpointError(f"{file.path} cannot be read: {error}") from error
        if digest != file.sha256:
            raise BrokenCheckpointError(f"{file.path} was damaged: its content differs from the manifest")
    return manifest


def best_step(complete: Iterable[Checkpoint]) -> int | None:
    """Step of the checkpoint with the lowest evaluation loss; None if none was evaluated."""
    evaluated = [(checkpoint.eval_loss, checkpoint.step) for checkpoint in complete if checkpoint.eval_loss is not None]
    return min(evaluated)[1] if evaluated else None


def retained(complete: tuple[Checkpoint, ...], keep: int) -> tuple[Checkpoint, ...]:
    """The checkpoints to keep: the newest `keep` (at least one) and the best one."""
    ordered = sorted(complete, key=lambda checkpoint: checkpoint.step)
    newest = {checkpoint.step for checkpoint in ordered[-max(keep, 1) :]}
    return tuple(checkpoint for checkpoint in ordered if checkpoint.step in newest | {best_step(ordered)})


def _read_manifest(directory: Path) -> Manifest:
    try:
        text = (directory / layout.MANIFEST).read_bytes()
        manifest = from_json(Manifest, text, ignore_unknown=True)
    except FileNotFoundError:
        raise BrokenCheckpointError(f"it has no {layout.MANIFEST}, so it was never completed") from None
    except (OSError, ContractError) as error:
        raise BrokenCheckpointError(f"{layout.MANIFEST} cannot be read: {error}") from error
    if manifest.version != MANIFEST_VERSION or manifest.step != layout.checkpoint_step(directory.name):
        raise BrokenCheckpointError(f"{layout.MANIFEST} is not that of this checkpoint")
    return manifest


def _check_sizes(directory: Path, manifest: Manifest) -> None:
    for file in manifest.files:
        try:
            size = (directory / file.path).stat().st_size
        except OSError:
            raise BrokenCheckpointError(f"{file.path} is missing") from None
        if size != file.size:
            raise BrokenCheckpointError(f"{file.path} has {size} bytes instead of {file.size}")


def _checkpoint(manifest: Manifest) -> Checkpoint:
    return Checkpoint(
        step=manifest.step,
        path=_path(manifest.step),
        bytes=sum(file.size for file in manifest.files),
        time=manifest.time,
        eval_loss=manifest.eval_loss,
    )


def _path(step: int) -> str:
    return f"{layout.CHECKPOINTS}/{layout.checkpoint_name(step)}"


def _steps(root: Path) -> list[int]:
    steps = (layout.checkpoint_step(path.name) for path in root.iterdir() if path.is_dir())
    return [step for step in steps if step is not None]


def _delete_checkpoint(directory: Path) -> None:
    """Delete a checkpoint, its manifest first: a partly deleted one must never look complete."""
    (directory / layout.MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)
