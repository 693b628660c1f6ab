"""What every child of a job has in common: its name, labels and owner, and what the operator adds to the spec."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sftjob_contract.layout import ClaimPath
from sftjob_contract.names import (
    ANNOTATION_CONFIG_HASH,
    API_VERSION,
    KIND,
    LABEL_JOB,
    LABEL_MANAGED_BY,
    MANAGED_BY,
    MOUNT_VOLUME,
    Stage,
)
from sftjob_operator.api import SFTJob
from sftjob_operator.api.scheduling import is_reserved
from sftjob_operator.render.config import config_hash, run_config

_TRACKERS: Final = re.compile(
    "^app[.]kubernetes[.]io/instance$|^helm[.]sh/|^kueue[.]x-k8s[.]io/|^([a-z0-9.-]+[.])?(argoproj|fluxcd)[.]io/"
)
"""Labels of an SFTJob that its children do not get. By them, Argo CD, Flux and Helm find what they applied, and
would delete what is not in Git, and Kueue what it is to hold back."""


@dataclass(frozen=True, kw_only=True)
class NodeLabel:
    """A label of nodes. `value` None: any."""

    key: str
    value: str | None


@dataclass(frozen=True, kw_only=True)
class RenderSettings:
    """What the operator knows and a spec does not.

    `progress_url` is the endpoint as Pods reach it, `progress_ca` the PEM text that verifies it; without a URL nothing
    is reported live. `gpu_node` is the label of nodes with GPUs; without it no node is preferred.
    """

    trainer_image: str
    progress_url: str | None
    progress_ca: str | None
    gpu_node: NodeLabel | None = None


@dataclass(frozen=True, kw_only=True)
class PodContext:
    """What one Pod is rendered from. `attempt` counts from 1 within its stage, `rank` from 0 within its attempt."""

    job: SFTJob
    stage: Stage
    attempt: int
    rank: int
    settings: RenderSettings

    @property
    def one_of_several(self) -> bool:
        """Whether other Pods train with this one."""
        return self.stage is Stage.TRAIN and self.job.spec.resources.nodes > 1

    @property
    def leads_training(self) -> bool:
        """Whether this is the Pod that reports and tracks: of those that train, the one of rank 0."""
        return self.stage is Stage.TRAIN and self.rank == 0

    @property
    def reports(self) -> bool:
        """Whether it sends its progress to the operator."""
        return self.leads_training and self.settings.progress_url is not None


def publishes(job: SFTJob) -> bool:
    """Whether merging, pushing and uploading are a stage of their own: there is some, and the trainer has the stage."""
    return job.status.plan is not None and bool(job.status.plan.publish_stage)


def volume_claim_name(job: SFTJob) -> str:
    """Name of the PersistentVolumeClaim that the job works on: its own, or one that was there before."""
    return job.spec.storage.existing_claim or job.metadata.name


def volume_root(job: SFTJob) -> str:
    """Where the job's volume begins in the container: on a claim that was there before, in a directory of its own."""
    return MOUNT_VOLUME if job.spec.storage.existing_claim is None else f"{MOUNT_VOLUME}/{job.metadata.name}"


def volume_uri(job: SFTJob, path: str) -> str:
    """URI of a path on the job's volume, as another job's pvc:// source would name it."""
    folder = "" if job.spec.storage.existing_claim is None else f"{job.metadata.name}/"
    return ClaimPath(volume_claim_name(job), f"{folder}{path}").uri


def config_map_name(job: SFTJob) -> str:
    """Name of the job's ConfigMap."""
    return f"{job.metadata.name}-config"


def service_name(job: SFTJob) -> str:
    """Name of the Service by which the Train Pods of several nodes find each other.

    It must begin with a letter (RFC 1035), other than every other name here.
    """
    name = f"{job.metadata.name}-{Stage.TRAIN}"
    return name if name[0].isalpha() else f"sft-{name}"


def attempt_name(job: SFTJob, stage: Stage, attempt: int) -> str:
    """Name of one attempt, counted from 1 within its stage."""
    return f"{job.metadata.name}-{stage}-{attempt}"


def pod_name(job: SFTJob, stage: Stage, attempt: int, rank: int = 0) -> str:
    """Name of a Pod: that of its attempt, with its rank where several nodes train.

    With the longest name of a job (48 characters) and 64 nodes it stays a DNS label of 63 up to attempt 99999.
    """
    name = attempt_name(job, stage, attempt)
    return f"{name}-{rank}" if stage is Stage.TRAIN and job.spec.resources.nodes > 1 else name


def _config_hash(job: SFTJob) -> dict[str, str]:
    return {} if job.spec.recipe is None else {ANNOTATION_CONFIG_HASH: config_hash(run_config(job))}


def _copied_labels(job: SFTJob) -> dict[str, str]:
    """The SFTJob's own labels, by which people and cost reports group what belongs to it."""
    labels = job.metadata.labels or {}
    return {key: value for key, value in sorted(labels.items()) if not (_TRACKERS.search(key) or is_reserved(key))}


def metadata(
    job: SFTJob, name: str, labels: Mapping[str, str] | None = None, annotations: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Metadata of a child: found by its labels, deleted with the job, and marked with the config that it came from."""
    notes = {**(annotations or {}), **_config_hash(job)}
    return {
        "name": name,
        "namespace": job.metadata.namespace,
        "labels": {**_copied_labels(job), **(labels or {}), LABEL_JOB: job.metadata.name, LABEL_MANAGED_BY: MANAGED_BY},
        **({"annotations": notes} if notes else {}),
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": job.metadata.name,
                "uid": job.metadata.uid,
                "controller": True,
            }
        ],
    }
