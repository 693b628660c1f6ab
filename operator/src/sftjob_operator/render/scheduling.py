"""Scheduling of the Pods: fields common to all stages, and fields of Train alone.

Everything that affects node selection is the same for all stages, so that the others can reach a volume that the first
Pod bound. This includes the runtime class, since it may have a node selector.
"""

from typing import Any, Final

from sftjob_contract.names import LABEL_ATTEMPT, LABEL_JOB, LABEL_STAGE, Stage
from sftjob_contract.reasons import Reason
from sftjob_operator.api import SFTJob, to_dict
from sftjob_operator.render.common import PodContext, attempt_name, pod_name, service_name

_PRODUCT_LABELS: Final = {"nvidia.com": "nvidia.com/gpu.product", "amd.com": "amd.com/gpu.product-name"}
"""By vendor of the GPU resource, the node label with the GPU's name: NVIDIA's gpu-feature-discovery writes the first,
AMD's node labeller the second."""
_REQUIRED: Final = "requiredDuringSchedulingIgnoredDuringExecution"
_PREFERRED: Final = "preferredDuringSchedulingIgnoredDuringExecution"
_WHOLE_GPU: Final = "nvidia.com/gpu"
_HIGHEST_WEIGHT: Final = 100
_MOST_AVOIDED_NODES: Final = 8
_LABEL_HOSTNAME: Final = "kubernetes.io/hostname"

# Kueue's labels and annotations for plain Pods and groups: https://kueue.sigs.k8s.io/docs/tasks/run/plain_pods/
_LABEL_QUEUE: Final = "kueue.x-k8s.io/queue-name"
_LABEL_GROUP: Final = "kueue.x-k8s.io/pod-group-name"
_ANNOTATION_GROUP_SIZE: Final = "kueue.x-k8s.io/pod-group-total-count"
_ANNOTATION_REPLACED_IN_GROUP: Final = "kueue.x-k8s.io/retriable-in-group"


def gpu_product_label(gpu_resource_name: str) -> str | None:
    """Return the node label that scheduling.gpuProducts match; None for a vendor whose label is not known."""
    return _PRODUCT_LABELS.get(gpu_resource_name.partition("/")[0])


def scheduling(pod: PodContext) -> dict[str, Any]:
    """Fields of a Pod's spec that define where and how it runs."""
    spec = pod.job.spec.scheduling
    fields: dict[str, Any] = {
        "priorityClassName": spec.priority_class_name,
        "schedulerName": spec.scheduler_name,
        "runtimeClassName": spec.runtime_class_name,
        "serviceAccountName": spec.service_account_name,
        "nodeSelector": dict(spec.node_selector),
        "tolerations": _tolerations(pod),
        "affinity": _affinity(pod),
    }
    if pod.one_of_several:
        fields["hostname"] = pod_name(pod.job, pod.stage, pod.attempt, pod.rank)
        fields["subdomain"] = service_name(pod.job)
    return {name: value for name, value in fields.items() if value}


def queue_labels(pod: PodContext) -> dict[str, str]:
    """Labels by which Kueue gates Train Pods until they fit into its quota; several nodes are admitted together."""
    queue = pod.job.spec.scheduling.queue_name
    if queue is None or pod.stage is not Stage.TRAIN:
        return {}
    group = {_LABEL_GROUP: attempt_name(pod.job, pod.stage, pod.attempt)}
    return {_LABEL_QUEUE: queue, **(group if pod.one_of_several else {})}


def queue_annotations(pod: PodContext) -> dict[str, str]:
    """Annotations that describe a group to Kueue: its size, and that no Pod that ended is replaced within it.

    A retry is a separate group, so it must not keep the quota of a failed attempt.
    """
    if pod.job.spec.scheduling.queue_name is None or not pod.one_of_several:
        return {}
    return {_ANNOTATION_GROUP_SIZE: str(pod.job.spec.resources.nodes), _ANNOTATION_REPLACED_IN_GROUP: "false"}


