"""The PersistentVolumeClaim: one volume per job; `sftjob_contract.layout` defines its layout."""

from typing import Any

from sftjob_contract.names import ANNOTATION_JOB_UID
from sftjob_operator.api import SFTJob, StorageSpec
from sftjob_operator.render.common import metadata, volume_claim_name
from sftjob_operator.render.config import recipe_config


def volume_claim(job: SFTJob) -> dict[str, Any] | None:
    """Return the claim of the job's own volume; None for a job with storage.existingClaim."""
    if job.spec.storage.existing_claim is not None:
        return None
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": _metadata(job),
        "spec": _spec(job.spec.storage),
    }


def _metadata(job: SFTJob) -> dict[str, Any]:
    """A retained claim has no owner, so that it outlives the job; its annotation holds the job's UID."""
    name, config = volume_claim_name(job), recipe_config(job)
    if not job.spec.storage.retain:
        return metadata(job, name, config)
    about = metadata(job, name, config, annotations={ANNOTATION_JOB_UID: job.metadata.uid})
    return {key: value for key, value in about.items() if key != "ownerReferences"}


def _spec(storage: StorageSpec) -> dict[str, Any]:
    spec: dict[str, Any] = {
        "accessModes": [str(mode) for mode in storage.access_modes],
        "resources": {"requests": {"storage": storage.size}},
    }
    if storage.storage_class_name is not None:
        spec["storageClassName"] = storage.storage_class_name
    return spec
