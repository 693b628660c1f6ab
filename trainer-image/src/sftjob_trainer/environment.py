"""The container's environment, read once and typed; nothing else in the trainer looks at variables of ours."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sftjob_contract.layout import CACHE
from sftjob_contract.names import (
    ENV_ATTEMPT,
    ENV_CACHE,
    ENV_CLAIMS,
    ENV_HUB_TOKEN,
    ENV_PROGRESS_CA,
    ENV_PROGRESS_TOKEN,
    ENV_PROGRESS_URL,
    ENV_RUN_CONFIG,
    ENV_TERMINATION_LOG,
    ENV_VOLUME,
)
from sftjob_contract.reasons import Reason
from sftjob_trainer.failure import Failure

ENV_HUB_ENDPOINT: Final = "HF_ENDPOINT"
"""huggingface_hub's own variable: another hub than the public one, such as a mirror. Set by whoever runs one."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where a stage finds its input and leaves its results. None: not given, so not used."""

    config_path: Path
    volume: Path
    cache: Path
    claims: Path | None
    attempt: int
    termination_log: Path | None
    progress_url: str | None
    progress_ca: Path | None
    progress_token: Path | None
    hub_endpoint: str | None = None
    hub_token: str | None = field(default=None, repr=False)


def read_environment(environ: Mapping[str, str]) -> Environment:
    """The environment of this container. An empty variable counts as absent.

    Raises:
        Failure: a variable that every stage needs is missing, or the attempt is not a positive number.
    """
    volume = Path(_required(environ, ENV_VOLUME, "the root of the job's volume"))
    return Environment(
        config_path=Path(_required(environ, ENV_RUN_CONFIG, "the path of the run config")),
        volume=volume,
        cache=_path(environ, ENV_CACHE) or volume / CACHE,
        claims=_path(environ, ENV_CLAIMS),
        attempt=_attempt(environ.get(ENV_ATTEMPT) or "1"),
        termination_log=termination_log(environ),
        progress_url=environ.get(ENV_PROGRESS_URL) or None,
        progress_ca=_path(environ, ENV_PROGRESS_CA),
        progress_token=_path(environ, ENV_PROGRESS_TOKEN),
        hub_endpoint=environ.get(ENV_HUB_ENDPOINT) or None,
        hub_token=environ.get(ENV_HUB_TOKEN) or None,
    )


def termination_log(environ: Mapping[str, str]) -> Path | None:
    """Where the Outcome goes; needed even when the rest of the environment can not be read."""
    return _path(environ, ENV_TERMINATION_LOG)


def _required(environ: Mapping[str, str], name: str, what: str) -> str:
    value = environ.get(name)
    if not value:
        raise Failure(Reason.CONFIG_INVALID, f"the environment variable {name} is not set; it must be {what}")
    return value


def _path(environ: Mapping[str, str], name: str) -> Path | None:
    value = environ.get(name)
    return Path(value) if value else None


def _attempt(value: str) -> int:
    if not value.isascii() or not value.isdigit() or int(value) < 1:
        raise Failure(Reason.CONFIG_INVALID, f"{ENV_ATTEMPT} must be a whole number from 1, not {value[:40]!r}")
    return int(value)
