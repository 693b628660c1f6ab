"""Common parts of a job's children: name, labels and owner, and the operator's additions to the spec."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
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
from sftjob_contract.run.config import RunConfig
from sftjob_operator.api import SFTJob
from sftjob_operator.api.v1alpha1.scheduling import is_reserved
from sftjob_operator.render.config import config_hash, recipe_config

_TRACKERS: Final = re.compile(
    "^app[.]kubernetes[.]io/instance$|^helm[.]sh/|^kueue[.]x-k8s[.]io/|^([a-z0-9.-]+[.])?(argoproj|fluxcd)[.]io/"
)
"""Labels of an SFTJob that its children do not inherit. Argo CD, Flux and Helm identify what they applied by them, and
would delete what is not in Git; Kueue identifies what it has to hold back."""


@dataclass(frozen=True, kw_only=True)
class NodeLabel:
    """A node label. `value` None: any."""

    key: str
    value: str | None


@dataclass(frozen=True, kw_only=True)
class RenderSettings:
    """Operator settings that rendering needs and a spec lacks.

    `progress_url` is the endpoint's URL for Pods, `progress_ca` the PEM text that verifies it; without a URL there are
    no live reports. `gpu_node` is the label of GPU nodes; without it no node is preferred.
    """

    trainer_image: str
    progress_url: str | None
    progress_ca: str | None
    gpu_node: NodeLabel | None = None


@dataclass(frozen=True, kw_only=True)
class PodContext:
    """Inputs for rendering one Pod. `attempt` counts from 1 within its stage, `rank` from 0 within its attempt."""

    job: SFTJob
    stage: Stage
    attempt: int
    rank: int
    settings: RenderSettings

    @cached_property
    def config(self) -> RunConfig | None:
        """The run config; None for a custom image."""
        return recipe_config(self.job)

    @property
    def one_of_several(self) -> bool:
        """Whether several Pods train together."""
        return self.stage is Stage.TRAIN and self.job.spec.resources.nodes > 1

    @property
    def leads_training(self) -> bool:
        """Whether this Pod reports and tracks: of the Pods that train, the one of rank 0."""
        return self.stage is Stage.TRAIN and self.rank == 0

    @property
    def reports(self) -> bool:
        """Whether it sends its progress to the operator."""
        return self.leads_training and self.settings.progress_url is not None


def publishes(job: SFTJob) -> bool:
    """Whether stage publish merges, pushes and uploads: the spec configures some, and the trainer has the stage."""
    return job.status.plan is not None and bool(job.status.plan.publish_stage)


def volume_claim_name(job: SFTJob) -> str:
    """Return the name of the PersistentVolumeClaim that the job works on: its own, or an existing one."""
    return job.spec.storage.existing_claim or job.metadata.name


def volume_root(job: SFTJob) -> str:
    """Return the subPath of the job's volume: on an existing claim, the job's own directory."""
    return MOUNT_VOLUME if job.spec.storage.existing_claim is None else f"{MOUNT_VOLUME}/{job.metadata.name}"


def volume_uri(job: SFTJob, path: str) -> str:
    """Return the URI of a path on the job's volume, in the form of another job's pvc:// source."""
    folder = "" if job.spec.storage.existing_claim is None else f"{job.metadata.name}/"
    return ClaimPath(volume_claim_name(job), f"{folder}{path}").uri


def config_map_name(job: SFTJob) -> str:
    """Return the name of the job's ConfigMap."""
    return f"{job.metadata.name}-config"


def service_name(job: SFTJob) -> str:
    """Return the name of the Service for the rendezvous of the Train Pods of several nodes.

    Unlike all other names here, it must begin with a letter (RFC 1035).
    """
    name = f"{job.metadata.name}-{Stage.TRAIN}"
    return name if name[0].isalpha() else f"sft-{name}"


def attempt_name(job: SFTJob, stage: Stage, attempt: int) -> str:
    """Return the name of one attempt, counted from 1 within its stage."""
    return f"{job.metadata.name}-{stage}-{attempt}"


def pod_name(job: SFTJob, stage: Stage, attempt: int, rank: int = 0) -> str:
    """Return the name of a Pod: that of its attempt, with its rank if several nodes train.

    With the longest job name (48 characters) and 64 nodes it remains a DNS label of 63 characters up to attempt 99999.
    """
    name = attempt_name(job, stage, attempt)
    return f"{name}-{rank}" if stage is Stage.TRAIN and job.spec.resources.nodes > 1 else name


def _copied_labels(job: SFTJob) -> dict[str, str]:
    """Return the SFTJob's own labels, by which people and cost reports group its objects."""
    labels = job.metadata.labels or {}
    return {key: value for key, value in sorted(labels.items()) if not (_TRACKERS.search(key) or is_reserved(key))}


def metadata(
    job: SFTJob,
    name: str,
    config: RunConfig | None,
    labels: Mapping[str, str] | None = None,
    annotations: Mapping[str, str] | None = None,
) -> dict[str, Any]:
    """Return the metadata of a child: labels to select by, owner, and the hash of the run config as an annotation."""
    config_annotations = {} if config is None else {ANNOTATION_CONFIG_HASH: config_hash(config)}
    notes = {**(annotations or {}), **config_annotations}
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
