"""Ownership of the job's directory on a volume: written before anything else, checked before anything is used.

A directory outlives its job on storage.existingClaim and on a kept or rebound volume. Without an owner, a job that is
created again would resume from the checkpoints of the previous one.
"""

import errno
import logging
import os
import re
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import yaml

from sftjob_contract import layout
from sftjob_contract.codec import ContractError, decode, from_json, to_json
from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import ExistingContent, JobReference, RunConfig
from sftjob_trainer.process.atomic_files import sync
from sftjob_trainer.process.environment import Environment
from sftjob_trainer.process.errors import StageError

logger = logging.getLogger(__name__)

OWNER_VERSION: Final = 1
_READ_BYTES: Final = 4096
"""An owner file, or the head of config.yaml that names the job, is a fraction of this."""
_EMPTY_READS: Final = 20
"""Maximum reads of an owner file that is empty, _EMPTY_READ_SECONDS apart."""
_EMPTY_READ_SECONDS: Final = 0.05
_STAGED: Final = f".{layout.OWNER}."
"""Prefix of an owner file that is not in place yet."""
_OF_FILESYSTEMS: Final = frozenset({"lost+found", ".snapshot", ".snapshots", ".zfs", ".Trash-0"})
"""Entries that filesystems and storage servers create at the root of a volume themselves."""
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""Errors of link(2) on a filesystem without hard links, such as SMB and some FUSE filesystems."""
_JOB: Final = re.compile(r"^job:\n((?: {2}\w+: [^\n]*\n)+)", re.MULTILINE)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_MAX_SHOWN: Final = 5
_MAX_NAMES: Final = 1000
"""Number of names tried for content that is moved aside."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The content of an owner file. `time`: when it was written, RFC 3339 in UTC."""

    version: int
    job: JobReference
    time: str | None = None


