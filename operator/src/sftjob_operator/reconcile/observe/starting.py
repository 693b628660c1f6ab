"""Pods that cannot start, by what their kubelet reports about the trainer's container."""

from typing import Final

from sftjob_operator.reconcile.observe.observed import PodPhase, PodView

NOT_STARTED: Final = frozenset({"StartError", "ContainerCannotRun"})
"""Reasons of a container whose process could not be executed; its reported times are invalid."""
STARTING: Final = frozenset({"ContainerCreating", "PodInitializing"})
"""Waiting reasons of every normal start, not worth a status write."""
PULL_FAILURES: Final = frozenset(
    {"ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError"}
    | {"RegistryUnavailable", "SignatureValidationFailed"}
)
"""Waiting reasons of a container whose image is missing.

https://github.com/kubernetes/kubernetes/blob/v1.36.0/pkg/kubelet/images/types.go
"""
CREATE_FAILURES: Final = frozenset(
    {"CreateContainerConfigError", "CreateContainerError", "PreCreateHookError", "RunContainerError"}
)
"""Waiting reasons of a container that cannot be created, for example because a Secret or ConfigMap is missing.

https://github.com/kubernetes/kubernetes/blob/v1.36.0/pkg/kubelet/container/sync_result.go
"""


def is_blocked(pod: PodView) -> bool:
    """Whether a live Pod's trainer cannot start: one state, although the kubelet alternates between the reasons."""
    blocked = pod.reason in PULL_FAILURES or pod.reason in CREATE_FAILURES
    return blocked and pod.phase == PodPhase.PENDING and not pod.deleting
