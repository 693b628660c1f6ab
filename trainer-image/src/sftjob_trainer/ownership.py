"""Whose the job's directory on a volume is: written there before anything else, checked before anything is used.

A directory outlives its job on storage.existingClaim and on a kept or rebound volume. Without a name in it, a job that
is created again would resume from the checkpoints of the one before.
"""

import errno
import logging
import os
import re
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
from sftjob_contract.config import ExistingContent, JobReference, RunConfig
from sftjob_contract.reasons import Reason
from sftjob_trainer.durable import sync
from sftjob_trainer.environment import Environment
from sftjob_trainer.failure import Failure

logger = logging.getLogger(__name__)

OWNER_VERSION: Final = 1
_READ_BYTES: Final = 4096
"""An owner file, or the head of config.yaml that names the job, is a fraction of this."""
_STAGED: Final = f".{layout.OWNER}."
"""How an owner file begins that is not in its place yet."""
_OF_FILESYSTEMS: Final = frozenset({"lost+found", ".snapshot", ".snapshots", ".zfs", ".Trash-0"})
"""What filesystems and storage servers put at the root of a volume themselves."""
_NO_LINKS: Final = frozenset({errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK})
"""What link(2) gives on a filesystem without hard links, such as SMB and some FUSE ones."""
_JOB: Final = re.compile(r"^job:\n((?: {2}\w+: [^\n]*\n)+)", re.MULTILINE)
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9.-]{0,252}")
_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ")
_SHOWN: Final = 5
_MOST_NAMES: Final = 1000
"""Names that are tried for what is moved aside."""


@dataclass(frozen=True, kw_only=True)
class Owner:
    """The content of an owner file. `time`: when it was written, RFC 3339 in UTC."""

    version: int
    job: JobReference
    time: str | None = None


@dataclass(frozen=True, kw_only=True)
class JobDirectory:
    """The directory `path` that `job` works in. `uri` is what people call it, as in `pvc://CLAIM/NAME`."""

    path: Path
    job: JobReference
    uri: str | None = None

    @classmethod
    def of(cls, config: RunConfig, environment: Environment) -> "JobDirectory":
        """The directory of a run."""
        return cls(path=environment.volume, job=config.job, uri=environment.volume_uri)

    @property
    def shown(self) -> str:
        """How messages call it."""
        return self.uri or str(self.path)

    @property
    def is_whole_volume(self) -> bool:
        """Whether it is the root of a claim, which cannot be renamed; where nobody says so, it may be."""
        return self.uri is None or "/" not in self.uri.removeprefix(layout.PVC_SCHEME)

    def claim(self, existing: ExistingContent | None) -> None:
        """Make the directory this job's, if it is nobody's.

        Raises:
            Failure: it is another's, or has content whose owner is unknown, and `existing` is not MoveAside.
        """
        problem = self._taken()
        if problem is not None and existing is ExistingContent.MOVE_ASIDE:
            place = _move_aside(self)
            logger.info("storage.existingContent: MoveAside: %s: %s; it is now %s", self.shown, problem, place)
            problem = self._taken()
        if problem is not None:
            raise self._refused(problem)

    def check(self) -> None:
        """See that the directory is this job's, or empty. One that an earlier release prepared is taken over.

        Raises:
            Failure: it is another's.
        """
        if (problem := self._problem()) is not None:
            raise self._refused(problem)
        if _owner(self.path) is None and _owner_by_config(self.path) is not None:
            self._write_owner()

    def moved_aside(self) -> str | None:
        """What was renamed for this job, by whichever attempt, and its new name, in a sentence; None: nothing."""
        where = self.path if self.is_whole_volume else self.path.parent
        prefix = self.aside if self.is_whole_volume else f"{self.path.name}.{self.aside}"
        form = re.compile(rf"{re.escape(prefix)}(-\d+)?")
        with suppress(OSError):
            found = sorted(name for name in _names(where) if form.fullmatch(name))
            if found:
                places = " and ".join(f"{self.shown}{self.shown_aside(name)}" for name in found[:_SHOWN])
                return (
                    f"{_whose(where / found[0])} at {self.shown} were renamed and are now at {places} "
                    f"(storage.existingContent: {ExistingContent.MOVE_ASIDE})."
                )
        return None

    @property
    def aside(self) -> str:
        """With what a name ends of what was moved aside for this job."""
        return f"{layout.MOVED_ASIDE}{self.job.uid}"

    def shown_aside(self, name: str) -> str:
        """What follows the name of the directory in that of what was moved aside."""
        return f"/{name}" if self.is_whole_volume else name.removeprefix(self.path.name)

    def check_not_lost(self) -> None:
        """See that the directory was not taken over by another job while this one ran.

        Raises:
            Failure: it was. What this job wrote before was moved aside.
        """
        owner = None
        with suppress(_UnreadableOwnerError, OSError):
            owner = _owner(self.path)
        if owner is not None and owner.job.uid != self.job.uid:
            raise Failure(
                Reason.CONFIG_INVALID,
                f"{self.shown} was taken over by {_named(owner)} while {_job(self.job)} ran: nothing more is written "
                "there, and what it had saved was moved aside",
            )

    def _taken(self) -> str | None:
        """Take the directory unless something speaks against it, which is returned."""
        if (problem := self._problem()) is not None:
            return problem
        if _owner(self.path) is None:
            self.path.mkdir(parents=True, exist_ok=True)
            self._write_owner()
        return self._problem()

    def _problem(self) -> str | None:
        """Why the directory cannot be this job's; None where it is, or is nobody's."""
        if (problem := self._form_problem()) is not None:
            return problem
        try:
            owner = _owner(self.path) or _owner_by_config(self.path)
        except _UnreadableOwnerError as error:
            return f"whose it is cannot be read: {layout.OWNER} {error}"
        if owner is not None:
            return None if owner.job.uid == self.job.uid else f"it belongs to {_named(owner)}"
        names = sorted(name for name in _names(self.path) if _is_content(name))
        if not names:
            return None
        more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
        return f"it has files that this job did not write: {', '.join(name[:60] for name in names[:_SHOWN])}{more}"

    def _form_problem(self) -> str | None:
        """Why what is there is no directory of a job's own. A volume's root may be a link, as in the sandbox."""
        if not self.is_whole_volume and self.path.is_symlink():
            return "it is a symbolic link and not a directory"
        return "it is a file and not a directory" if self.path.exists() and not self.path.is_dir() else None

    def _refused(self, problem: str) -> Failure:
        return Failure(
            Reason.CONFIG_INVALID,
            f"{self.shown} cannot be used by {_job(self.job)}: {problem}. Nothing was changed there. A new learning "
            "rate, model or data set is a new run, which never resumes from another one's checkpoints: write another "
            f"metadata.name, with checkpoints.resumeFrom to start from weights in {self.shown}/{layout.CHECKPOINTS}; "
            f"or write storage.existingContent: {ExistingContent.MOVE_ASIDE}, which renames what is there and starts "
            "at step 0",
        )

    def _write_owner(self) -> None:
        """Write the owner file, unless another Pod does so first. It appears with its whole content or not at all."""
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
    """An owner file that says nothing; the text says why."""


