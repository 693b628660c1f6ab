"""Models and data sets from a Hugging Face hub, downloaded once into the cache."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from sftjob_contract.layout import HUB_SCHEME
from sftjob_contract.reasons import Reason
from sftjob_trainer.environment import Environment
from sftjob_trainer.failure import Failure
from sftjob_trainer.files import SUFFIXES
from sftjob_trainer.wording import either

_MODEL_SUFFIXES: Final = (".json", ".jinja", ".model", ".txt", ".py", ".tiktoken", ".safetensors")
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository at one revision (None: its default branch). `source` is how the user wrote it."""

    source: str
    kind: Literal["model", "dataset"]
    name: str
    path: str
    revision: str | None

    @classmethod
    def parse(cls, source: str, kind: Literal["model", "dataset"], revision: str | None) -> "Repository":
        """Parse `hf://ORG/NAME[/PATH]`.

        Raises:
            Failure: it has not that form, or its path climbs out of the repository.
        """
        parts = [part for part in source.removeprefix(HUB_SCHEME).split("/") if part]
        if len(parts) < 2 or ".." in parts or (kind == "model" and len(parts) > 2):
            form = "hf://ORG/NAME" if kind == "model" else "hf://ORG/NAME/PATH"
            raise Failure(Reason.CONFIG_INVALID, f"{source} must be {form}")
        return cls(source=source, kind=kind, name="/".join(parts[:2]), path="/".join(parts[2:]), revision=revision)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A downloaded repository: its directory on this machine and the commit that it is."""

    directory: Path
    commit: str


def download_model(source: str, revision: str | None, environment: Environment) -> Snapshot:
    """The files that loading a model needs.

    Raises:
        Failure: the hub does not have it or refuses us.
    """
    return _download(Repository.parse(source, "model", revision), model_files, environment)


def download_dataset(source: str, revision: str | None, environment: Environment) -> Path:
    """The data files at the source's path; returns the local path of that file or directory.

    Raises:
        Failure: the hub does not have it, it has no such file, or it refuses us.
    """
    repository = Repository.parse(source, "dataset", revision)
    snapshot = _download(repository, lambda names: dataset_files(names, repository.path), environment)
    return snapshot.directory / repository.path


def model_files(names: Sequence[str]) -> list[str]:
    """Which files of a model repository to download: weights once (safetensors if there are any), no exports."""
    top = [name for name in names if "/" not in name]
    chosen = [name for name in top if name.endswith(_MODEL_SUFFIXES)]
    if not any(name.endswith(".safetensors") for name in chosen):
        chosen += [name for name in top if name.endswith(".bin")]
    return chosen


def dataset_files(names: Sequence[str], path: str) -> list[str]:
    """The data files of a repository at or below `path`."""
    root = PurePosixPath(path)
    return [name for name in names if name.endswith(SUFFIXES) and PurePosixPath(name).is_relative_to(root)]


def _download(
    repository: Repository, choose: Callable[[Sequence[str]], list[str]], environment: Environment
) -> Snapshot:
    from huggingface_hub import HfApi

    # False, not None: a token comes from the job's Secret or not at all, never from a file in the image.
    api = HfApi(endpoint=environment.hub_endpoint, token=environment.hub_token or False)
    with _clear_errors(repository, has_token=environment.hub_token is not None):
        info = api.repo_info(repository.name, repo_type=repository.kind, revision=repository.revision)
        names = [file.rfilename for file in info.siblings or ()]
        chosen = choose(names)
        if not chosen:
            raise _nothing_usable(repository, names)
        directory = api.snapshot_download(
            repository.name,
            repo_type=repository.kind,
            revision=info.sha,
            cache_dir=environment.cache / "hub",
            allow_patterns=[_literal(name) for name in chosen],
        )
    return Snapshot(directory=Path(directory), commit=str(info.sha))


@contextmanager
def _clear_errors(repository: Repository, *, has_token: bool) -> Iterator[None]:
    """Turn the hub's refusals into sentences. Nothing that the server said is repeated: it may echo what we sent."""
    import httpx2  # what huggingface_hub speaks HTTP with; its errors reach us as they are
    from huggingface_hub import errors

    field = f"{repository.kind}.tokenSecretRef"
    try:
        yield
    except errors.GatedRepoError as error:
        access = "ask for access on its page" if has_token else f"set {field} to a token with access"
        raise _denied(repository, f"is gated: {access}") from error
    except errors.DisabledRepoError as error:
        raise _denied(repository, "has been disabled by the hub") from error
    except errors.RevisionNotFoundError as error:
        raise _missing(repository, f"has no revision {repository.revision or 'of its default branch'}") from error
    except errors.RepositoryNotFoundError as error:
        if has_token and error.response.status_code == _UNAUTHORIZED:
            raise _denied(repository, "can not be read: the hub does not accept the token") from error
        hint = "the token has no access to it" if has_token else f"it is private; then set {field}"
        raise _missing(repository, f"does not exist on the hub, or {hint}") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (_UNAUTHORIZED, _FORBIDDEN):
            what = "does not accept the token" if has_token else f"asks for a token; set {field}"
            raise _denied(repository, f"can not be read: the hub {what}") from error
        raise Failure(Reason.INTERNAL_ERROR, f"{repository.source}: the hub answered with HTTP {status}") from error
    except (httpx2.HTTPError, errors.LocalEntryNotFoundError, ConnectionError, TimeoutError) as error:
        raise Failure(
            Reason.INTERNAL_ERROR, f"{repository.source}: the hub can not be reached ({type(error).__name__})"
        ) from error


def _denied(repository: Repository, problem: str) -> Failure:
    return Failure(Reason.ACCESS_DENIED, f"{repository.source} {problem}")


def _missing(repository: Repository, problem: str) -> Failure:
    reason = Reason.MODEL_NOT_FOUND if repository.kind == "model" else Reason.DATASET_NOT_FOUND
    return Failure(reason, f"{repository.source} {problem}")


def _nothing_usable(repository: Repository, names: Sequence[str]) -> Failure:
    there = ", ".join(names[:8]) or "nothing"
    if repository.kind == "model":
        return _missing(repository, f"has no model files; it has {there}")
    where = f" at {repository.path}" if repository.path else ""
    return _missing(repository, f"has no {either(SUFFIXES)} file{where}; the repository has {there}")


def _literal(name: str) -> str:
    """`name` as a pattern that matches nothing else (fnmatch)."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)
