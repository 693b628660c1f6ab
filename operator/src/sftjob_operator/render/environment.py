"""Environment of a job's container. It defines every path that the trainer needs, so the trainer hard-codes none.

A custom image gets the same paths but no run config, and reports like Kubeflow's trainers.
"""

from collections.abc import Iterable
from typing import Any, Final

from sftjob_contract.layout import CACHE, node_kernels
from sftjob_contract.names import (
    CA_KEY,
    CONFIG_KEY,
    ENV_ATTEMPT,
    ENV_CACHE,
    ENV_CLAIMS,
    ENV_CONFIG_HASH,
    ENV_FILES,
    ENV_GRACE_SECONDS,
    ENV_GRADIENT_CHECKPOINTING,
    ENV_HUB_TOKEN,
    ENV_KUBEFLOW_CA,
    ENV_KUBEFLOW_TOKEN,
    ENV_KUBEFLOW_URL,
    ENV_MICRO_BATCH,
    ENV_NODE_RANK,
    ENV_NODES,
    ENV_PROGRESS_CA,
    ENV_PROGRESS_TOKEN,
    ENV_PROGRESS_URL,
    ENV_PUBLISH_STAGE,
    ENV_RENDEZVOUS,
    ENV_RUN_CONFIG,
    ENV_SECRET_VARIABLES,
    ENV_TERMINATION_LOG,
    ENV_VOLUME,
    ENV_VOLUME_URI,
    ENV_WANDB_API_KEY,
    MOUNT_CACHE,
    MOUNT_CLAIMS,
    MOUNT_CONFIG,
    MOUNT_FILES,
    MOUNT_TMP,
    MOUNT_TOKEN,
    RENDEZVOUS_PORT,
    TERMINATION_LOG,
    TOKEN_KEY,
    VARIABLES,
    Stage,
    progress_path,
    trainer_status_path,
)
from sftjob_contract.run.config import RunConfig
from sftjob_operator.api import AdjustmentStatus, EnvVar, SecretKeyRef, SecretRef, SFTJob, to_dict
from sftjob_operator.render.common import PodContext, pod_name, publishes, service_name, volume_root, volume_uri
from sftjob_operator.render.config import config_hash
from sftjob_operator.render.grace import grace_seconds
from sftjob_operator.render.resources import stage_resources
from sftjob_operator.render.volumes import user_files

ENV_THREADS: Final = "OMP_NUM_THREADS"
"""Threads of each process. The only variable here that users may set; their value takes precedence."""
_QUIET: Final = {"PYTHONUNBUFFERED": "1", "HF_HUB_DISABLE_TELEMETRY": "1"}
_OFFLINE: Final = {"HF_HUB_OFFLINE": "1"}
_NO_GPU: Final = {"NVIDIA_VISIBLE_DEVICES": "void"}
"""CUDA images request all GPUs of the node in this variable, and NVIDIA's runtime grants them; void requests none."""


def _paths(volume: str, cache: str, rank: int) -> dict[str, str]:
    """The root filesystem is read-only: variables redirect caches and scratch files of libraries to mounted volumes.

    Downloads go to `cache`, which several jobs may share and which may be read-only for Train; everything else stays on
    the volume.
    """
    own = f"{volume}/{CACHE}"
    kernels = f"{volume}/{node_kernels(rank)}"
    return {
        "HOME": MOUNT_TMP,
        "TMPDIR": MOUNT_TMP,
        "USER": "sftjob",  # torch looks up the user name, and the user has no passwd entry
        "HF_HOME": cache,
        "HF_DATASETS_CACHE": f"{own}/datasets",
        "HF_MODULES_CACHE": f"{own}/modules",
        "XDG_CACHE_HOME": own,
        "TORCHINDUCTOR_CACHE_DIR": f"{kernels}/torchinductor",
        "TRITON_CACHE_DIR": f"{kernels}/triton",
    }


OWN_VARIABLES: Final = VARIABLES | {*_paths("", "", 0), *_QUIET, *_OFFLINE, *_NO_GPU}
"""Variables that the operator sets, in some Pods or in all, and that spec.env cannot set."""
_ALSO_OF_CUSTOM_IMAGES: Final = frozenset({ENV_HUB_TOKEN, ENV_WANDB_API_KEY, *_OFFLINE})
"""Variables among them that a custom image also reads, and that only spec.env can set for it."""


