"""Models and datasets from a Hugging Face hub, downloaded once into the cache."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Final, Literal

from sftjob_contract.layout import HUB_SCHEME
from sftjob_contract.reasons import Reason
from sftjob_trainer.process.environment import Environment
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.wording import one_of
from sftjob_trainer.sources.files import (
    SUFFIXES,
    FileNames,
    FileSelection,
    SourceFiles,
    choose_names,
    kind,
    single_file,
)
from sftjob_trainer.sources.reachability import is_network_error, unavailable, unreachable, url_of
from sftjob_trainer.sources.splits import SplitError
from sftjob_trainer.sources.weights import ReadFile, weight_files

_MODEL_SUFFIXES: Final = (".json", ".jinja", ".model", ".txt", ".py", ".tiktoken")
PUBLIC_HUB: Final = "https://huggingface.co"
"""huggingface_hub's default endpoint."""
ANSWER_SECONDS: Final = 60.0
"""Timeout for the hub to list a repository; huggingface_hub has none by default."""
NO_ORGANIZATION: Final = (
    "a short name such as gpt2 stands for a repository of an organization, openai-community/gpt2: write the whole name "
    "that is at the head of its page on the hub"
)
_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403


@dataclass(frozen=True, kw_only=True)
class Repository:
    """A repository at one revision (None: its default branch). `source` is the user's spelling."""

    source: str
    kind: Literal["model", "dataset"]
    name: str
    path: str
    revision: str | None

    @classmethod
    def parse(cls, source: str, kind: Literal["model", "dataset"], revision: str | None) -> "Repository":
        """Parse `hf://ORG/NAME[/PATH]`.

        Raises:
            StageError: it does not have that form, or its path points outside the repository.
        """
        name, path = _split(source)
        if "/" not in name or ".." in source.split("/") or (kind == "model" and path):
            form = "hf://ORG/NAME" if kind == "model" else "hf://ORG/NAME/PATH"
            hint = "" if "/" in name else f"; {NO_ORGANIZATION}"
            raise StageError(Reason.CONFIG_INVALID, f"{source} must be {form}{hint}")
        return cls(source=source, kind=kind, name=name, path=path, revision=revision)


@dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A downloaded repository: its directory on this machine and its commit."""

    directory: Path
    commit: str


def download_model(source: str, revision: str | None, environment: Environment) -> Snapshot:
    """Download the files required to load a model.

    Raises:
        StageError: the hub does not have it or denies access.
    """
    with _open_commit(Repository.parse(source, "model", revision), environment) as commit:
        return commit.download(model_files(commit.names, commit.read))


def download_dataset(source: str, revision: str | None, environment: Environment, wanted: FileSelection) -> SourceFiles:
    """Download the `wanted` data files of a repository or of a folder in it, or the file that the source names.

    Raises:
        StageError: the hub does not have it or denies access, or it has no such file, subset or split.
    """
    repository = Repository.parse(source, "dataset", revision)
    if wanted.subset is not None and repository.path:
        raise StageError(Reason.CONFIG_INVALID, f"{source}: dataset.subset cannot be set together with a path")
    with _open_commit(repository, environment) as commit:
        if repository.path in commit.names:
            directory = commit.download([repository.path] if kind(repository.path) else []).directory
            return single_file(directory / repository.path, source, wanted)
        names = _select_names(commit, wanted)
        inside = [str(PurePosixPath(repository.path, name)) for name in names.read]
        directory = commit.download(inside).directory
    return SourceFiles.in_directory(directory / repository.path, names)


def same_repository(source: str, other: str) -> bool:
    """Whether both are in the same hub repository."""
    return source.startswith(HUB_SCHEME) and other.startswith(HUB_SCHEME) and _split(source)[0] == _split(other)[0]


def model_files(names: Sequence[str], read: ReadFile) -> list[str]:
    """The files of a model repository to download: weights once, as transformers loads them, and no exports."""
    top = [name for name in names if "/" not in name]
    weights = set(weight_files(top, read))
    return [name for name in top if name.endswith(_MODEL_SUFFIXES) or name in weights]


class _Commit:
    """A repository at one commit: the `names` of its files, and their content on request."""

    def __init__(self, repository: Repository, environment: Environment) -> None:
        from huggingface_hub import HfApi

        # False, not None: a token comes from the job's Secret or not at all, never from a file in the image.
        self._api = HfApi(endpoint=environment.hub_endpoint, token=environment.hub_token or False)
        self._cache = environment.cache / "hub"
        self.repository = repository
        info = self._api.repo_info(
            repository.name, repo_type=repository.kind, revision=repository.revision, timeout=ANSWER_SECONDS
        )
        self._hash = str(info.sha)
        self.names = [file.rfilename for file in info.siblings or ()]

    def read(self, name: str) -> bytes:
        """The content of a file."""
        return (self.download([name]).directory / name).read_bytes()

    def download(self, names: Sequence[str]) -> Snapshot:
        if not names:
            raise _no_usable_files(self.repository, self.names)
        directory = self._api.snapshot_download(
            self.repository.name,
            repo_type=self.repository.kind,
            revision=self._hash,
            cache_dir=self._cache,
            allow_patterns=[_escape_pattern(name) for name in names],
        )
        return Snapshot(directory=Path(directory), commit=self._hash)


def _split(source: str) -> tuple[str, str]:
    """Name and path of `hf://ORG/NAME[/PATH]`."""
    parts = [part for part in source.removeprefix(HUB_SCHEME).split("/") if part]
    return "/".join(parts[:2]), "/".join(parts[2:])


@contextmanager
def _open_commit(repository: Repository, environment: Environment) -> Iterator[_Commit]:
    endpoint = environment.hub_endpoint or PUBLIC_HUB
    with _convert_hub_errors(repository, endpoint, has_token=environment.hub_token is not None):
        yield _Commit(repository, environment)


def _select_names(commit: _Commit, wanted: FileSelection) -> FileNames:
    """The files to read, by their names relative to the folder that the source names."""
    root = PurePosixPath(commit.repository.path)
    inside = {str(path.relative_to(root)) for path in map(PurePosixPath, commit.names) if path.is_relative_to(root)}
    try:
        return choose_names(inside, lambda name: commit.read(str(root / name)), wanted)
    except SplitError as error:
        raise _missing(commit.repository, str(error)) from error


@contextmanager
def _convert_hub_errors(repository: Repository, endpoint: str, *, has_token: bool) -> Iterator[None]:
    """Turn the hub's errors into messages. They never repeat server text, which may echo secrets from the request."""
    import httpx2  # huggingface_hub's HTTP library; its errors are passed through
    from huggingface_hub import errors

    field = f"{repository.kind}.tokenSecretRef"
    try:
        yield
    except errors.GatedRepoError as error:
        access = "request access on its page" if has_token else f"set {field} to a token with access"
        raise _denied(repository, f"is gated: {access}") from error
    except errors.DisabledRepoError as error:
        raise _denied(repository, "has been disabled by the hub") from error
    except errors.RevisionNotFoundError as error:
        raise _missing(repository, f"has no revision {repository.revision or 'of its default branch'}") from error
    except errors.RepositoryNotFoundError as error:
        if has_token and error.response.status_code == _UNAUTHORIZED:
            raise _denied(repository, "cannot be read: the hub does not accept the token") from error
        hint = "the token has no access to it" if has_token else f"it is private; then set {field}"
        raise _missing(repository, f"does not exist on the hub, or {hint}") from error
    except errors.HfHubHTTPError as error:
        status = error.response.status_code
        if status in (_UNAUTHORIZED, _FORBIDDEN):
            problem = "does not accept the token" if has_token else f"requires a token; set {field}"
            raise _denied(repository, f"cannot be read: the hub {problem}") from error
        raise unavailable(repository.source, url_of(error) or endpoint, status, "the hub") from error
    except (httpx2.HTTPError, errors.LocalEntryNotFoundError, OSError) as error:
        if not is_network_error(error):
            raise
        raise unreachable(repository.source, url_of(error) or endpoint, error) from error


def _denied(repository: Repository, problem: str) -> StageError:
    return StageError(Reason.ACCESS_DENIED, f"{repository.source} {problem}")


def _missing(repository: Repository, problem: str) -> StageError:
    reason = Reason.MODEL_NOT_FOUND if repository.kind == "model" else Reason.DATASET_NOT_FOUND
    return StageError(reason, f"{repository.source} {problem}")


def _no_usable_files(repository: Repository, names: Sequence[str]) -> StageError:
    listed = ", ".join(names[:8]) or "nothing"
    if repository.kind == "model":
        return _missing(repository, f"has no model files; it has {listed}")
    location = f" at {repository.path}" if repository.path else ""
    hint = ""
    if f"{PurePosixPath(repository.name).name}.py" in names:
        hint = "; its rows are made by a script, which is not run: set dataset.revision to refs/convert/parquet"
    return _missing(repository, f"has no {one_of(SUFFIXES)} file{location}; the repository has {listed}{hint}")


def _escape_pattern(name: str) -> str:
    """`name` as a pattern that matches nothing else (fnmatch)."""
    return "".join(f"[{char}]" if char in "*?[" else char for char in name)
