"""Rules of Namespaces, Events, Leases, Services and Deployments.

Source: kubernetes' pkg/apis/core/validation, pkg/apis/coordination/validation and pkg/apis/apps/validation.
"""

from typing import Final

from sftjob_sandbox import names
from sftjob_sandbox.builtin.pods import check_pod_spec
from sftjob_sandbox.builtin.scheduling import check_label_selector
from sftjob_sandbox.causes import duplicate, invalid, not_supported, required
from sftjob_sandbox.errors import Cause
from sftjob_sandbox.metadata import immutable, one_of, validate_labels
from sftjob_sandbox.objects import Object

_CLUSTER_SCOPED: Final = ("Node", "Namespace", "PersistentVolume", "CustomResourceDefinition")


def validate_namespace_status(namespace: Object, old: Object) -> list[Cause]:  # noqa: ARG001 -- one signature
    """The phase follows the deletion."""
    deleting = bool(namespace["metadata"].get("deletionTimestamp"))
    phase = (namespace.get("status") or {}).get("phase") or ""
    wanted = "Terminating" if deleting else "Active"
    if phase == wanted:
        return []
    text = f"may only be '{wanted}' if `deletionTimestamp` is {'not ' if deleting else ''}empty"
    return [invalid("status.Phase", phase, text)]


def validate_event(event: Object, old: Object | None) -> list[Cause]:  # noqa: ARG001 -- one signature
    """An Event tells of an object in its own namespace; one about a cluster-scoped object is in `default`."""
    involved = event.get("involvedObject") or {}
    namespace = event["metadata"].get("namespace") or ""
    told = involved.get("namespace") or ""
    if not told:
        if namespace in ("default", "kube-system"):
            return []
        return [invalid("involvedObject.namespace", told, "does not match event.namespace")]
    if involved.get("kind") in _CLUSTER_SCOPED and involved.get("apiVersion") == "v1":
        return [invalid("involvedObject.namespace", told, f"not allowed for kind {involved['kind']}")]
    return [] if told == namespace else [invalid("involvedObject.namespace", told, "does not match event.namespace")]


def validate_lease(lease: Object, old: Object | None) -> list[Cause]:  # noqa: ARG001 -- one signature
    """Durations are positive, transitions not negative."""
    spec = lease.get("spec") or {}
    seconds, transitions = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
    causes = []
    if seconds is not None and seconds <= 0:
        causes.append(invalid("spec.leaseDurationSeconds", seconds, "must be greater than 0"))
    if transitions is not None and transitions < 0:
        causes.append(invalid("spec.leaseTransitions", transitions, "must be greater than or equal to 0"))
    return causes


def validate_service(service: Object, old: Object | None) -> list[Cause]:
    """Type, ports and selector of a Service."""
    spec = service.get("spec") or {}
    kinds = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
    causes = one_of("spec.type", spec.get("type"), kinds)
    causes += one_of("spec.sessionAffinity", spec.get("sessionAffinity"), ("ClientIP", "None"))
    causes += validate_labels(spec.get("selector") or {}, "spec.selector")
    ports = spec.get("ports") or []
    if not ports and spec.get("clusterIP") != "None" and spec.get("type") != "ExternalName":
        causes.append(required("spec.ports"))
    taken: set[str] = set()
    for index, port in enumerate(ports):
        where = f"spec.ports[{index}]"
        name = port.get("name") or ""
        if not name and len(ports) > 1:
            causes.append(required(f"{where}.name"))
        elif name:
            causes += [invalid(f"{where}.name", name, text) for text in names.dns1123_label(name)]
            if name in taken:
                causes.append(duplicate(f"{where}.name", name))
            taken.add(name)
        number = port.get("port") or 0
        causes += [invalid(f"{where}.port", number, text) for text in names.port_number(number)]
        if port.get("protocol") not in ("SCTP", "TCP", "UDP"):
            causes.append(not_supported(f"{where}.protocol", port.get("protocol", ""), ("SCTP", "TCP", "UDP")))
    before = ((old or {}).get("spec") or {}).get("clusterIP")
    if before and spec.get("type") != "ExternalName":
        causes += immutable("spec.clusterIP", spec.get("clusterIP", ""), before)
    return causes


def validate_deployment(deployment: Object, old: Object | None) -> list[Cause]:
    """Replicas, selector and template of a Deployment."""
    spec = deployment.get("spec") or {}
    causes = []
    if spec.get("replicas", 1) < 0:
        causes.append(invalid("spec.replicas", spec["replicas"], "must be greater than or equal to 0"))
    selector = spec.get("selector")
    template = spec.get("template") or {}
    labels = (template.get("metadata") or {}).get("labels") or {}
    if selector is None:
        causes.append(required("spec.selector"))
    else:
        causes += check_label_selector(selector, "spec.selector")
        wanted = selector.get("matchLabels") or {}
        if not wanted and not selector.get("matchExpressions"):
            causes.append(invalid("spec.selector", selector, "empty selector is invalid for deployment"))
        if any(labels.get(key) != value for key, value in wanted.items()):
            causes.append(
                invalid("spec.template.metadata.labels", labels, "`selector` does not match template `labels`")
            )
    if old is not None:
        causes += immutable("spec.selector", selector, old["spec"].get("selector"))
    causes += validate_labels(labels, "spec.template.metadata.labels")
    pod = template.get("spec") or {}
    if pod.get("restartPolicy") != "Always":
        causes.append(not_supported("spec.template.spec.restartPolicy", pod.get("restartPolicy", ""), ("Always",)))
    causes += one_of("spec.strategy.type", (spec.get("strategy") or {}).get("type"), ("Recreate", "RollingUpdate"))
    return [*causes, *check_pod_spec(pod, "spec.template.spec")]
