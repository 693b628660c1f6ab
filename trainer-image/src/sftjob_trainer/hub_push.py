"""The run's output in a repository on the hub: one commit, and every file compared with what the hub says it has.

huggingface_hub decides once, when it is imported, whether it is offline, and training is. So it is this module as a
process of its own (`python -m sftjob_trainer.hub_push`) that speaks with the hub: an Errand comes in on its standard
input, a Report goes out on its standard output, the token is in its environment.
"""

import hashlib
import logging
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any, Final

from sftjob_contract import layout
from sftjob_contract.codec import ContractError, from_json, to_json
from sftjob_contract.config import RunConfig
from sftjob_contract.destinations import HubRepository
from sftjob_contract.names import ENV_HUB_TOKEN
from sftjob_contract.reasons import Reason
from sftjob_trainer.durable import sha256
from sftjob_trainer.environment import ENV_HUB_ENDPOINT, Environment
from sftjob_trainer.failure import Failure
from sftjob_trainer.hub import PUBLIC_HUB
from sftjob_trainer.reachability import unavailable, unreachable, url_of
from sftjob_trainer.retrying import Patience

logger = logging.getLogger(__name__)

ALIVE_SECONDS: Final = 60.0
_COMMAND: Final = (sys.executable, "-m", "sftjob_trainer.hub_push")
_ONLINE: Final = {
    "HF_HUB_OFFLINE": "0",
    "HF_HUB_DISABLE_XET": "1",  # its servers are others than the hub, and answer no question about digests
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
_ADAPTER_BESIDE_MERGED: Final = PurePosixPath(layout.OUTPUT_ADAPTER).name
_WEIGHTS: Final = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin*", "adapter_config.json")
"""What an earlier push may have left that would be loaded instead of, or together with, what is pushed."""
_TOKEN_FIELD: Final = "output.hub.tokenSecretRef"  # noqa: S105 -- a field's name


@dataclass(frozen=True, kw_only=True)
class Errand:
    """What to push: `files` by their names in the repository. `message` is the commit's."""

    repository: str
    private: bool
    files: Mapping[str, str]
    message: str


@dataclass(frozen=True, kw_only=True)
class Report:
    """The commit that the files are in; or why they are in none."""

    commit: str | None = None
    reason: Reason | None = None
    message: str | None = None


def push(
    config: RunConfig,
    hub: HubRepository,
    environment: Environment,
    patience: Patience,
    alive: Callable[[], None] = lambda: None,
) -> str:
    """Make `hub` hold the run's output, which takes nothing where it does; returns its hf:// URI.

    A merged model is what the repository is, the adapter then lies in its folder `adapter`. `alive` is called every
    ALIVE_SECONDS.

    Raises:
        Failure: the hub does not let us write, or can not be reached for too long.
    """
    uri = f"{layout.HUB_SCHEME}{hub.repository}"
    if environment.hub_token is None:
        raise Failure(Reason.ACCESS_DENIED, f"{uri} can not be written: there is no token; set {_TOKEN_FIELD}")
    errand = Errand(
        repository=hub.repository,
        private=hub.private,
        files=files(config, environment.volume),
        message=f"SFTJob {config.job.name}",
    )
    commit = patience.through(partial(_sent, errand, environment, alive))
    logger.info("pushed %d files to %s: commit %s", len(errand.files), uri, commit)
    return uri


def files(config: RunConfig, volume: Path) -> dict[str, str]:
    """Paths of the files to push, by their names in the repository."""
    if config.method.lora is None:
        return _below(volume / layout.OUTPUT_MODEL, "")
    if not config.output.merge_adapter:
        return _below(volume / layout.OUTPUT_ADAPTER, "")
    adapter = _below(volume / layout.OUTPUT_ADAPTER, f"{_ADAPTER_BESIDE_MERGED}/")
    return {**_below(volume / layout.OUTPUT_MERGED, ""), **adapter}


def stale(there: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """Names of weights in a repository that are not among those wanted there."""
    kept = set(wanted)
    return [
        name
        for name in there
        if name not in kept
        and str(PurePosixPath(name).parent) in (".", _ADAPTER_BESIDE_MERGED)
        and any(PurePosixPath(name).match(pattern) for pattern in _WEIGHTS)
    ]


def main() -> None:
    """The process: see the module."""
    errand = from_json(Errand, sys.stdin.read(), ignore_unknown=False)
    report = run(errand, os.environ[ENV_HUB_TOKEN], os.environ.get(ENV_HUB_ENDPOINT) or None)
    sys.stdout.write(to_json(report))


def run(errand: Errand, token: str, endpoint: str | None) -> Report:
    """Do the errand. Nothing is raised, and nothing that the hub said is repeated: it may echo what we sent."""
    try:
        return Report(commit=_commit(errand, token, endpoint))
    except Failure as failure:
        return Report(reason=failure.reason, message=failure.message)
    except Exception as error:  # noqa: BLE001 -- each becomes a sentence
        found = verdict(error, errand.repository, endpoint)
        return Report(reason=found.reason, message=found.message)


def verdict(error: Exception, repository: str, endpoint: str | None = None) -> Failure:
    """What an error of huggingface_hub at `endpoint` (None: the public hub) means for the user."""
    import httpx2  # what huggingface_hub speaks HTTP with; its errors reach us as they are
    from huggingface_hub import errors

    uri = f"{layout.HUB_SCHEME}{repository}"
    if isinstance(error, errors.HFValidationError):
        problem = (
            "output.hub.repository must be ORG/NAME as the hub allows it: at most 96 letters, digits, '-', '_', '.'"
        )
        return Failure(Reason.CONFIG_INVALID, f"{uri}: {problem}")
    if isinstance(error, errors.HfHubHTTPError):
        return _answered(error.response.status_code, uri, url_of(error))
    if isinstance(error.__cause__, errors.HfHubHTTPError):  # of a large file's upload, to a URL that has its own rights
        status = error.__cause__.response.status_code
        return unavailable(uri, url_of(error), status, "the hub's store")
    if any(isinstance(each, httpx2.HTTPError | OSError) for each in (error, error.__cause__)):
        return unreachable(uri, url_of(error) or endpoint or PUBLIC_HUB, error)
    logger.error("unexpected", exc_info=error)
    return Failure(Reason.INTERNAL_ERROR, f"{uri}: the push ended by an unexpected {type(error).__name__}")


def _answered(status: int, uri: str, url: str | None) -> Failure:
    denied = f"{uri} can not be written: the hub"
    if status == 401:
        return Failure(Reason.ACCESS_DENIED, f"{denied} does not accept the token of {_TOKEN_FIELD}")
    if status in (403, 404):
        rights = "write there, and to make the repository if there is none"
        return Failure(
            Reason.ACCESS_DENIED, f"{denied} refuses; give the token of {_TOKEN_FIELD} the right to {rights}"
        )
    if status == 402:
        return Failure(Reason.ACCESS_DENIED, f"{denied} has no room left for this account")
    if status == 400:
        return Failure(Reason.CONFIG_INVALID, f"{denied} does not take the name of output.hub.repository or a file")
    return unavailable(uri, url, status, "the hub")


def _sent(errand: Errand, environment: Environment, alive: Callable[[], None]) -> str:
    """Send a process on the errand; the commit that it made or found."""
    variables = {**os.environ, **_ONLINE, ENV_HUB_TOKEN: environment.hub_token or ""}
    if environment.hub_endpoint is not None:
        variables[ENV_HUB_ENDPOINT] = environment.hub_endpoint
    with tempfile.TemporaryFile("w+", encoding="utf-8") as given:
        given.write(to_json(errand))
        given.seek(0)
        process = subprocess.Popen(_COMMAND, env=variables, stdin=given, stdout=subprocess.PIPE)  # noqa: S603 -- ourselves
        said = _heard(process, alive)
    try:
        report = from_json(Report, said, ignore_unknown=False)
    except ContractError:
        report = Report()
    if report.commit is not None:
        return report.commit
    message = report.message or f"the process that pushes to the hub ended with exit code {process.returncode}"
    raise Failure(report.reason or Reason.INTERNAL_ERROR, message)


def _heard(process: "subprocess.Popen[bytes]", alive: Callable[[], None]) -> bytes:
    """What `process` says until it ends, which it does with us."""
    try:
        while True:
            try:
                return process.communicate(timeout=ALIVE_SECONDS)[0]
            except subprocess.TimeoutExpired:
                alive()
    finally:
        process.kill()


def _commit(errand: Errand, token: str, endpoint: str | None) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(endpoint=endpoint, token=token)
    api.create_repo(errand.repository, private=errand.private, exist_ok=True)
    there = [file.rfilename for file in api.repo_info(errand.repository).siblings or ()]
    operations = [
        *(CommitOperationDelete(path_in_repo=name) for name in stale(there, errand.files)),
        *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in errand.files.items()),
    ]
    made = api.create_commit(errand.repository, operations, commit_message=errand.message)
    _verify(api, errand, str(made.oid))
    return str(made.oid)


def _verify(api: Any, errand: Errand, commit: str) -> None:
    """Compare each file with what the hub says of it: SHA-256 of a large one, git's object name of a small one."""
    from huggingface_hub.hf_api import RepoFile

    tree = api.list_repo_tree(errand.repository, recursive=True, revision=commit)
    told = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    for name, path in errand.files.items():
        entry = told.get(name)
        if entry is None or not _same(Path(path), entry):
            uri = f"{layout.HUB_SCHEME}{errand.repository}"
            raise Failure(Reason.INTERNAL_ERROR, f"{uri}: {name} is not there as it was sent")


def _same(path: Path, entry: Any) -> bool:
    if entry.size != path.stat().st_size:
        return False
    return bool(entry.lfs.sha256 == sha256(path) if entry.lfs else entry.blob_id == git_object_name(path.read_bytes()))


def git_object_name(content: bytes) -> str:
    """SHA-1 of a git blob (https://git-scm.com/book/en/v2/Git-Internals-Git-Objects)."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _below(directory: Path, prefix: str) -> dict[str, str]:
    found = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {f"{prefix}{path.relative_to(directory).as_posix()}": str(path) for path in found}


if __name__ == "__main__":
    main()
