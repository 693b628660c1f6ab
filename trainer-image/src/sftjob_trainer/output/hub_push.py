"""Push the run's output to a hub repository: one commit, with every file verified against the hub's digests.

huggingface_hub decides on import whether it is offline, and training is. This module therefore runs as a separate
process (`python -m sftjob_trainer.output.hub_push`) to talk to the hub. It reads an Errand from standard input and
writes a Report to standard output; the token is in its environment.
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
from sftjob_contract.names import ENV_HUB_TOKEN
from sftjob_contract.reasons import Reason
from sftjob_contract.run.config import RunConfig
from sftjob_contract.run.destinations import HubRepository
from sftjob_trainer.process.atomic_files import sha256
from sftjob_trainer.process.environment import ENV_HUB_ENDPOINT, Environment
from sftjob_trainer.process.errors import StageError
from sftjob_trainer.process.retry import RetryPolicy
from sftjob_trainer.sources.hub import PUBLIC_HUB
from sftjob_trainer.sources.reachability import unavailable, unreachable, url_of

logger = logging.getLogger(__name__)

ALIVE_SECONDS: Final = 60.0
_COMMAND: Final = (sys.executable, "-m", "sftjob_trainer.output.hub_push")
_ONLINE: Final = {
    "HF_HUB_OFFLINE": "0",
    "HF_HUB_DISABLE_XET": "1",  # its servers are not the hub's, and cannot be queried for digests
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
}
_ADAPTER_FOLDER: Final = PurePosixPath(layout.OUTPUT_ADAPTER).name
_WEIGHTS: Final = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin*", "adapter_config.json")
"""Files of an earlier push that would be loaded instead of, or together with, the pushed ones."""
_TOKEN_FIELD: Final = "output.hub.tokenSecretRef"  # noqa: S105 -- a field's name


@dataclass(frozen=True, kw_only=True)
class PushRequest:
    """What to push: `files` by their names in the repository, and the commit `message`."""

    repository: str
    private: bool
    files: Mapping[str, str]
    message: str


@dataclass(frozen=True, kw_only=True)
class PushResult:
    """The commit that contains the files, or why there is none."""

    commit: str | None = None
    reason: Reason | None = None
    message: str | None = None


def push(
    config: RunConfig,
    hub: HubRepository,
    environment: Environment,
    retry_policy: RetryPolicy,
    heartbeat: Callable[[], None] = lambda: None,
) -> str:
    """Make `hub` hold the run's output; returns its hf:// URI. Does nothing if the hub already has the output.

    A merged model is at the root of the repository, and the adapter then in its folder `adapter`. `heartbeat` is called
    every ALIVE_SECONDS.

    Raises:
        StageError: the hub denies write access, or stays unreachable for too long.
    """
    uri = f"{layout.HUB_SCHEME}{hub.repository}"
    if environment.hub_token is None:
        raise StageError(Reason.ACCESS_DENIED, f"{uri} cannot be written: there is no token; set {_TOKEN_FIELD}")
    request = PushRequest(
        repository=hub.repository,
        private=hub.private,
        files=files(config, environment.volume),
        message=f"SFTJob {config.job.name}",
    )
    commit = retry_policy.call(partial(_push, request, environment, heartbeat))
    logger.info("pushed %d files to %s: commit %s", len(request.files), uri, commit)
    return uri


def files(config: RunConfig, volume: Path) -> dict[str, str]:
    """Paths of the files to push, by their names in the repository."""
    if config.method.lora is None:
        return _files_below(volume / layout.OUTPUT_MODEL, "")
    if not config.output.merge_adapter:
        return _files_below(volume / layout.OUTPUT_ADAPTER, "")
    adapter = _files_below(volume / layout.OUTPUT_ADAPTER, f"{_ADAPTER_FOLDER}/")
    return {**_files_below(volume / layout.OUTPUT_MERGED, ""), **adapter}


def outdated_weights(existing: Iterable[str], wanted: Iterable[str]) -> list[str]:
    """Names of weight files in a repository that are not among the wanted ones."""
    kept = set(wanted)
    return [
        name
        for name in existing
        if name not in kept
        and str(PurePosixPath(name).parent) in (".", _ADAPTER_FOLDER)
        and any(PurePosixPath(name).match(pattern) for pattern in _WEIGHTS)
    ]


def main() -> None:
    """Entry point: see the module docstring."""
    request = from_json(PushRequest, sys.stdin.read(), ignore_unknown=False)
    result = run(request, os.environ[ENV_HUB_TOKEN], os.environ.get(ENV_HUB_ENDPOINT) or None)
    sys.stdout.write(to_json(result))


def run(request: PushRequest, token: str, endpoint: str | None) -> PushResult:
    """Run the errand; never raises. Hub responses are never repeated: they may echo secrets from the request."""
    try:
        return PushResult(commit=_commit(request, token, endpoint))
    except StageError as failure:
        return PushResult(reason=failure.reason, message=failure.message)
    except Exception as error:  # noqa: BLE001 -- each becomes a message
        found = to_stage_error(error, request.repository, endpoint)
        return PushResult(reason=found.reason, message=found.message)


def to_stage_error(error: Exception, repository: str, endpoint: str | None = None) -> StageError:
    """The StageError for an error of huggingface_hub at `endpoint` (None: the public hub)."""
    import httpx2  # huggingface_hub's HTTP library; its errors are passed through
    from huggingface_hub import errors

    uri = f"{layout.HUB_SCHEME}{repository}"
    if isinstance(error, errors.HFValidationError):
        problem = (
            "output.hub.repository must be ORG/NAME as the hub allows it: at most 96 letters, digits, '-', '_', '.'"
        )
        return StageError(Reason.CONFIG_INVALID, f"{uri}: {problem}")
    if isinstance(error, errors.HfHubHTTPError):
        return _status_error(error.response.status_code, uri, url_of(error))
    if isinstance(error.__cause__, errors.HfHubHTTPError):  # upload of a large file to a URL with its own permissions
        status = error.__cause__.response.status_code
        return unavailable(uri, url_of(error), status, "the hub's store")
    if any(isinstance(cause, httpx2.HTTPError | OSError) for cause in (error, error.__cause__)):
        return unreachable(uri, url_of(error) or endpoint or PUBLIC_HUB, error)
    logger.error("unexpected", exc_info=error)
    return StageError(Reason.INTERNAL_ERROR, f"{uri}: the push ended by an unexpected {type(error).__name__}")


def _status_error(status: int, uri: str, url: str | None) -> StageError:
    denied = f"{uri} cannot be written: the hub"
    if status == 401:
        return StageError(Reason.ACCESS_DENIED, f"{denied} does not accept the token of {_TOKEN_FIELD}")
    if status in (403, 404):
        rights = "write there, and to create the repository if it does not exist"
        return StageError(
            Reason.ACCESS_DENIED, f"{denied} refuses; give the token of {_TOKEN_FIELD} the right to {rights}"
        )
    if status == 402:
        return StageError(Reason.ACCESS_DENIED, f"{denied} has no room left for this account")
    if status == 400:
        return StageError(Reason.CONFIG_INVALID, f"{denied} does not take the name of output.hub.repository or a file")
    return unavailable(uri, url, status, "the hub")


def _push(request: PushRequest, environment: Environment, heartbeat: Callable[[], None]) -> str:
    """Run the errand in a separate process; returns the commit that it made or found."""
    variables = {**os.environ, **_ONLINE, ENV_HUB_TOKEN: environment.hub_token or ""}
    if environment.hub_endpoint is not None:
        variables[ENV_HUB_ENDPOINT] = environment.hub_endpoint
    with tempfile.TemporaryFile("w+", encoding="utf-8") as stdin:
        stdin.write(to_json(request))
        stdin.seek(0)
        process = subprocess.Popen(_COMMAND, env=variables, stdin=stdin, stdout=subprocess.PIPE)  # noqa: S603 -- ourselves
        output = _read_output(process, heartbeat)
    try:
        result = from_json(PushResult, output, ignore_unknown=False)
    except ContractError:
        result = PushResult()
    if result.commit is not None:
        return result.commit
    message = result.message or f"the process that pushes to the hub ended with exit code {process.returncode}"
    raise StageError(result.reason or Reason.INTERNAL_ERROR, message)


def _read_output(process: "subprocess.Popen[bytes]", heartbeat: Callable[[], None]) -> bytes:
    """The output of `process`, which is killed if this process ends first."""
    try:
        while True:
            try:
                return process.communicate(timeout=ALIVE_SECONDS)[0]
            except subprocess.TimeoutExpired:
                heartbeat()
    finally:
        process.kill()


def _commit(request: PushRequest, token: str, endpoint: str | None) -> str:
    from huggingface_hub import CommitOperationAdd, CommitOperationDelete, HfApi

    api = HfApi(endpoint=endpoint, token=token)
    api.create_repo(request.repository, private=request.private, exist_ok=True)
    existing = [file.rfilename for file in api.repo_info(request.repository).siblings or ()]
    operations = [
        *(CommitOperationDelete(path_in_repo=name) for name in outdated_weights(existing, request.files)),
        *(CommitOperationAdd(path_in_repo=name, path_or_fileobj=path) for name, path in request.files.items()),
    ]
    made = api.create_commit(request.repository, operations, commit_message=request.message)
    _verify(api, request, str(made.oid))
    return str(made.oid)


def _verify(api: Any, request: PushRequest, commit: str) -> None:
    """Compare each file with the hub's digest: SHA-256 for a large file, git's object name for a small one."""
    from huggingface_hub.hf_api import RepoFile

    tree = api.list_repo_tree(request.repository, recursive=True, revision=commit)
    listed = {entry.path: entry for entry in tree if isinstance(entry, RepoFile)}
    for name, path in request.files.items():
        entry = listed.get(name)
        if entry is None or not _same(Path(path), entry):
            uri = f"{layout.HUB_SCHEME}{request.repository}"
            raise StageError(Reason.INTERNAL_ERROR, f"{uri}: {name} is not stored as it was sent")


def _same(path: Path, entry: Any) -> bool:
    if entry.size != path.stat().st_size:
        return False
    return bool(entry.lfs.sha256 == sha256(path) if entry.lfs else entry.blob_id == git_object_name(path.read_bytes()))


def git_object_name(content: bytes) -> str:
    """SHA-1 of a git blob (https://git-scm.com/book/en/v2/Git-Internals-Git-Objects)."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content, usedforsecurity=False).hexdigest()


def _files_below(directory: Path, prefix: str) -> dict[str, str]:
    found = (path for path in sorted(directory.rglob("*")) if path.is_file())
    return {f"{prefix}{path.relative_to(directory).as_posix()}": str(path) for path in found}


if __name__ == "__main__":
    main()
