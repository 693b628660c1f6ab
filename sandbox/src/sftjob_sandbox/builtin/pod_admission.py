"""What admission plugins of a default API server add to a Pod, or refuse about it.

ServiceAccount, Priority, RuntimeClass and DefaultTolerationSeconds; the rest of the default set changes no Pod here.
"""

import hashlib
from typing import Final

from sftjob_sandbox.errors import ApiError
from sftjob_sandbox.jsoncopy import copied
from sftjob_sandbox.objects import Object

TOKEN_MOUNT: Final = "/var/run/secrets/kubernetes.io/serviceaccount"  # noqa: S105 -- a directory
ROOT_CA: Final = "kube-root-ca.crt"
TOKEN_SECONDS: Final = 3607
_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"
_PRIORITIES: Final = {"system-cluster-critical": 2_000_000_000, "system-node-critical": 2_000_001_000}
_TAINTS: Final = ("node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable")


def admit_pod(pod: Object, service_account: Object | None) -> Object:
    """A copy of a new Pod as admission lets it through. `service_account` is the one that it runs as.

    Raises:
        ApiError: 403 for a priority or runtime class that does not exist.
    """
    result: Object = copied(pod)
    spec = result["spec"]
    spec["serviceAccountName"] = spec["serviceAccount"] = spec.get("serviceAccountName") or "default"
    account = service_account or {}
    if _wants_token(spec, account):
        _mount_token(result)
    if not spec.get("imagePullSecrets") and account.get("imagePullSecrets"):
        spec["imagePullSecrets"] = copied(account["imagePullSecrets"])
    _set_priority(result)
    if spec.get("runtimeClassName"):
        raise _forbidden(result, f'pod rejected: RuntimeClass "{spec["runtimeClassName"]}" not found')
    tolerate_node_problems(spec)
    return result


def _wants_token(spec: Object, account: Object) -> bool:
    chosen = spec.get("automountServiceAccountToken", account.get("automountServiceAccountToken"))
    return chosen is None or bool(chosen)


def _mount_token(pod: Object) -> None:
    """The volume kube-api-access-*, mounted where no container has something else already."""
    spec, metadata = pod["spec"], pod["metadata"]
    seed = f"{metadata.get('namespace')}/{metadata.get('name') or metadata.get('generateName')}".encode()
    suffix = "".join(_ALPHABET[byte % len(_ALPHABET)] for byte in hashlib.sha256(seed).digest()[:5])
    name = f"kube-api-access-{suffix}"
    mounted = False
    for container in [*(spec.get("initContainers") or ()), *(spec.get("containers") or ())]:
        mounts = container.setdefault("volumeMounts", [])
        if all(mount.get("mountPath") != TOKEN_MOUNT for mount in mounts):
            mounts.append({"name": name, "readOnly": True, "mountPath": TOKEN_MOUNT})
            mounted = True
    if mounted:
        spec.setdefault("volumes", []).append({"name": name, "projected": _token_projection()})


def _token_projection() -> Object:
    namespace = {"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}
    return {
        "sources": [
            {"serviceAccountToken": {"expirationSeconds": TOKEN_SECONDS, "path": "token"}},
            {"configMap": {"name": ROOT_CA, "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [namespace]}},
        ],
        "defaultMode": 0o644,
    }


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


def tolerate_node_problems(spec: Object) -> None:
    """Five minutes on a node that is not ready or not reachable, unless the Pod says otherwise."""
    tolerations = spec.get("tolerations") or []
    for taint in _TAINTS:
        matching = (
            toleration.get("key", "") in (taint, "") and toleration.get("effect", "") in ("NoExecute", "")
            for toleration in tolerations
        )
        if not any(matching):
            added = {"key": taint, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}
            tolerations = [*tolerations, added]
    spec["tolerations"] = tolerations


def _forbidden(pod: Object, text: str) -> ApiError:
    name = pod["metadata"].get("name") or pod["metadata"].get("generateName") or ""
    details = {"name": name, "kind": "pods"}
    return ApiError(403, "Forbidden", f'pods "{name}" is forbidden: {text}', details)