@dataclass(frozen=True, kw_only=True)
class JobDirectory:
    """The directory `path` that `job` works in. `uri` is its display name, as in `pvc://CLAIM/NAME`."""

    path: Path
    job: JobReference
    uri: str | None = None

    @classmethod
    def for_run(cls, config: RunConfig, environment: Environment) -> "JobDirectory":
        """The directory of a run."""
        return cls(path=environment.volume, job=config.job, uri=environment.volume_uri)

    @property
    def display_name(self) -> str:
        """Its name in messages."""
        return self.uri or str(self.path)

    @property
    def is_whole_volume(self) -> bool:
        """Whether it is the root of a claim, which cannot be renamed; assumed if unknown."""
        return self.uri is None or "/" not in self.uri.removeprefix(layout.PVC_SCHEME)

    def claim(self, existing: ExistingContent | None) -> None:
        """Take ownership of the directory for this job, if it has no owner.

        Raises:
            StageError: it belongs to another job, or has content of unknown ownership, and `existing` is not MoveAside.
        """
        problem = self._try_claim()
        if problem is not None and existing is ExistingContent.MOVE_ASIDE:
            location = _move_aside(self)
            logger.info(
                "storage.existingContent: MoveAside: %s: %s; it is now %s", self.display_name, problem, location
            )
            problem = self._try_claim()
        if problem is not None:
            raise self._claim_error(problem)

    def check(self) -> None:
        """Check that the directory belongs to this job or is empty. One prepared by an earlier release is taken over.

        Raises:
            StageError: it belongs to another job.
        """
        if (problem := self._problem()) is not None:
            raise self._claim_error(problem)
        if _owner(self.path) is None and _owner_by_config(self.path) is not None:
            self._write_owner()

    def moved_aside(self) -> str | None:
        """What any attempt of this job moved aside, and its new name, as a sentence; None if nothing was moved."""
        where = self.path if self.is_whole_volume else self.path.parent
        prefix = self.aside_name if self.is_whole_volume else f"{self.path.name}.{self.aside_name}"
        pattern = re.compile(rf"{re.escape(prefix)}(-\d+)?")
        with suppress(OSError):
            matching = sorted(name for name in _names(where) if pattern.fullmatch(name))
            if matching:
                locations = " and ".join(
                    f"{self.display_name}{self.moved_name(name)}" for name in matching[:_MAX_SHOWN]
                )
                return (
                    f"{_owner_label(where / matching[0])} at {self.display_name} were renamed and are now at "
                    f"{locations} (storage.existingContent: {ExistingContent.MOVE_ASIDE})."
                )
        return None

    @property
    def aside_name(self) -> str:
        """Suffix of names that were moved aside for this job."""
        return f"{layout.MOVED_ASIDE}{self.job.uid}"

    def moved_name(self, name: str) -> str:
        """The part after the directory's name in the name of what was moved aside."""
        return f"/{name}" if self.is_whole_volume else name.removeprefix(self.path.name)

    def check_still_owned(self) -> None:
        """Check that no other job has taken over the directory while this one ran.

        Raises:
            StageError: another job has. What this job wrote before was moved aside.
        """
        owner = None
        with suppress(_UnreadableOwnerError, OSError):
            owner = _owner(self.path)
        if owner is not None and owner.job.uid != self.job.uid:
            raise StageError(
                Reason.CONFIG_INVALID,
                f"{self.display_name} was taken over by {_owner_name(owner)} while {_job_name(self.job)} "
                "ran: nothing more is written there, and what it had saved was moved aside",
            )

    def _try_claim(self) -> str | None:
        """Take the directory; returns the reason if this is not possible."""
        if (problem := self._problem()) is not None:
            return problem
        if _owner(self.path) is None:
            self.path.mkdir(parents=True, exist_ok=True)
            self._write_owner()
        return self._problem()

    def _problem(self) -> str | None:
        """Why the directory cannot be this job's; None if it is, or has no owner."""
        if (problem := self._form_problem()) is not None:
            return problem
        try:
            owner = _owner(self.path) or _owner_by_config(self.path)
        except _UnreadableOwnerError as error:
            return f"its owner cannot be read: {layout.OWNER} {error}"
        if owner is not None:
            return None if owner.job.uid == self.job.uid else f"it belongs to {_owner_name(owner)}"
        names = sorted(name for name in _names(self.path) if _is_content(name))
        if not names:
            return None
        more = f" and {len(names) - _MAX_SHOWN} more" if len(names) > _MAX_SHOWN else ""
        return f"it has files that this job did not write: {', '.join(name[:60] for name in names[:_MAX_SHOWN])}{more}"

    def _form_problem(self) -> str | None:
        """Why the existing entry cannot be a job directory. A volume's root may be a link, as in the sandbox."""
        if not self.is_whole_volume and self.path.is_symlink():
            return "it is a symbolic link and not a directory"
        return "it is a file and not a directory" if self.path.exists() and not self.path.is_dir() else None

    def _claim_error(self, problem: str) -> StageError:
        return StageError(
            Reason.CONFIG_INVALID,
            f"{self.display_name} cannot be used by {_job_name(self.job)}: {problem}. Nothing was changed there. A new "
            "learning rate, model or dataset is a new run, which never resumes from the checkpoints of another run: "
            f"write another metadata.name, with checkpoints.resumeFrom to start from weights in "
            f"{self.display_name}/{layout.CHECKPOINTS}; or write storage.existingContent: {ExistingContent.MOVE_ASIDE}"
            ", which renames the existing content and starts at step 0",
        )

    def _write_owner(self) -> None:
        """Write the owner file, unless another Pod does so first. It appears complete or not at all."""
        text = to_json(Owner(version=OWNER_VERSION, job=self.job, time=_rfc3339(datetime.now(UTC)))) + "\n"
        target, staged = self.path / layout.OWNER, self.path / f"{_STAGED}{uuid.uuid4().hex}"
        try:
            _write(staged, text)
            with suppress(FileExistsError):
                target.hardlink_to(staged)
        except OSError as error:
            if error.errno not in _NO_LINKS:
                raise
            with suppress(FileExistsError):
                _write(target, text)
        finally:
            staged.unlink(missing_ok=True)
        sync(self.path)


class _UnreadableOwnerError(Exception):
    """An unreadable owner file; the message gives the reason."""


