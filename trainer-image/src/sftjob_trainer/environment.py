"""The container's environment, read once and typed; nothing else in the trainer looks at variables of ours."""

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
from sftjob_trainer.failure import Failure

logger = logging.getLogger(__name__)

ENV_HUB_ENDPOINT: Final = "HF_ENDPOINT"
"""huggingface_hub's own variable: another hub than the public one, such as a mirror. Set by whoever runs one."""
ENV_LAUNCHED: Final = "SFTJOB_LAUNCHED"
"""The trainer's own process ID, in the processes that it starts; only there RANK and WORLD_SIZE mean something."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """Where a stage finds its input and leaves its results. None: not given, so not used.

    This Pod is number `node_rank` of `nodes`, which meet at `rendezvous` (HOST:PORT); this process is number `rank` of
    all `processes` that train, started by process `launcher`, or it is the only one. `micro_batch` is the
    perDeviceBatchSize of this attempt, `gradient_checkpointing` what it does where the run config leaves that open, and
    the Pod is killed `grace_seconds` after SIGTERM. Files of the user's own that the run config names lie in `files`.
    `config_hash` is the SHA-256 of the run config that this Pod was created with. `volume_uri` is what people call the
    volume.
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
        Failure: a variable that every stage needs is missing, or one is not what it should be.
    """
    launched = bool(environ.get(ENV_LAUNCHED))
    volume = Path(_required(environ, ENV_VOLUME, "the root of the job's volume"))
    return Environment(
        config_path=Path(_required(environ, ENV_RUN_CONFIG, "the path of the run config")),
        volume=volume,
        cache=_path(environ, ENV_CACHE) or volume / CACHE,
        claims=_path(environ, ENV_CLAIMS),
        files=_path(environ, ENV_FILES),
        publish_stage=bool(_flag_if_given(environ, ENV_PUBLISH_STAGE)),
        volume_uri=environ.get(ENV_VOLUME_URI) or None,
        attempt=_number(environ, ENV_ATTEMPT, at_least=1, usual=1),
        termination_log=termination_log(environ),
        progress_url=environ.get(ENV_PROGRESS_URL) or None,
        progress_ca=_path(environ, ENV_PROGRESS_CA),
        progress_token=_path(environ, ENV_PROGRESS_TOKEN),
        hub_endpoint=environ.get(ENV_HUB_ENDPOINT) or None,
        hub_token=environ.get(ENV_HUB_TOKEN) or None,
        nodes=_number(environ, ENV_NODES, at_least=1, usual=1),
        node_rank=_number(environ, ENV_NODE_RANK, at_least=0, usual=0),
        rendezvous=environ.get(ENV_RENDEZVOUS) or None,
        processes=int(environ["WORLD_SIZE"]) if launched else 1,
        rank=int(environ["RANK"]) if launched else 0,
        launcher=int(environ[ENV_LAUNCHED]) if launched else None,
        micro_batch=_number_if_given(environ, ENV_MICRO_BATCH),
        gradient_checkpointing=_flag_if_given(environ, ENV_GRADIENT_CHECKPOINTING),
        grace_seconds=_number_if_given(environ, ENV_GRACE_SECONDS),
        config_hash=environ.get(ENV_CONFIG_HASH) or None,
    )


def forget_world(environ: MutableMapping[str, str]) -> None:
    """Remove the variables of a world of processes, unless the trainer started this process as one of several.

    The keys of a Secret or the image may have them: torch.distributed and accelerate would wait for the others.
    """
    if environ.get(ENV_LAUNCHED):
        return
    for name in list(filter(is_of_world, environ)):
        logger.warning("%s is removed from the environment: the trainer sets it for each process that it starts", name)
        del environ[name]


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


def _number_if_given(environ: Mapping[str, str], name: str) -> int | None:
    return _number(environ, name, at_least=1, usual=1) if environ.get(name) else None


def _flag_if_given(environ: Mapping[str, str], name: str) -> bool | None:
    if not (value := environ.get(name)):
        return None
    if value not in ("true", "false"):
        raise Failure(Reason.CONFIG_INVALID, f"{name} must be true or false, not {value[:40]!r}")
    return value == "true"


def _number(environ: Mapping[str, str], name: str, *, at_least: int, usual: int) -> int:
    value = environ.get(name) or str(usual)
    if not value.isascii() or not value.isdigit() or int(value) < at_least:
        raise Failure(Reason.CONFIG_INVALID, f"{name} must be a whole number from {at_least}, not {value[:40]!r}")
    return int(value)
