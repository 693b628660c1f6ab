"""The Node object. Pure."""

import platform
from typing import Final

from sftjob_sandbox.apimachinery.objects import Object, timestamp
from sftjob_sandbox.node.settings import NodeSettings

KUBELET_VERSION: Final = "v1.32.0-sandbox"
_ARCHITECTURES: Final = {"x86_64": "amd64", "aarch64": "arm64"}
_CONDITIONS: Final = (
    ("MemoryPressure", "False", "KubeletHasSufficientMemory", "kubelet has sufficient memory available"),
    ("DiskPressure", "False", "KubeletHasNoDiskPressure", "kubelet has no disk pressure"),
    ("PIDPressure", "False", "KubeletHasSufficientPID", "kubelet has sufficient PID available"),
    ("Ready", "True", "KubeletReady", "the sandbox's node runs Pods as local processes"),
)


def node_object(settings: NodeSettings) -> Object:
    """The node with what it has, ready."""
    now = timestamp(settings.clock())
    system, machine = platform.system().lower(), platform.machine().lower()
    architecture = _ARCHITECTURES.get(machine, machine)
    resources = {
        "cpu": str(settings.cpus),
        "memory": f"{settings.memory_bytes // 1024}Ki",
        "pods": str(settings.max_pods),
    }
    if settings.gpus:
        resources[settings.gpu_resource] = str(settings.gpus)
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": settings.name,
            "labels": {
                "kubernetes.io/hostname": settings.name,
                "kubernetes.io/os": system,
                "kubernetes.io/arch": architecture,
            },
        },
        "spec": {},
        "status": {
            "capacity": resources,
            "allocatable": dict(resources),
            "addresses": [
                {"type": "InternalIP", "address": settings.address},
                {"type": "Hostname", "address": settings.name},
            ],
            "conditions": [
                {
                    "type": kind,
                    "status": status,
                    "lastHeartbeatTime": now,
                    "lastTransitionTime": now,
                    "reason": reason,
                    "message": message,
                }
                for kind, status, reason, message in _CONDITIONS
            ],
            "images": [{"names": [reference], "sizeBytes": 0} for reference in sorted(settings.images)],
            "nodeInfo": {
                "machineID": "",
                "systemUUID": "",
                "bootID": "",
                "kernelVersion": platform.release(),
                "osImage": f"sandbox on {platform.system()}",
                "containerRuntimeVersion": "sandbox://processes",
                "kubeletVersion": KUBELET_VERSION,
                "kubeProxyVersion": "",
                "operatingSystem": system,
                "architecture": architecture,
            },
        },
    }