def _owner(directory: Path) -> Owner | None:
    """The owner of `directory` by its owner file, if it has one."""
    try:
        descriptor = os.open(directory / layout.OWNER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise _UnreadableOwnerError("is a symbolic link") from error
    try:
        content = _written(descriptor)
        owner = from_json(Owner, content[:_READ_BYTES], ignore_unknown=True)
    except IsADirectoryError as error:
        raise _UnreadableOwnerError("is a directory") from error
    except ContractError as error:
        raise _UnreadableOwnerError("is not what a trainer writes") from error
    finally:
        os.close(descriptor)
    if len(content) > _READ_BYTES or not _is_named(owner.job):
        raise _UnreadableOwnerError("is not what a trainer writes")
    return owner


def _written(descriptor: int) -> bytes:
    """The content of an owner file; waits briefly while it is empty: without hard links, it exists before its text."""
    for _ in range(_EMPTY_READS):
        if content := os.read(descriptor, _READ_BYTES + 1):
            return content
        time.sleep(_EMPTY_READ_SECONDS)
    return b""


def _owner_by_config(directory: Path) -> Owner | None:
    """The owner of `directory` by its config.yaml, the only record of trainers before there were owner files."""
    path = directory / layout.RUN_CONFIG
    try:
        with path.open("rb") as stream:
            head = stream.read(_READ_BYTES).decode(errors="replace")
            written = datetime.fromtimestamp(os.fstat(stream.fileno()).st_mtime, UTC)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    matching = _JOB.search(head)
    try:
        job = decode(JobReference, yaml.safe_load(matching[1]) if matching else None, ignore_unknown=True)
    except (yaml.YAMLError, ValueError):
        return None
    return Owner(version=OWNER_VERSION, job=job, time=_rfc3339(written)) if _is_named(job) else None


def _move_aside(directory: JobDirectory) -> str:
    """Rename the existing content to an unused name; returns the new display name.

    A directory is renamed in one step. At the root of a volume its entries are renamed, the owner file last: after an
    interruption, the rest still belongs to the other job.
    """
    try:
        if not directory.is_whole_volume:
            target = _unused_path(directory.path.with_name(f"{directory.path.name}.{directory.aside_name}"))
            directory.path.rename(target)
            sync(target.parent)
            return f"{directory.display_name}{directory.moved_name(target.name)}"
        aside_name = directory.path / directory.aside_name
        aside_name.mkdir(exist_ok=True)
        names = filter(_is_content, _names(directory.path))
        for name in sorted(names, key=lambda name: (name == layout.OWNER, name)):
            (directory.path / name).rename(_unused_path(aside_name / name))
        sync(aside_name)
        sync(directory.path)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EXDEV, errno.EINVAL):
            raise
        raise StageError(
            Reason.CONFIG_INVALID,
            f"storage.existingContent: {directory.display_name} cannot be moved aside ({error.strerror}): it is a "
            "separate mount; move its content yourself, or write another metadata.name",
        ) from error
    return f"{directory.display_name}{directory.moved_name(aside_name.name)}"


def _owner_label(aside_name: Path) -> str:
    """The owner of the files that were moved aside, if known."""
    owner = None
    if not aside_name.is_symlink():
        with suppress(_UnreadableOwnerError, OSError):
            owner = _owner(aside_name) or _owner_by_config(aside_name)
    return "Files that this job did not write" if owner is None else f"Files of {_owner_name(owner)},"


def _unused_path(path: Path) -> Path:
    """`path`, or the first unused name after it."""
    names: Iterator[Path] = (path.with_name(f"{path.name}-{number}") for number in range(2, _MAX_NAMES))
    return next((name for name in (path, *names) if not os.path.lexists(name)), path)


def _is_content(name: str) -> bool:
    """Whether a directory entry belongs to a run, and not to the filesystem or this module."""
    return name not in _OF_FILESYSTEMS and not name.startswith((_STAGED, layout.MOVED_ASIDE, ".nfs"))


def _names(directory: Path) -> list[str]:
    try:
        return [entry.name for entry in directory.iterdir()]
    except FileNotFoundError:
        return []


def _write(path: Path, text: str) -> None:
    """Write a file that must not exist yet, and flush it to disk."""
    with path.open("x", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _rfc3339(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _is_named(job: JobReference) -> bool:
    """Whether these are valid Kubernetes names, safe to show."""
    return all(_NAME.fullmatch(part) for part in (job.namespace, job.name, job.uid))


def _owner_name(owner: Owner) -> str:
    suffix = f", since {owner.time}" if owner.time is not None and _TIME.fullmatch(owner.time) else ""
    return f"{_job_name(owner.job)}{suffix}"


def _job_name(job: JobReference) -> str:
    return f"SFTJob {job.namespace}/{job.name} (uid {job.uid})"
