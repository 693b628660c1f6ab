"""What to change when no node takes a Pod, by the words of the scheduler and of whoever provides its volume."""

import re
from typing import Final

from sftjob_contract.reasons import Reason
from sftjob_operator.api import SFTJob
from sftjob_operator.reconcile.policy import POLICIES

_CONFLICT: Final = re.compile("volume node affinity conflict|no available persistent volumes", re.IGNORECASE)
_NO_CLAIM: Final = re.compile(
    r'persistentvolumeclaim "?([^"\s]+)"? (?:not found|does not exist|is being deleted)', re.IGNORECASE
)
_NO_CLASS: Final = re.compile(r'storageclass(?:\.storage\.k8s\.io)? "([^"]+)" not found', re.IGNORECASE)
_UNBOUND: Final = re.compile("unbound immediate PersistentVolumeClaims|volume to be created", re.IGNORECASE)
_VOLUME: Final = re.compile("persistentvolumeclaim|volume|storageclass", re.IGNORECASE)
_AGAIN: Final = "delete this SFTJob and create it again"


def unschedulable_hint(job: SFTJob, words: str) -> str:
    """Whole sentences about what to change."""
    if _CONFLICT.search(words):
        return (
            f"The volume was bound where no node has what the Pod requests. The spec is immutable: {_AGAIN} with "
            "scheduling.nodeSelector for the nodes with the GPUs, with a storage.storageClassName that binds at the "
            "first Pod (volumeBindingMode: WaitForFirstConsumer), or with accessModes: [ReadWriteMany]."
        )
    if (claim := _NO_CLAIM.search(words)) is not None:
        return _no_claim(job, claim[1])
    if (missing := _NO_CLASS.search(words)) is not None:
        return (
            f"Create the StorageClass {missing[1]}, or {_AGAIN} with a storage.storageClassName that exists: "
            "kubectl get storageclass."
        )
    if _UNBOUND.search(words):
        return "See kubectl describe pvc; without a storage.storageClassName the cluster needs a default StorageClass."
    return POLICIES[Reason.UNSCHEDULABLE].hint


def names_volume(words: str) -> bool:
    """Whether the scheduler waits for a volume, about which its claim tells more."""
    return _VOLUME.search(words) is not None


def _no_claim(job: SFTJob, name: str) -> str:
    if name == job.spec.storage.existing_claim:
        return f"Create the claim, or {_AGAIN} with a storage.existingClaim that exists: kubectl get pvc."
    return f"Create the claim {name}, or {_AGAIN} with the name of one that exists: kubectl get pvc."