def _owner(directory: Path) -> Owner | None:
    """Who owns `directory` by its owner file, if it has one."""
    try:
        descriptor = os.open(directory / layout.OWNER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except FileNotFoundError:
        return None
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise _UnreadableOwnerError("is a symbolic link") from error
    try:
        content = os.read(descriptor, _READ_BYTES + 1)
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


def _owner_by_config(directory: Path) -> Owner | None:
    """Whose config.yaml is in `directory`, the one name that trainers left there before there were owner files."""
    path = directory / layout.RUN_CONFIG
    try:
        with path.open("rb") as stream:
            head = stream.read(_READ_BYTES).decode(errors="replace")
            written = datetime.fromtimestamp(os.fstat(stream.fileno()).st_mtime, UTC)
    except (FileNotFoundError, NotADirectoryError, IsADirectoryError):
        return None
    found = _JOB.search(head)
    try:
        job = decode(JobReference, yaml.safe_load(found[1]) if found else None, ignore_unknown=True)
    except (yaml.YAMLError, ValueError):
        return None
    return Owner(version=OWNER_VERSION, job=job, time=_rfc3339(written)) if _is_named(job) else None


def _move_aside(directory: JobDirectory) -> str:
    """Rename what is in the way, to a name that is not taken; returns how that is called.

    A directory is renamed in one step. At the root of a volume its entries are, the owner file last, so that what is
    left after an interruption is still another's.
    """
    try:
        if not directory.is_whole_volume:
            target = _free(directory.path.with_name(f"{directory.path.name}.{directory.aside}"))
            directory.path.rename(target)
            sync(target.parent)
            return f"{directory.shown}{directory.shown_aside(target.name)}"
        aside = directory.path / directory.aside
        aside.mkdir(exist_ok=True)
        names = filter(_is_content, _names(directory.path))
        for name in sorted(names, key=lambda name: (name == layout.OWNER, name)):
            (directory.path / name).rename(_free(aside / name))
        sync(aside)
        sync(directory.path)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EXDEV, errno.EINVAL):
            raise
        raise Failure(
            Reason.CONFIG_INVALID,
            f"storage.existingContent: {directory.shown} cannot be moved aside ({error.strerror}): it is a mount of "
            "its own; move its content yourself, or write another metadata.name",
        ) from error
    return f"{directory.shown}{directory.shown_aside(aside.name)}"


def _whose(aside: Path) -> str:
    """Whose files were moved aside, as far as they say so."""
    owner = None
    if not aside.is_symlink():
        with suppress(_UnreadableOwnerError, OSError):
            owner = _owner(aside) or _owner_by_config(aside)
    return "Files that this job did not write" if owner is None else f"Files of {_named(owner)},"


def _free(path: Path) -> Path:
    """`path`, or the first name after it that is not taken."""
    names: Iterator[Path] = (path.with_name(f"{path.name}-{number}") for number in range(2, _MOST_NAMES))
    return next((name for name in (path, *names) if not os.path.lexists(name)), path)


def _is_content(name: str) -> bool:
    """Whether an entry of a directory is of a run, and not of the filesystem or of this module."""
    return name not in _OF_FILESYSTEMS and not name.startswith((_STAGED, layout.MOVED_ASIDE, ".nfs"))


def _names(directory: Path) -> list[str]:
    try:
        return [entry.name for entry in directory.iterdir()]
    except FileNotFoundError:
        return []


def _write(path: Path, text: str) -> None:
    """Write a file that must not exist yet through to the disk."""
    with path.open("x", encoding="utf-8") as stream:
        stream.write(text)
        stream.flush()
        os.fsync(stream.fileno())


def _rfc3339(time: datetime) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ")


def _is_named(job: JobReference) -> bool:
    """Whether these are names that Kubernetes gives, fit to be shown."""
    return all(_NAME.fullmatch(part) for part in (job.namespace, job.name, job.uid))


def _named(owner: Owner) -> str:
    since = f", since {owner.time}" if owner.time is not None and _TIME.fullmatch(owner.time) else ""
    return f"{_job(owner.job)}{since}"


def _job(job: JobReference) -> str:
    return f"SFTJob {job.namespace}/{job.name} (uid {job.uid})"
