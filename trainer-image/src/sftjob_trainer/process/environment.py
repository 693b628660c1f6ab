"""The container's environment, read once and typed; no other trainer code reads SFTJob variables."""

import logging
from collections.abc import Mapping, MutableMapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from sftjob_contract.layout import CACHE
from sftjob_contract.names import (
    ENV_ATTEMPT,
    ENV_CACHE,
    ENV_CLAIMS,
    ENV_CONFIG_HASH,
    ENV_FILES,
    ENV_GRACE_SECONDS,
    ENV_GRADIENT_CHECKPOINTING,
    ENV_HUB_TOKEN,
    ENV_MICRO_BATCH,
    ENV_NODE_RANK,
    ENV_NODES,
    ENV_PROGRESS_CA,
    ENV_PROGRESS_TOKEN,
    ENV_PROGRESS_URL,
    ENV_PUBLISH_STAGE,
    ENV_RENDEZVOUS,
    ENV_RUN_CONFIG,
    ENV_TERMINATION_LOG,
    ENV_VOLUME,
    ENV_VOLUME_URI,
)
from sftjob_contract.reasons import Reason
from sftjob_contract.variables import is_of_world
from sftjob_trainer.process.errors import StageError

logger = logging.getLogger(__name__)

ENV_HUB_ENDPOINT: Final = "HF_ENDPOINT"
"""huggingface_hub's own variable for a hub other than the public one, such as a mirror. Set by the administrator."""
ENV_LAUNCHED: Final = "SFTJOB_LAUNCHED"
"""Process ID of the launcher, set in the processes that it starts; RANK and WORLD_SIZE only have meaning there."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where a stage finds its input and writes its results. None: not set, so not used.

    This Pod is number `node_rank` of `nodes`, which meet at `rendezvous` (HOST:PORT). This process is number `rank` of
    all `processes` that train, started by process `launcher`, or it is the only one. `micro_batch` is the
    perDeviceBatchSize of this attempt. `gradient_checkpointing` is this attempt's setting if the run config leaves it
    open. The Pod is killed `grace_seconds` after SIGTERM. User-supplied files that the run config names are in `files`.
    `config_hash` is the SHA-256 of the run config that this Pod was created with. `volume_uri` is the volume's display
    name.
    `publish_stage`: Train leaves the output to stage publish.
    """

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
    nodes: int = 1
    node_rank: int = 0
    rendezvous: str | None = None
    processes: int = 1
    rank: int = 0
    launcher: int | None = None
    micro_batch: int | None = None
    gradient_checkpointing: bool | None = None
    grace_seconds: int | None = None
    files: Path | None = None
    publish_stage: bool = False
    config_hash: str | None = None
    volume_uri: str | None = None


def read_environment(environ: Mapping[str, str]) -> Environment:
    """The environment of this container. An empty variable counts as absent.

    Raises:
        StageError: a variable that every stage needs is missing, or a variable is invalid.
    """
    launched = bool(environ.get(ENV_LAUNCHED))
    volume = Path(_required(environ, ENV_VOLUME, "the root of the job's volume"))
    return Environment(
        config_path=Path(_required(environ, ENV_RUN_CONFIG, "the path of the run config")),
        volume=volume,
        cache=_path(environ, ENV_CACHE) or volume / CACHE,
        claims=_path(environ, ENV_CLAIMS),
        files=_path(environ, ENV_FILES),
        publish_stage=bool(_optional_flag(environ, ENV_PUBLISH_STAGE)),
        volume_uri=environ.get(ENV_VOLUME_URI) or None,
        attempt=_number(environ, ENV_ATTEMPT, minimum=1, default=1),
        termination_log=termination_log(environ),
        progress_url=environ.get(ENV_PROGRESS_URL) or None,
        progress_ca=_path(environ, ENV_PROGRESS_CA),
        progress_token=_path(environ, ENV_PROGRESS_TOKEN),
        hub_endpoint=environ.get(ENV_HUB_ENDPOINT) or None,
        hub_token=environ.get(ENV_HUB_TOKEN) or None,
        nodes=_number(environ, ENV_NODES, minimum=1, default=1),
        node_rank=_number(environ, ENV_NODE_RANK, minimum=0, default=0),
        rendezvous=environ.get(ENV_RENDEZVOUS) or None,
        processes=int(environ["WORLD_SIZE"]) if launched else 1,
        rank=int(environ["RANK"]) if launched else 0,
        launcher=int(environ[ENV_LAUNCHED]) if launched else None,
        micro_batch=_optional_number(environ, ENV_MICRO_BATCH),
        gradient_checkpointing=_optional_flag(environ, ENV_GRADIENT_CHECKPOINTING),
        grace_seconds=_optional_number(environ, ENV_GRACE_SECONDS),
        config_hash=environ.get(ENV_CONFIG_HASH) or None,
    )


def remove_distributed_variables(environ: MutableMapping[str, str]) -> None:
    """Remove the variables of distributed training, unless the trainer started this process as one of several.

    The keys of a Secret or the image may set them: torch.distributed and accelerate would then wait for other
    processes.
    """
    if environ.get(ENV_LAUNCHED):
        return
    for name in list(filter(is_of_world, environ)):
        logger.warning("%s is removed from the environment: the trainer sets it for each process that it starts", name)
        del environ[name]


def termination_log(environ: Mapping[str, str]) -> Path | None:
    """Path for the Outcome; needed even if the rest of the environment cannot be read."""
    return _path(environ, ENV_TERMINATION_LOG)


def _required(environ: Mapping[str, str], name: str, description: str) -> str:
    value = environ.get(name)
    if not value:
        raise StageError(Reason.CONFIG_INVALID, f"the environment variable {name} is not set; it must be {description}")
    return value


def _path(environ: Mapping[str, str], name: str) -> Path | None:
    value = environ.get(name)
    return Path(value) if value else None


def _optional_number(environ: Mapping[str, str], name: str) -> int | None:
    return _number(environ, name, minimum=1, default=1) if environ.get(name) else None


def _optional_flag(environ: Mapping[str, str], name: str) -> bool | None:
    if not (value := environ.get(name)):
        return None
    if value not in ("true", "false"):
        raise StageError(Reason.CONFIG_INVALID, f"{name} must be true or false, not {value[:40]!r}")
    return value == "true"


def _number(environ: Mapping[str, str], name: str, *, minimum: int, default: int) -> int:
    value = environ.get(name) or str(default)
    if not value.isascii() or not value.isdigit() or int(value) < minimum:
        raise StageError(Reason.CONFIG_INVALID, f"{name} must be a whole number from {minimum}, not {value[:40]!r}")
    return int(value)
