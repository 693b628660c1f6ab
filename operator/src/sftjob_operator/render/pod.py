"""The Pods: Prepare on CPU, Train on GPUs; both meet the restricted Pod Security Standard."""

from typing import Any, Final

from sftjob_contract.names import (
    CONTAINER,
    LABEL_ATTEMPT,
    LABEL_NODE_RANK,
    LABEL_STAGE,
    TERMINATION_LOG,
    TRAINER_COMMAND,
    Stage,
)
from sftjob_operator.api import SFTJob, to_dict
from sftjob_operator.render.common import PodContext, RenderSettings, metadata, pod_name
from sftjob_operator.render.environment import environment, environment_from
from sftjob_operator.render.grace import grace_seconds
from sftjob_operator.render.resources import container_resources
from sftjob_operator.render.scheduling import queue_annotations, queue_labels, scheduling
from sftjob_operator.render.volumes import mounts, volumes

USER_ID: Final = 65532
"""The unprivileged user of the trainer image, and the group that owns the volume."""


def pods(job: SFTJob, stage: Stage, attempt: int, settings: RenderSettings) -> tuple[dict[str, Any], ...]:
    """Return all Pods of one attempt: Prepare has one, Train one for each node."""
    size = job.spec.resources.nodes if stage is Stage.TRAIN else 1
    return tuple(pod(job, stage, attempt, settings, rank) for rank in range(size))


def pod(job: SFTJob, stage: Stage, attempt: int, settings: RenderSettings, rank: int = 0) -> dict[str, Any]:
    """Render one Pod of one attempt. It runs once; a retry is a new Pod."""
    this = PodContext(job=job, stage=stage, attempt=attempt, rank=rank, settings=settings)
    given = {} if job.spec.pod_metadata is None else job.spec.pod_metadata.annotations
    annotations = {**given, **queue_annotations(this)}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata(job, pod_name(job, stage, attempt, rank), this.config, _labels(this), annotations),
        "spec": {
            "restartPolicy": "Never",
            "terminationGracePeriodSeconds": grace_seconds(job, stage),
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
            **scheduling(this),
            **_pull_secrets(job),
            "containers": [_container(this)],
            "volumes": volumes(this),
        },
    }


def _labels(this: PodContext) -> dict[str, str]:
    given = {} if this.job.spec.pod_metadata is None else this.job.spec.pod_metadata.labels
    labels = {**given, LABEL_STAGE: str(this.stage), LABEL_ATTEMPT: str(this.attempt), **queue_labels(this)}
    return {**labels, LABEL_NODE_RANK: str(this.rank)} if this.one_of_several else labels


def _container(this: PodContext) -> dict[str, Any]:
    spec = this.job.spec
    variables_from = environment_from(this)
    return {
        "name": CONTAINER,
        "image": spec.image or this.settings.trainer_image,
        **({} if spec.image_pull_policy is None else {"imagePullPolicy": str(spec.image_pull_policy)}),
        "command": list(spec.command or (*TRAINER_COMMAND, str(this.stage))),
        **({"envFrom": variables_from} if variables_from else {}),
        "env": environment(this),
        "resources": container_resources(this.job, this.stage),
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "terminationMessagePath": TERMINATION_LOG,
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "volumeMounts": mounts(this),
    }


def _pull_secrets(job: SFTJob) -> dict[str, Any]:
    secrets = [to_dict(secret) for secret in job.spec.image_pull_secrets or ()]
    return {"imagePullSecrets": secrets} if secrets else {}
