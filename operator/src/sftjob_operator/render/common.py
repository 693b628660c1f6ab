"""What every child of a job has in common: its name, labels and owner, and what the operator adds to the spec."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sftjob_contract.layout import ClaimPath
from sftjob_contract.names import (
    ANNOTATION_CONFIG_HASH,
    API_VERSION,
    KIND,
    LABEL_JOB,
    LABEL_MANAGED_BY,
    MANAGED_BY,
    Stage,
)
from sftjob_operator.api import SFTJob
from sftjob_operator.render.config import config_hash, run_config


@dataclass(frozen=True, kw_only=True)
class RenderSettings:
    """What the operator knows and a spec does not.

    `progress_url` is the endpoint as Pods reach it, `progress_ca` the PEM text that verifies it; without a URL nothing
    is reported live.
    """

    trainer_image: str
    progress_url: str | None
    progress_ca: str | None


def volume_claim_name(job: SFTJob) -> str:
    """Name of the job's PersistentVolumeClaim."""
    return job.metadata.name


def config_map_name(job: SFTJob) -> str:
    """Name of the job's ConfigMap."""
    return f"{job.metadata.name}-config"


def pod_name(job: SFTJob, stage: Stage, attempt: int) -> str:
    """Name of the Pod of one attempt, counted from 1 within its stage."""
    return f"{job.metadata.name}-{stage}-{attempt}"


def volume_uri(job: SFTJob, path: str) -> str:
    """URI of a path on the job's volume, as another job's pvc:// source would name it."""
    return ClaimPath(volume_claim_name(job), path).uri


def metadata(job: SFTJob, name: str, labels: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Metadata of a child: found by its labels, deleted with the job, and marked with the config that it came from."""
    return {
        "name": name,
        "namespace": job.metadata.namespace,
        "labels": {LABEL_JOB: job.metadata.name, LABEL_MANAGED_BY: MANAGED_BY, **(labels or {})},
        "annotations": {ANNOTATION_CONFIG_HASH: config_hash(run_config(job))},
        "ownerReferences": [
            {
                "apiVersion": API_VERSION,
                "kind": KIND,
                "name": job.metadata.name,
                "uid": job.metadata.uid,
                "controller": True,
                "blockOwnerDeletion": True,
            }
        ],
    }
