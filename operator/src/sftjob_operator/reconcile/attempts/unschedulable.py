"""What to change if no node accepts a Pod, by the messages of the scheduler and the volume provisioner."""

import re
from typing import Final

from sftjob_contract.reasons import Reason
from sftjob_operator.api import SFTJob
from sftjob_operator.reconcile.attempts.failure_reasons import POLICIES

_CONFLICT: Final = re.compile("volume node affinity conflict|no available persistent volumes", re.IGNORECASE)
_NO_CLAIM: Final = re.compile(
    r'persistentvolumeclaim "?([^"\s]+)"? (?:not found|does not exist|is being deleted)', re.IGNORECASE
)
_NO_CLASS: Final = re.compile(r'storageclass(?:\.storage\.k8s\.io)? "([^"]+)" not found', re.IGNORECASE)
_UNBOUND: Final = re.compile("unbound immediate PersistentVolumeClaims|volume to be created", re.IGNORECASE)
_VOLUME: Final = re.compile("persistentvolumeclaim|volume|storageclass", re.IGNORECASE)
_RECREATE: Final = "delete this SFTJob and create it again"


def unschedulable_hint(job: SFTJob, message: str) -> str:
    """Return whole sentences about what to change."""
    if _CONFLICT.search(message):
        return (
            f"The volume is bound where no node satisfies the Pod's requests. The spec is immutable: {_RECREATE} with "
            "scheduling.nodeSelector for the nodes with the GPUs, with a storage.storageClassName that binds with the "
            "first Pod (volumeBindingMode: WaitForFirstConsumer), or with accessModes: [ReadWriteMany]."
        )
    if (claim := _NO_CLAIM.search(message)) is not None:
        return _no_claim(job, claim[1])
    if (missing := _NO_CLASS.search(message)) is not None:
        return (
            f"Create the StorageClass {missing[1]}, or {_RECREATE} with a storage.storageClassName that exists: "
            "kubectl get storageclass."
        )
    if _UNBOUND.search(message):
        return "Check kubectl describe pvc; without storage.storageClassName the cluster needs a default StorageClass."
    return POLICIES[Reason.UNSCHEDULABLE].hint


def names_volume(message: str) -> bool:
    """Whether the scheduler waits for a volume; its claim has more details."""
    return _VOLUME.search(message) is not None


def _no_claim(job: SFTJob, name: str) -> str:
    if name == job.spec.storage.existing_claim:
        return f"Create the claim, or {_RECREATE} with a storage.existingClaim that exists: kubectl get pvc."
    return f"Create the claim {name}, or {_RECREATE} with the name of one that exists: kubectl get pvc."
