"""The PersistentVolumeClaim: one volume per job, laid out as `sftjob_contract.layout` says."""

from typing import Any

from sftjob_operator.api import SFTJob
from sftjob_operator.render.common import metadata, volume_claim_name


def volume_claim(job: SFTJob) -> dict[str, Any]:
    """The claim of the job's own volume."""
    storage = job.spec.storage
    spec: dict[str, Any] = {
        "accessModes": [str(mode) for mode in storage.access_modes],
        "resources": {"requests": {"storage": storage.size}},
    }
    if storage.storage_class_name is not None:
        spec["storageClassName"] = storage.storage_class_name
    return {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata(job, volume_claim_name(job)),
        "spec": spec,
    }
