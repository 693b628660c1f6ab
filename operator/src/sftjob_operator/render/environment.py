"""Environment of a job's container. Every path that the trainer needs comes from here, so it hard-codes none."""

from typing import Any, Final

from sftjob_contract.layout import CACHE
from sftjob_contract.names import (
    CA_KEY,
    CONFIG_KEY,
    ENV_ATTEMPT,
    ENV_CLAIMS,
    ENV_HUB_TOKEN,
    ENV_PROGRESS_CA,
    ENV_PROGRESS_TOKEN,
    ENV_PROGRESS_URL,
    ENV_RUN_CONFIG,
    ENV_TERMINATION_LOG,
    ENV_VOLUME,
    MOUNT_CLAIMS,
    MOUNT_CONFIG,
    MOUNT_TMP,
    MOUNT_TOKEN,
    MOUNT_VOLUME,
    TERMINATION_LOG,
    TOKEN_KEY,
    Stage,
    progress_path,
)
from sftjob_operator.api import SFTJob
from sftjob_operator.render.common import RenderSettings

_CACHES: Final = f"{MOUNT_VOLUME}/{CACHE}"
_WRITABLE_PLACES: Final = {
    "HOME": MOUNT_TMP,
    "TMPDIR": MOUNT_TMP,
    "USER": "sftjob",  # torch asks for a user name, and the user has no passwd entry
    "XDG_CACHE_HOME": _CACHES,
    "HF_HOME": f"{_CACHES}/huggingface",
    "TORCHINDUCTOR_CACHE_DIR": f"{_CACHES}/torchinductor",
    "TRITON_CACHE_DIR": f"{_CACHES}/triton",
}
"""The root filesystem is read-only: libraries that write caches and scratch files are sent to mounted volumes."""
_QUIET: Final = {"PYTHONUNBUFFERED": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}


def environment(job: SFTJob, stage: Stage, attempt: int, settings: RenderSettings) -> list[dict[str, Any]]:
    """Variables of one attempt. Only Prepare may have the hub token; only Train reports, and it is offline."""
    plain = {
        ENV_RUN_CONFIG: f"{MOUNT_CONFIG}/{CONFIG_KEY}",
        ENV_VOLUME: MOUNT_VOLUME,
        ENV_CLAIMS: MOUNT_CLAIMS,
        ENV_ATTEMPT: str(attempt),
        ENV_TERMINATION_LOG: TERMINATION_LOG,
        **_WRITABLE_PLACES,
        **_QUIET,
    }
    if stage is Stage.TRAIN:
        plain |= {"HF_HUB_OFFLINE": "1", **_reporting(job, settings)}
    entries: list[dict[str, Any]] = [{"name": name, "value": value} for name, value in plain.items()]
    return entries + _threads(job) + (_hub_token(job) if stage is Stage.PREPARE else [])


def _reporting(job: SFTJob, settings: RenderSettings) -> dict[str, str]:
    if settings.progress_url is None:
        return {}
    path = progress_path(job.metadata.namespace, job.metadata.name)
    variables = {
        ENV_PROGRESS_URL: settings.progress_url.rstrip("/") + path,
        ENV_PROGRESS_TOKEN: f"{MOUNT_TOKEN}/{TOKEN_KEY}",
    }
    if settings.progress_ca is not None:
        variables[ENV_PROGRESS_CA] = f"{MOUNT_CONFIG}/{CA_KEY}"
    return variables


def _threads(job: SFTJob) -> list[dict[str, Any]]:
    """As many threads as CPUs were asked for, rounded up; by itself torch takes one for each core of the node."""
    if job.spec.resources.cpu is None:
        return []
    return [{"name": "OMP_NUM_THREADS", "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}}]


def _hub_token(job: SFTJob) -> list[dict[str, Any]]:
    reference = job.spec.model.token_secret_ref or job.spec.dataset.token_secret_ref
    if reference is None:
        return []
    return [
        {
            "name": ENV_HUB_TOKEN,
            "valueFrom": {"secretKeyRef": {"name": reference.name, "key": reference.key}},
        }
    ]