def own_variables(job: SFTJob) -> frozenset[str]:
    """Return the variables that the operator sets in Pods of this job, so that spec.env cannot set them."""
    return OWN_VARIABLES if job.spec.command is None else OWN_VARIABLES - _ALSO_OF_CUSTOM_IMAGES


def environment(pod: PodContext) -> list[dict[str, Any]]:
    """Return the variables of one Pod: the user's first, then the operator's own."""
    volume = volume_root(pod.job)
    cache = MOUNT_CACHE if pod.job.spec.storage.shared_cache_claim is not None else f"{volume}/{CACHE}"
    plain = {
        **({} if pod.config is None else _recipe_variables(pod, pod.config)),
        ENV_VOLUME: volume,
        ENV_CACHE: cache,
        ENV_ATTEMPT: str(pod.attempt),
        ENV_TERMINATION_LOG: TERMINATION_LOG,
        **_paths(volume, cache, pod.rank),
        **_QUIET,
        **(_recovery(pod) if pod.stage is Stage.TRAIN else {}),
        **({} if stage_resources(pod.job, pod.stage).gpus else _NO_GPU),
        **(_rendezvous(pod) if pod.one_of_several else {}),
        **(_reporting(pod) if pod.reports else {}),
    }
    taken = own_variables(pod.job)
    users = [_user_variable(variable) for variable in pod.job.spec.env or () if variable.name not in taken]
    own = [{"name": name, "value": value} for name, value in plain.items()]
    threads = [] if any(entry["name"] == ENV_THREADS for entry in users) else _threads(pod)
    hidden = _secret_variables(users) if pod.job.spec.command is None else []
    return [*users, *own, *threads, *_secrets(pod), *hidden]


def _user_variable(variable: EnvVar) -> dict[str, Any]:
    """Render a user's variable. Kubernetes treats a missing value as empty, and allows an empty value with a source."""
    if variable.value_from is not None:
        return {"name": variable.name, "valueFrom": to_dict(variable.value_from)}
    return {"name": variable.name, "value": variable.value or ""}


def environment_from(pod: PodContext) -> list[dict[str, Any]]:
    """Secrets whose keys become variables: Prepare downloads with them, leading Train Pods track, Publish uploads."""
    spec = pod.job.spec
    references: list[SecretRef | None] = []
    if pod.stage is Stage.PREPARE:
        references = [part.secret_ref for part in (spec.model, spec.dataset) if part is not None]
    else:
        upload, mlflow = spec.output.upload, spec.tracking.mlflow
        references = [
            upload.secret_ref if upload is not None and _publishes_itself(pod) else None,
            mlflow.secret_ref if mlflow is not None and pod.leads_training else None,
        ]
    names = dict.fromkeys(reference.name for reference in references if reference is not None)
    return [{"secretRef": {"name": name}} for name in names]


def _recovery(pod: PodContext) -> dict[str, str]:
    """Variables that a Train Pod needs to stop in time, and to continue after it ran out of memory."""
    adjusted = [a for a in pod.job.status.adjustments if a.attempt <= pod.attempt]
    sizes = [a.per_device_batch_size.to for a in adjusted if a.per_device_batch_size is not None]
    recomputes = _recomputes(pod.job, adjusted)
    return {
        ENV_GRACE_SECONDS: str(grace_seconds(pod.job, pod.stage)),
        **({ENV_PUBLISH_STAGE: "true"} if publishes(pod.job) else {}),
        **({} if recomputes is None else {ENV_GRADIENT_CHECKPOINTING: str(recomputes).lower()}),
        **({ENV_MICRO_BATCH: str(sizes[-1])} if sizes else {}),
    }


def _recomputes(job: SFTJob, adjusted: Iterable[AdjustmentStatus]) -> bool | None:
    """Return gradient checkpointing by plan and adjustments; None: the run config has it, or there is no plan."""
    planned = None if job.status.plan is None else job.status.plan.gradient_checkpointing
    if job.spec.training.gradient_checkpointing is not None or planned is None:
        return None
    return planned or any(a.gradient_checkpointing for a in adjusted)