def _tolerations(pod: PodContext) -> list[dict[str, Any]]:
    """Return the spec's tolerations, and one for the taint that keeps other Pods off GPU nodes.

    Kubernetes adds the second itself to Pods that request GPUs, if that plugin is enabled; Prepare and Publish request
    none.
    """
    found = [to_dict(toleration) for toleration in pod.job.spec.scheduling.tolerations]
    own = [{"key": key, "operator": "Exists", "effect": "NoSchedule"} for key in _gpu_taints(pod.job)]
    return [*found, *(toleration for toleration in own if toleration not in found)]


def _gpu_taints(job: SFTJob) -> tuple[str, ...]:
    """Keys of the taints of nodes with the GPU: its resource's name, and for a MIG slice also that of the whole GPU."""
    resource = job.spec.resources.gpu_resource_name
    if job.spec.resources.gpus == 0:
        return ()
    return (resource, _WHOLE_GPU) if "/mig-" in resource else (resource,)


def _affinity(pod: PodContext) -> dict[str, Any]:
    affinity: dict[str, Any] = {}
    nodes: dict[str, Any] = {}
    if (products := _products(pod.job)) is not None:
        nodes[_REQUIRED] = {"nodeSelectorTerms": [{"matchExpressions": [products]}]}
    if (with_gpus := _nodes_with_gpus(pod)) is not None:
        nodes[_PREFERRED] = [{"weight": _HIGHEST_WEIGHT, "preference": {"matchExpressions": [with_gpus]}}]
    if avoided := _nodes_without_gpu(pod):
        nodes[_PREFERRED] = [_not_on(avoided)]
    if nodes:
        affinity["nodeAffinity"] = nodes
    if pod.one_of_several:
        topology_key = pod.job.spec.scheduling.topology_key
        if topology_key is not None:
            affinity["podAffinity"] = {_REQUIRED: [_of_same_attempt(pod, topology_key)]}
        affinity["podAntiAffinity"] = {_REQUIRED: [_of_same_attempt(pod, _LABEL_HOSTNAME)]}
    return affinity


def _nodes_with_gpus(pod: PodContext) -> dict[str, Any] | None:
    """Node preference of Prepare: the volume that it binds may be reachable only from its node or zone.

    The operator's label is that of one vendor's nodes; nodes of another known vendor are matched by that vendor's
    label.
    """
    label, resource = pod.settings.gpu_node, pod.job.spec.resources.gpu_resource_name
    if pod.stage is not Stage.PREPARE or pod.job.spec.resources.gpus == 0 or label is None:
        return None
    of_vendor = gpu_product_label(resource)
    if of_vendor is not None and label.key.partition("/")[0] in _PRODUCT_LABELS.keys() - {resource.partition("/")[0]}:
        return {"key": of_vendor, "operator": "Exists"}
    if label.value is None:
        return {"key": label.key, "operator": "Exists"}
    return {"key": label.key, "operator": "In", "values": [label.value]}


def _nodes_without_gpu(pod: PodContext) -> list[str]:
    """Nodes on which an earlier Train attempt did not see its GPUs, the newest ones."""
    if pod.stage is not Stage.TRAIN:
        return []
    found = [a.node for a in pod.job.status.attempts if a.reason == Reason.GPU_UNAVAILABLE and a.node is not None]
    return list(dict.fromkeys(reversed(found)))[:_MOST_AVOIDED_NODES]


def _not_on(nodes: list[str]) -> dict[str, Any]:
    names = {"key": _LABEL_HOSTNAME, "operator": "NotIn", "values": nodes}
    return {"weight": _HIGHEST_WEIGHT, "preference": {"matchExpressions": [names]}}


def _products(job: SFTJob) -> dict[str, Any] | None:
    label = gpu_product_label(job.spec.resources.gpu_resource_name)
    products = job.spec.scheduling.gpu_products
    return {"key": label, "operator": "In", "values": list(products)} if products and label is not None else None


def _of_same_attempt(pod: PodContext, topology_key: str) -> dict[str, Any]:
    labels = {
        LABEL_JOB: pod.job.metadata.name,
        LABEL_STAGE: str(pod.stage),
        LABEL_ATTEMPT: str(pod.attempt),
    }
    return {"labelSelector": {"matchLabels": labels}, "topologyKey": topology_key}
