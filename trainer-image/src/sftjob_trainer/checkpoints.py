"""Checkpoints that can be trusted: sealed by a manifest, renamed into place complete, verified before use."""

import queue
import shutil
import threading
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

from sftjob_contract import layout
from sftjob_contract.codec import ContractError, from_json, to_json
from sftjob_contract.progress import Checkpoint, SkippedCheckpoint
from sftjob_trainer.durable import replace_directory, sha256, sync, sync_tree, write_atomically
from sftjob_trainer.ownership import JobDirectory
from sftjob_trainer.world import World

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
    """What a complete checkpoint consists of. `time` is RFC 3339 in UTC.

    `job_uid` is the job that took it; None: an earlier release did not say.
    """

    version: int
    step: int
    time: str
    eval_loss: float | None
    files: tuple[SealedFile, ...]
    job_uid: str | None = None


@dataclass(frozen=True, kw_only=True)
class ResumePoint:
    """Where a run goes on: the directory to load, and the newer checkpoints that were passed over."""

    step: int
    directory: Path | None
    skipped: tuple[SkippedCheckpoint, ...]


NOWHERE: Final = ResumePoint(step=0, directory=None, skipped=())
"""Before the first step, with nothing to go on from."""


class BrokenCheckpointError(Exception):
    """A checkpoint that must not be used; the text says why."""


class CheckpointStore:
    """The checkpoints of one run on its volume. Only verified ones count; `complete` lists them, oldest first.

    `unverified` are steps of older ones that earlier attempts sealed: reading them first would take too long.
    Until they are verified they neither count nor are deleted.
    """

    def __init__(self, volume: Path, keep: int, directory: JobDirectory | None = None) -> None:
        """Without a `directory` it does not matter whose they are."""
        self._directory = directory
        self._root = volume / layout.CHECKPOINTS
        self._keep = keep
        self.staging = self._root / _STAGING
        self.complete: tuple[Checkpoint, ...] = ()
        self.unverified: tuple[int, ...] = ()
        self._verdicts: queue.SimpleQueue[tuple[int, Checkpoint | SkippedCheckpoint]] = queue.SimpleQueue()
        self._verification: threading.Thread | None = None

    def open(self) -> ResumePoint:
        """Clear what an interrupted attempt left half done, and find the newest checkpoint that verifies.

        Nothing else is deleted: a broken checkpoint stays until a good newer one is sealed.
        """
        self._root.mkdir(parents=True, exist_ok=True)
        sync(self._root.parent)
        self.discard_staged()
        shutil.rmtree(self._root / _REPLACED, ignore_errors=True)
        skipped: list[SkippedCheckpoint] = []
        steps = sorted(_steps(self._root), reverse=True)
        for tried, step in enumerate(steps, 1):
            verdict = self._verdict(step)
            if isinstance(verdict, Checkpoint):
                self.complete = (verdict,)
                self.unverified = tuple(older for older in steps[tried:] if self._is_sealed(older))
                directory = self._root / layout.checkpoint_name(step)
                return ResumePoint(step=step, directory=directory, skipped=tuple(skipped))
            skipped.append(verdict)
        return replace(NOWHERE, skipped=tuple(skipped))

    def verify_older(self) -> None:
        """Begin to verify `unverified`, newest first, in a thread of its own."""
        if self._verification is None and self.unverified:
            self._verification = threading.Thread(
                target=self._verify, args=(self.unverified,), name="verification", daemon=True
            )
            self._verification.start()

    def take_up(self, *, wait: bool = False) -> tuple[SkippedCheckpoint, ...]:
        """Count what was verified meanwhile, or with `wait` all that is to be; returns those that are broken."""
        if wait:
            self.verify_older()
            if self._verification is not None:
                self._verification.join()
        good, broken = list(self.complete), []
        while not self._verdicts.empty():
            step, verdict = self._verdicts.get()
            self.unverified = tuple(other for other in self.unverified if other != step)
            if isinstance(verdict, Checkpoint):
                good.append(verdict)
            else:
                broken.append(verdict)
        if len(good) > len(self.complete):
            self._retain(tuple(good))
        return tuple(broken)

    def seal(self, step: int, *, time: str, eval_loss: float | None) -> None:
        """Make the staged checkpoint of `step` complete, move it into place, and drop those no longer needed.

        Raises:
            OSError: it could not be written; older checkpoints are as they were.
            Failure: the directory has been another job's meanwhile.
        """
        name = layout.checkpoint_name(step)
        self.check_not_lost()
        manifest = seal(self.staging / name, step=step, time=time, eval_loss=eval_loss, job_uid=self._job_uid)
        replace_directory(self.staging / name, self._root / name, aside=self._root / _REPLACED)
        self.discard_staged()
        older = (checkpoint for checkpoint in self.complete if checkpoint.step != step)
        self._retain((*older, _checkpoint(manifest)))

    @property
    def uri(self) -> str | None:
        """What people call the volume."""
        return None if self._directory is None else self._directory.uri

    def check_not_lost(self) -> None:
        """See that the directory is still this job's.

        Raises:
            Failure: another job has taken it over.
        """
        if self._directory is not None:
            self._directory.check_not_lost()

    def discard_staged(self) -> None:
        """Delete whatever is half done."""
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
            self._verdicts.put((step, self._verdict(step)))

    def _verdict(self, step: int) -> Checkpoint | SkippedCheckpoint:
        try:
            manifest = verify(self._root / layout.checkpoint_name(step))
        except BrokenCheckpointError as broken:
            return SkippedCheckpoint(path=_path(step), why=str(broken))
        if None not in (manifest.job_uid, self._job_uid) and manifest.job_uid != self._job_uid:
            return SkippedCheckpoint(path=_path(step), why=f"it is of another job (uid {manifest.job_uid})")
        return _checkpoint(manifest)

    def _is_sealed(self, step: int) -> bool:
        """One that is not is what a deletion left that was broken off."""
        return (self._root / layout.checkpoint_name(step) / layout.MANIFEST).exists()

    def _retain(self, complete: tuple[Checkpoint, ...]) -> None:
        kept = retained(complete, self._keep)
        newest = kept[-1].step
        spared = {checkpoint.step for checkpoint in kept}.union(self.unverified)
        for step in _steps(self._root):
            if step < newest and step not in spared:
                _delete(self._root / layout.checkpoint_name(step))
        self.complete = kept


