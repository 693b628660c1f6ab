"""Environment of a job's container. Every path that the trainer needs comes from here, so it hard-codes none."""

from typing import Any, Final

from sftjob_contract.layout import CACHE
from sftjob_contract.names import (
    CA_KEY,
    CONFIG_KEY,
    ENV_ATTEMPT,
    ENV_CACHE,
    ENV_CLAIMS,
    ENV_HUB_TOKEN,
    ENV_NODE_RANK,
    ENV_NODES,
    ENV_PROGRESS_CA,
    ENV_PROGRESS_TOKEN,
    ENV_PROGRESS_URL,
    ENV_RENDEZVOUS,
    ENV_RUN_CONFIG,
    ENV_TERMINATION_LOG,
    ENV_VOLUME,
    ENV_WANDB_API_KEY,
    MOUNT_CACHE,
    MOUNT_CLAIMS,
    MOUNT_CONFIG,
    MOUNT_TMP,
    MOUNT_TOKEN,
    RENDEZVOUS_PORT,
    TERMINATION_LOG,
    TOKEN_KEY,
    Stage,
    progress_path,
)
from sftjob_operator.api import SecretKeyRef, SecretRef, SFTJob, to_dict
from sftjob_operator.render.common import PodContext, pod_name, service_name, volume_root
from sftjob_operator.render.resources import stage_resources

