"""The columns of built-in resources in `kubectl get`.

The rules are those of k8s.io/kubernetes/pkg/printers/internalversion/printers.go.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from sftjob_sandbox.durations import age
from sftjob_sandbox.objects import Object, is_deleting, name_of, parse_timestamp

Cells = Callable[[Object, datetime], list[Any]]
"""(object, now) to the cells of its row."""


@dataclass(frozen=True)
class Column:
    """A metav1.TableColumnDefinition. A priority above 0 is shown by `-o wide` only."""

    name: str
    description: str = ""
    type: str = "string"
    format: str = ""
    priority: int = 0

    def definition(self) -> Object:
        """As the table says it."""
        return {
            "name": self.name,
            "type": self.type,
            "format": self.format,
            "description": self.description,
            "priority": self.priority,
        }


@dataclass(frozen=True)
class Columns:
    """The columns of one resource and what stands in them."""

    columns: tuple[Column, ...]
    cells: Cells


NAME: Final = Column("Name", "Name must be unique within a namespace.", format="name")
_AGE: Final = Column("Age", "Time since the object was created.")


def _wide(name: str, description: str) -> Column:
    return Column(name, description, priority=1)


def _age(obj: Object, now: datetime) -> str:
    return age(obj["metadata"].get("creationTimestamp"), now)


def _pod(pod: Object, now: datetime) -> list[Any]:
    spec, status = pod["spec"], pod.get("status") or {}
    reason, ready, restarts, last = _pod_state(pod)
    shown = f"{restarts} ({age(last, now)} ago)" if restarts and last else str(restarts)
    conditions = {condition["type"]: condition["status"] for condition in status.get("conditions") or ()}
    gates = [gate["conditionType"] for gate in spec.get("readinessGates") or ()]
    passed = sum(conditions.get(gate) == "True" for gate in gates)
    return [
        name_of(pod),
        f"{ready}/{len(spec['containers'])}",
        reason,
        shown,
        _age(pod, now),
        status.get("podIP") or "<none>",
        spec.get("nodeName") or "<none>",
        status.get("nominatedNodeName") or "<none>",
        f"{passed}/{len(gates)}" if gates else "<none>",
    ]


def _pod_state(pod: Object) -> tuple[str, int, int, str | None]:
    """STATUS, number of ready containers, restarts, and when the last one was."""
    status = pod.get("status") or {}
    reason = status.get("reason") or status.get("phase") or ""
    containers = status.get("containerStatuses") or []
    initializing = _init_reason(pod)
    if initializing:
        containers, reason = status.get("initContainerStatuses") or [], initializing
    ready = 0
    for container in reversed([] if initializing else containers):
        state = container.get("state") or {}
        reason = _container_reason(state) or reason
        ready += bool(container.get("ready") and "running" in state)
    if reason == "Completed" and ready:
        reason = "Running" if _is_ready(status) else "NotReady"
    if is_deleting(pod) and status.get("phase") not in ("Succeeded", "Failed"):
        reason = "Terminating"
    ends = [((c.get("lastState") or {}).get("terminated") or {}).get("finishedAt") for c in containers]
    last = max(filter(None, ends), key=parse_timestamp, default=None)
    return reason, ready, sum(container.get("restartCount", 0) for container in containers), last


def _init_reason(pod: Object) -> str:
    """STATUS of a Pod whose init containers are not through; empty when they are."""
    for number, container in enumerate((pod.get("status") or {}).get("initContainerStatuses") or ()):
        state = container.get("state") or {}
        if state.get("terminated", {}).get("exitCode") == 0:
            continue
        waiting = state.get("waiting", {}).get("reason")
        if "terminated" in state:
            return f"Init:{_container_reason(state)}"
        if waiting and waiting != "PodInitializing":
            return f"Init:{waiting}"
        return f"Init:{number}/{len(pod['spec'].get('initContainers') or ())}"
    return ""


def _container_reason(state: Mapping[str, Any]) -> str:
    """What a waiting or terminated container says; empty for a running one."""
    if waiting := (state.get("waiting") or {}).get("reason"):
        return str(waiting)
    terminated = state.get("terminated")
    if terminated is None:
        return ""
    if terminated.get("reason"):
        return str(terminated["reason"])
    signal = terminated.get("signal")
    return f"Signal:{signal}" if signal else f"ExitCode:{terminated.get('exitCode', 0)}"


def _is_ready(status: Mapping[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in status.get("conditions") or ())


_ACCESS_MODES: Final = {
    "ReadWriteOnce": "RWO",
    "ReadOnlyMany": "ROX",
    "ReadWriteMany": "RWX",
    "ReadWriteOncePod": "RWOP",
}


def _claim(claim: Object, now: datetime) -> list[Any]:
    spec, status = claim["spec"], claim.get("status") or {}
    bound = status.get("phase") == "Bound"
    modes = (status.get("accessModes") or spec.get("accessModes") or ()) if bound else ()
    return [
        name_of(claim),
        "Terminating" if is_deleting(claim) else status.get("phase", ""),
        spec.get("volumeName", ""),
        (status.get("capacity") or {}).get("storage", "") if bound else "",
        ",".join(_ACCESS_MODES[mode] for mode in modes),
        spec.get("storageClassName", ""),
        spec.get("volumeAttributesClassName") or "<unset>",
        _age(claim, now),
        spec.get("volumeMode", ""),
    ]


def _service(service: Object, now: datetime) -> list[Any]:
    spec = service["spec"]
    ports = ",".join(f"{port['port']}/{port['protocol']}" for port in spec.get("ports") or ())
    selector = ",".join(f"{key}={value}" for key, value in sorted((spec.get("selector") or {}).items()))
    return [
        name_of(service),
        spec["type"],
        spec["clusterIP"],
        ",".join(spec.get("externalIPs") or ()) or "<none>",
        ports or "<none>",
        _age(service, now),
        selector or "<none>",
    ]


def _event(event: Object, now: datetime) -> list[Any]:
    involved, source = event["involvedObject"], event.get("source") or {}
    first = event.get("firstTimestamp") or event.get("eventTime")
    last = event.get("lastTimestamp") or first
    component = source.get("component") or event.get("reportingComponent") or ""
    host = source.get("host") or event.get("reportingInstance") or ""
    return [
        age(last, now),
        event.get("type", ""),
        event.get("reason", ""),
        "/".join(filter(None, (involved.get("kind", "").lower(), involved.get("name")))),
        involved.get("fieldPath", ""),
        ", ".join(filter(None, (component, host))),
        (event.get("message") or "").strip(),
        age(first, now),
        max(event.get("count") or 0, 1),
        name_of(event),
    ]


def _node(node: Object, now: datetime) -> list[Any]:
    status = node.get("status") or {}
    conditions = {condition["type"]: condition["status"] for condition in status.get("conditions") or ()}
    states = [{"True": "Ready"}.get(conditions["Ready"], "NotReady")] if "Ready" in conditions else ["Unknown"]
    states += ["SchedulingDisabled"] if node.get("spec", {}).get("unschedulable") else []
    prefix = "node-role.kubernetes.io/"
    roles = sorted(k.removeprefix(prefix) for k in node["metadata"].get("labels") or () if k.startswith(prefix))
    addresses = {address["type"]: address["address"] for address in status.get("addresses") or ()}
    info = status.get("nodeInfo") or {}
    return [
        name_of(node),
        ",".join(states),
        ",".join(roles) or "<none>",
        _age(node, now),
        info.get("kubeletVersion", ""),
        addresses.get("InternalIP", "<none>"),
        addresses.get("ExternalIP", "<none>"),
        info.get("osImage") or "<unknown>",
        info.get("kernelVersion") or "<unknown>",
        info.get("containerRuntimeVersion") or "<unknown>",
    ]


def _secret(secret: Object, now: datetime) -> list[Any]:
    return [name_of(secret), secret.get("type", ""), len(secret.get("data") or ()), _age(secret, now)]


def _config_map(config: Object, now: datetime) -> list[Any]:
    count = len(config.get("data") or ()) + len(config.get("binaryData") or ())
    return [name_of(config), count, _age(config, now)]


def _namespace(namespace: Object, now: datetime) -> list[Any]:
    return [name_of(namespace), (namespace.get("status") or {}).get("phase", ""), _age(namespace, now)]


def _service_account(account: Object, now: datetime) -> list[Any]:
    return [name_of(account), len(account.get("secrets") or ()), _age(account, now)]


def _lease(lease: Object, now: datetime) -> list[Any]:
    return [name_of(lease), (lease.get("spec") or {}).get("holderIdentity", ""), _age(lease, now)]


def _other(obj: Object, _now: datetime) -> list[Any]:
    return [name_of(obj), obj["metadata"].get("creationTimestamp", "")]


DEFAULT: Final = Columns((NAME, Column("Created At", "When the object was created.", type="date")), _other)

BUILT_IN: Final[Mapping[str, Columns]] = {
    "pods": Columns(
        (
            NAME,
            Column("Ready", "The aggregate readiness state of this pod for accepting traffic."),
            Column("Status", "The aggregate status of the containers in this pod."),
            Column("Restarts", "The number of times the containers in this pod have been restarted and when."),
            _AGE,
            _wide("IP", "IP address allocated to the pod."),
            _wide("Node", "The node that this pod is scheduled onto."),
            _wide("Nominated Node", "The node that the pod is to run on once it has preempted others."),
            _wide("Readiness Gates", "Passed and all readiness gates."),
        ),
        _pod,
    ),
    "persistentvolumeclaims": Columns(
        (
            NAME,
            Column("Status", "The current phase of the claim."),
            Column("Volume", "The PersistentVolume backing this claim."),
            Column("Capacity", "The actual resources of the underlying volume."),
            Column("Access Modes", "The access modes that the volume has."),
            Column("StorageClass", "The StorageClass that the claim asks for."),
            Column("VolumeAttributesClass", "The VolumeAttributesClass used by this claim."),
            _AGE,
            _wide("VolumeMode", "What type of volume the claim requires."),
        ),
        _claim,
    ),
    "services": Columns(
        (
            NAME,
            Column("Type", "How the service is exposed."),
            Column("Cluster-IP", "The IP address of the service; None for a headless one."),
            Column("External-IP", "Addresses outside the cluster that accept traffic for it."),
            Column("Port(s)", "The ports that the service exposes."),
            _AGE,
            _wide("Selector", "The labels of the pods that it leads to."),
        ),
        _service,
    ),
    "events": Columns(
        (
            Column("Last Seen", "The time at which the most recent occurrence of this event was recorded."),
            Column("Type", "Type of this event (Normal, Warning)."),
            Column("Reason", "A short, machine understandable string."),
            Column("Object", "The object that this event is about."),
            _wide("Subobject", "The part of the object that this event is about."),
            _wide("Source", "The component reporting this event."),
            Column("Message", "A human-readable description."),
            _wide("First Seen", "The time at which the event was first recorded."),
            _wide("Count", "The number of times this event has occurred."),
            Column("Name", NAME.description, format="name", priority=1),
        ),
        _event,
    ),
    "nodes": Columns(
        (
            NAME,
            Column("Status", "The status of the node."),
            Column("Roles", "The roles of the node."),
            _AGE,
            Column("Version", "Kubelet version reported by the node."),
            _wide("Internal-IP", "Internal address of the node."),
            _wide("External-IP", "External address of the node."),
            _wide("OS-Image", "OS image reported by the node."),
            _wide("Kernel-Version", "Kernel version reported by the node."),
            _wide("Container-Runtime", "Container runtime reported by the node."),
        ),
        _node,
    ),
    "secrets": Columns(
        (
            NAME,
            Column("Type", "Used to facilitate programmatic handling of secret data."),
            Column("Data", "Number of items in the secret."),
            _AGE,
        ),
        _secret,
    ),
    "configmaps": Columns((NAME, Column("Data", "Number of items in the config map."), _AGE), _config_map),
    "namespaces": Columns((NAME, Column("Status", "The status of the namespace."), _AGE), _namespace),
    "serviceaccounts": Columns((NAME, Column("Secrets", "Number of secrets it references."), _AGE), _service_account),
    "leases.coordination.k8s.io": Columns((NAME, Column("Holder", "Who holds the lease."), _AGE), _lease),
}