def _rendezvous(pod: PodContext) -> dict[str, str]:
    first = pod_name(pod.job, pod.stage, pod.attempt, rank=0)
    return {
        ENV_NODES: str(pod.job.spec.resources.nodes),
        ENV_NODE_RANK: str(pod.rank),
        ENV_RENDEZVOUS: f"{first}.{service_name(pod.job)}:{RENDEZVOUS_PORT}",
    }


def _recipe_variables(pod: PodContext, config: RunConfig) -> dict[str, str]:
    """Variables that only the operator's trainer reads. Model and data are already downloaded."""
    return {
        ENV_RUN_CONFIG: f"{MOUNT_CONFIG}/{CONFIG_KEY}",
        ENV_CONFIG_HASH: config_hash(config),
        ENV_CLAIMS: MOUNT_CLAIMS,
        ENV_VOLUME_URI: volume_uri(pod.job, "").rstrip("/"),
        **({ENV_FILES: MOUNT_FILES} if user_files(pod) else {}),
        **({} if pod.stage is Stage.PREPARE else _OFFLINE),
    }


def _reporting(pod: PodContext) -> dict[str, str]:
    job = pod.job
    path, url, token, ca = progress_path, ENV_PROGRESS_URL, ENV_PROGRESS_TOKEN, ENV_PROGRESS_CA
    if job.spec.command is not None:
        path, url, token, ca = trainer_status_path, ENV_KUBEFLOW_URL, ENV_KUBEFLOW_TOKEN, ENV_KUBEFLOW_CA
    base = (pod.settings.progress_url or "").rstrip("/")
    variables = {url: base + path(job.metadata.namespace, job.metadata.name), token: f"{MOUNT_TOKEN}/{TOKEN_KEY}"}
    return variables if pod.settings.progress_ca is None else {**variables, ca: f"{MOUNT_CONFIG}/{CA_KEY}"}


def _threads(pod: PodContext) -> list[dict[str, Any]]:
    """As many threads as requested CPUs, rounded up; torch's default is one for each core of the node."""
    resources = stage_resources(pod.job, pod.stage)
    if resources.cpu is None and resources.cpu_limit is None:  # the request defaults to the limit
        return []
    return [{"name": ENV_THREADS, "valueFrom": {"resourceFieldRef": {"resource": "requests.cpu"}}}]


def _secrets(pod: PodContext) -> list[dict[str, Any]]:
    """Tokens, by reference: Prepare reads from the hub, Publish writes to it, and the leading Train Pod tracks."""
    if pod.stage is Stage.PREPARE:
        return _secret(ENV_HUB_TOKEN, _reading_token(pod.job))
    hub = pod.job.spec.output.hub if _publishes_itself(pod) else None
    wandb = pod.job.spec.tracking.wandb if pod.leads_training else None
    return [
        *_secret(ENV_HUB_TOKEN, None if hub is None else hub.token_secret_ref),
        *_secret(ENV_WANDB_API_KEY, None if wandb is None else wandb.api_key_secret_ref),
    ]


def _publishes_itself(pod: PodContext) -> bool:
    """Whether this Pod pushes and uploads, and so gets the credentials; without stage publish the leading Train Pod."""
    return pod.stage is Stage.PUBLISH or (pod.leads_training and not publishes(pod.job))


def _reading_token(job: SFTJob) -> SecretKeyRef | None:
    parts = (part for part in (job.spec.model, job.spec.dataset) if part is not None)
    return next((part.token_secret_ref for part in parts if part.token_secret_ref is not None), None)


def _secret_variables(users: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return which of the user's variables hold secrets, whatever their names."""
    names = [entry["name"] for entry in users if "secretKeyRef" in entry.get("valueFrom", {})]
    return [{"name": ENV_SECRET_VARIABLES, "value": ",".join(names)}] if names else []


def _secret(variable: str, reference: SecretKeyRef | None) -> list[dict[str, Any]]:
    if reference is None:
        return []
    return [{"name": variable, "valueFrom": {"secretKeyRef": {"name": reference.name, "key": reference.key}}}]