def seal(directory: Path, *, step: int, time: str, eval_loss: float | None, job_uid: str | None = None) -> Manifest:
    """Write every file of `directory` through to the disk, and then the manifest that says what they are."""
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
    """Let the leader write what each process has saved of itself: another node's files may show up too late to seal.

    transformers names the file so where there are several processes. Collective.
    """
    if world.size == 1:
        return
    for rank, content in enumerate(world.gather((directory / _RNG_STATE.format(world.rank)).read_bytes())):
        if world.leads:
            (directory / _RNG_STATE.format(rank)).write_bytes(content)


def verify(directory: Path) -> Manifest:
    """The manifest of `directory`, once every file is found to be what it says.

    Raises:
        BrokenCheckpointError: it is not.
    """
    manifest = _read_manifest(directory)
    _check_sizes(directory, manifest)
    for file in manifest.files:
        try:
            digest = sha256(directory / file.path)
        except OSError as error:
            raise BrokenCheckpointError(f"{file.path} can not be read: {error}") from error
        if digest != file.sha256:
            raise BrokenCheckpointError(f"{file.path} was damaged: its content differs from the manifest")
    return manifest


def best_step(complete: Iterable[Checkpoint]) -> int | None:
    """Step of the checkpoint with the lowest evaluation loss; None when none was evaluated."""
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
        raise BrokenCheckpointError(f"{layout.MANIFEST} can not be read: {error}") from error
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


def _delete(directory: Path) -> None:
    """Delete a checkpoint, its manifest first: half of it must never look complete."""
    (directory / layout.MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(directory, ignore_errors=True)
