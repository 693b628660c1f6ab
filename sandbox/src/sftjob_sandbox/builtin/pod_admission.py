"""What the admission plugins of a default API server add to a Pod, or refuse.

ServiceAccount, Priority, RuntimeClass and DefaultTolerationSeconds; the rest of the default set changes no Pod here.
"""

import hashlib
from typing import Final

from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.apimachinery.objects import Object, copied

_PRIORITIES: Final = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}
_TAINTS: Final = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


def admit_pod(pod: Object, service_account: Object | None) -> Object:
    """A copy of a new Pod as admission lets it through. `service_account` is the one that it runs as.

    Raises ApiError: 403 for a priority or runtime class that does not exist.
    """
    result: Object = copied(pod)
    spec = result["spec"]
    spec["serviceAccountName"] = spec["serviceAccount"] = spec.get("serviceAccountName") or "default"
    account = service_account or {}
    if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
        spec["imagePullSecrets"] = copied(account["imagePullSecrets"])
    _set_priority(result)
    if spec.get("runtimeClassName"):
        raise _forbidden(result, f'pod rejected: RuntimeClass "{spec["runtimeClassName"]}" not found')
    result["spec"] = tolerate_node_problems(spec)
    return result


def _set_priority(pod: Object) -> None:
    spec = pod["spec"]
    name = spec.get("priorityClassName") or ""
    if name and name not in _PRIORITIES:
        raise _forbidden(pod, f"no PriorityClass with name {name} was found")
    priority = _PRIORITIES.get(name, 0)
    if spec.get("priority", priority) != priority:
        text = (
            f"the integer value of priority ({spec['priority']}) must not be provided in pod spec; "
            f"priority admission controller computed {priority} from the given PriorityClass name"
        )
        raise _forbidden(pod, text)
    spec["priority"] = priority
    spec.setdefault("preemptionPolicy", "PreemptLowerPriority")


def tolerate_node_problems(spec: Object) -> Object:
    """The spec of a Pod that tolerates a node that is not ready or reachable for five minutes, or as it specifies."""
    tolerations = spec.get("tolerations") or []
    for taint in _TAINTS:
        matching = (
            toleration.get("key", "") in (taint, "") and toleration.get("effect", "") in ("NoExecute", "")
            for toleration in tolerations
        )
        if not any(matching):
            added = {"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
            tolerations = [*tolerations, added]
    return {**spec, "tolerations": tolerations}


def _forbidden(pod: Object, text: str) -> ApiError:
    name = pod["metadata"].get("name") or pod["metadata"].get("generateName") or ""
    details = {"name": name, "kind": "pods"}
    return ApiError(403, "Forbidden", f'pods "{name}" is forbidden: {text}', details)


HEADLESS: Final = "None"
_ADDRESSES: Final = "10.96.{}.{}"
"""From the range that kubeadm gives a cluster."""


def admit_service(service: Object) -> Object:
    """A copy of a new Service with what a cluster that knows IPv4 only fills in.

    Raises ApiError: 501 for a Service that is to be reached from outside, or at an address of its own choice.
    """
    result: Object = copied(service)
    spec = result["spec"]
    if spec.get("clusterIP", "") not in ("", HEADLESS) or spec.get("type") != "ClusterIP":
        text = "this emulator does not implement Services with a chosen or outer address: write spec.type: ClusterIP"
        raise ApiError(501, "NotImplemented", f"{text} without spec.clusterIP, or spec.clusterIP: None (headless)")
    address = spec.get("clusterIP") or _address(result["metadata"])
    spec["clusterIP"], spec["clusterIPs"] = address, [address]
    spec["ipFamilies"] = ["IPv4"]
    spec["ipFamilyPolicy"] = "SingleStack"
    return result


def _address(metadata: Object) -> str:
    """The same for the same Service. Two may share one, since nothing listens there."""
    digest = hashlib.sha256(f"{metadata.get('namespace')}/{metadata.get('name')}".encode()).digest()
    return _ADDRESSES.format(digest[0], digest[1])
