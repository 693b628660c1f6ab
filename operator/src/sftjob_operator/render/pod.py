"""The Pods: prepare on CPU, train on GPUs; both meet the restricted Pod Security Standard."""

from typing import Any, Final

from sftjob_contract.names import (
    CONTAINER,
    LABEL_ATTEMPT,
    LABEL_STAGE,
    TERMINATION_LOG,
    TRAINER_COMMAND,
    Stage,
)
from sftjob_operator.api import ResourcesSpec, SFTJob, to_dict
from sftjob_operator.render.common import RenderSettings, metadata, pod_name
from sftjob_operator.render.environment import environment
from sftjob_operator.render.volumes import mounts, volumes

USER_ID: Final = 65532
"""The unprivileged user of the trainer image; also the group that owns the volume."""
GRACE_SECONDS: Final = {Stage.PREPARE: 30, Stage.TRAIN: 120}
"""Time between SIGTERM and SIGKILL; training saves a checkpoint in it."""


def pod(job: SFTJob, stage: Stage, attempt: int, settings: RenderSettings) -> dict[str, Any]:
    """The Pod of one attempt. It runs once; a retry is another Pod."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata(
            job, pod_name(job, stage, attempt), {LABEL_STAGE: str(stage), LABEL_ATTEMPT: str(attempt)}
        ),
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": GRACE_SECONDS[stage],
            "automountServiceAccountToken": False,
            "enableServiceLinks": False,
            "securityContext": {
                "runAsNonRoot": True,
                "runAsUser": USER_ID,
                "runAsGroup": USER_ID,
                "fsGroup": USER_ID,
                "fsGroupChangePolicy": "OnRootMismatch",
                "seccompProfile": {"type": "RuntimeDefault"},
            },
            **_scheduling(job),
            "containers": [_container(job, stage, attempt, settings)],
            "volumes": volumes(job, stage, settings),
        },
    }


def _container(job: SFTJob, stage: Stage, attempt: int, settings: RenderSettings) -> dict[str, Any]:
    return {
        "name": CONTAINER,
        "image": job.spec.image or settings.trainer_image,
        "command": [*TRAINER_COMMAND, str(stage)],
        "env": environment(job, stage, attempt, settings),
        "resources": _resources(job.spec.resources, stage),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "File",
        "volumeMounts": mounts(job, stage, settings),
    }


def _resources(spec: ResourcesSpec, stage: Stage) -> dict[str, Any]:
    """Memory and GPUs are asked for as much as they are limited; CPU may be used beyond its request."""
    fixed: dict[str, str] = {}
    if spec.memory is not None:
        fixed["memory"] = spec.memory
    if stage is Stage.TRAIN and spec.gpus > 0:
        fixed[spec.gpu_resource_name] = str(spec.gpus)
    requests = dict(fixed) if spec.cpu is None else {"cpu": spec.cpu, **fixed}
    return {key: value for key, value in (("requests", requests), ("limits", fixed)) if value}


def _scheduling(job: SFTJob) -> dict[str, Any]:
    """The same for both stages, so that a volume bound by the first Pod is reachable by the others."""
    spec = job.spec.scheduling
    fields: dict[str, Any] = {}
    if spec.node_selector:
        fields["nodeSelector"] = dict(spec.node_selector)
    if spec.tolerations:
        fields["tolerations"] = [to_dict(toleration) for toleration in spec.tolerations]
    if spec.priority_class_name is not None:
        fields["priorityClassName"] = spec.priority_class_name
    return fields