ENV_THREADS: Final = "OMP_NUM_THREADS"
"""Threads of each process. The one variable here that a user may set, which then wins."""
_QUIET: Final = {"PYTHONUNBUFFERED": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
_OFFLINE: Final = {"HF_HUB_OFFLINE": "1"}
_NO_GPU: Final = {"NVIDIA_VISIBLE_DEVICES": "void"}
"""CUDA images ask for all GPUs of the node in this variable, and NVIDIA's runtime obeys: void asks for none."""


def _places(volume: str, cache: str) -> dict[str, str]:
    """The root filesystem is read-only: libraries that write caches and scratch files are sent to mounted volumes.

    Downloads go to `cache`, which several jobs may share and Train may not write to; all else stays on the volume.
    """
    own = f"{volume}/{CACHE}"
    return {
        "HOME": MOUNT_TMP,
        "TMPDIR": MOUNT_TMP,
        "USER": "sftjob",  # torch asks for a user name, and the user has no passwd entry
        "HF_HOME": cache,
        "HF_DATASETS_CACHE": f"{own}/datasets",
        "HF_MODULES_CACHE": f"{own}/modules",
        "XDG_CACHE_HOME": own,
        "TORCHINDUCTOR_CACHE_DIR": f"{own}/torchinductor",
        "TRITON_CACHE_DIR": f"{own}/triton",
    }


OWN_VARIABLES: Final = frozenset(
    {
        ENV_RUN_CONFIG,
        ENV_VOLUME,
        ENV_CACHE,
        ENV_CLAIMS,
        ENV_ATTEMPT,
        ENV_TERMINATION_LOG,
        ENV_NODES,
        ENV_NODE_RANK,
        ENV_RENDEZVOUS,
        ENV_PROGRESS_URL,
        ENV_PROGRESS_CA,
        ENV_PROGRESS_TOKEN,
        ENV_HUB_TOKEN,
        ENV_WANDB_API_KEY,
        *_places("", ""),
        *_QUIET,
        *_OFFLINE,
        *_NO_GPU,
    }
)
"""Variables that the operator sets, in some Pods or in all, and that spec.env can not."""


def environment(pod: PodContext) -> list[dict[str, Any]]:
    """Variables of one Pod: the user's first, then the operator's own."""
    volume = volume_root(pod.job)
    cache = MOUNT_CACHE if pod.job.spec.storage.shared_cache_claim is not None else f"{volume}/{CACHE}"
    plain = {
        ENV_RUN_CONFIG: f"{MOUNT_CONFIG}/{CONFIG_KEY}",
        ENV_VOLUME: volume,
        ENV_CACHE: cache,
        ENV_CLAIMS: MOUNT_CLAIMS,
        ENV_ATTEMPT: str(pod.attempt),
        ENV_TERMINATION_LOG: TERMINATION_LOG,
        **_places(volume, cache),
        **_QUIET,
        **(_OFFLINE if pod.stage is Stage.TRAIN else {}),
        **({} if stage_resources(pod.job.spec.resources, pod.stage).gpus else _NO_GPU),
        **(_rendezvous(pod) if pod.one_of_several else {}),
        **(_reporting(pod) if pod.reports else {}),
    }
    users = [to_dict(variable) for variable in pod.job.spec.env or () if variable.name not in OWN_VARIABLES]
    own = [{"name": name, "value": value} for name, value in plain.items()]
    threads = [] if any(entry["name"] == ENV_THREADS for entry in users) else _threads(pod)
    return [*users, *own, *threads, *_secrets(pod)]


def environment_from(pod: PodContext) -> list[dict[str, Any]]:
    """Secrets whose keys are variables: of Prepare to fetch with, of the Train Pod that leads to upload and track."""
    spec = pod.job.spec
    references: list[SecretRef | None] = []
    if pod.stage is Stage.PREPARE:
        references = [spec.model.secret_ref, spec.dataset.secret_ref]
    elif pod.leads_training:
        upload, mlflow = spec.output.upload, spec.tracking.mlflow
        references = [None if upload is None else upload.secret_ref, None if mlflow is None else mlflow.secret_ref]
    names = dict.fromkeys(reference.name for reference in references if reference is not None)
    return [{"secretRef": {"name": name}} for name in names]


def _rendezvous(pod: PodContext) -> dict[str, str]:
    first = pod_name(pod.job, pod.stage, pod.attempt, rank=0)
    return {
        ENV_NODES: str(pod.job.spec.resources.nodes),
        ENV_NODE_RANK: str(pod.rank),
        ENV_RENDEZVOUS: f"{first}.{service_name(pod.job)}:{RENDEZVOUS_PORT}",
    }


def _reporting(pod: PodContext) -> dict[str, str]:
    url = pod.settings.progress_url or ""
    variables = {
        ENV_PROGRESS_URL: url.rstrip("/") + progress_path(pod.job.metadata.namespace, pod.job.metadata.name),
        ENV_PROGRESS_TOKEN: f"{MOUNT_TOKEN}/{TOKEN_KEY}",
    }
    if pod.settings.progress_ca is not None:
        variables[ENV_PROGRESS_CA] = f"{MOUNT_CONFIG}/{CA_KEY}"
    return variables


def _threads(pod: PodContext) -> list[dict[str, Any]]:
    """As many threads as CPUs were asked for, rounded up; by itself torch takes one for each core of the node."""
    if stage_resources(pod.job.spec.resources, pod.stage).cpu is None:
        return []
    return [{"name": ENV_THREADS, "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}}]


def _secrets(pod: PodContext) -> list[dict[str, Any]]:
    """Tokens, by reference: Prepare reads from the hub, and the Train Pod that leads may write there and track."""
    if pod.stage is Stage.PREPARE:
        return _secret(ENV_HUB_TOKEN, _reading_token(pod.job))
    if not pod.leads_training:
        return []
    hub, wandb = pod.job.spec.output.hub, pod.job.spec.tracking.wandb
    return [
        *_secret(ENV_HUB_TOKEN, None if hub is None else hub.token_secret_ref),
        *_secret(ENV_WANDB_API_KEY, None if wandb is None else wandb.api_key_secret_ref),
    ]


def _reading_token(job: SFTJob) -> SecretKeyRef | None:
    return job.spec.model.token_secret_ref or job.spec.dataset.token_secret_ref


def _secret(variable: str, reference: SecretKeyRef | None) -> list[dict[str, Any]]:
    if reference is None:
        return []
    return [{"name": variable, "valueFrom": {"secretKeyRef": {"name": reference.name, "key": reference.key}}}]
