"""Defaults of built-in kinds. Source: kubernetes' pkg/apis/core/v1/defaults.go and pkg/apis/apps/v1/defaults.go.

Each function changes the server's own copy of a decoded object in place.
"""

import base64
from typing import Final

from sftjob_sandbox.apimachinery.objects import Object

FILE_MODE: Final = 0o644
_POD_DEFAULTS: Final = {
    "dnsPolicy": "ClusterFirst",
    "restartPolicy": "Always",
    "terminationGracePeriodSeconds": 30,
    "schedulerName": "default-scheduler",
}


def default_pod(pod: Object) -> None:
    """A Pod: its spec, requests from limits, service links."""
    spec = pod.setdefault("spec", {})
    _default_pod_spec(spec)
    for container in spec.get("containers") or ():
        resources = container.setdefault("resources", {})
        if resources.get("limits"):
            resources["requests"] = {**resources["limits"], **resources.get("requests", {})}
    spec.setdefault("enableServiceLinks", True)


def _default_pod_spec(spec: Object) -> None:
    for key, value in _POD_DEFAULTS.items():
        spec.setdefault(key, value)
    spec.setdefault("securityContext", {})
    name = spec.get("serviceAccountName") or spec.get("serviceAccount")
    if name:
        spec["serviceAccountName"] = spec["serviceAccount"] = name
    for container in spec.get("containers") or ():
        container.setdefault("imagePullPolicy", _pull_policy(container.get("image") or ""))
        container.setdefault("terminationMessagePath", "/dev/termination-log")
        container.setdefault("terminationMessagePolicy", "File")
        for variable in container.get("env") or ():
            source = variable.get("valueFrom") or {}
            if "resourceFieldRef" in source:
                source["resourceFieldRef"].setdefault("divisor", "0")
    for volume in spec.get("volumes") or ():
        _default_volume(volume)


def _pull_policy(image: str) -> str:
    """Always for the tag latest, given or implied."""
    name, _, digest = image.partition("@")
    _, _, tag = name.rpartition("/")[2].partition(":")
    return "Always" if tag == "latest" or not (tag or digest) else "IfNotPresent"


def _default_volume(volume: Object) -> None:
    if set(volume) <= {"name"}:
        volume["emptyDir"] = {}
    for kind in ("secret", "configMap", "projected"):
        if kind in volume:
            volume[kind].setdefault("defaultMode", FILE_MODE)
    for source in (volume.get("projected") or {}).get("sources") or ():
        if "serviceAccountToken" in source:
            source["serviceAccountToken"].setdefault("expirationSeconds", 3600)


def default_claim(claim: Object) -> None:
    """A PersistentVolumeClaim."""
    claim.setdefault("spec", {}).setdefault("volumeMode", "Filesystem")
    claim.setdefault("status", {}).setdefault("phase", "Pending")


def default_secret(secret: Object) -> None:
    """A Secret; the values of the write-only `stringData` go, encoded, into `data`."""
    for key, text in (secret.pop("stringData", None) or {}).items():
        secret.setdefault("data", {})[key] = base64.b64encode(text.encode()).decode()
    secret.setdefault("type", "Opaque")


def default_namespace(namespace: Object) -> None:
    """A Namespace: the label with its own name, and its phase."""
    if namespace["metadata"].get("name"):
        labels = namespace["metadata"].setdefault("labels", {})
        labels["kubernetes.io/metadata.name"] = namespace["metadata"]["name"]
    namespace.setdefault("status", {}).setdefault("phase", "Active")


def default_definition(definition: Object) -> None:
    """A CustomResourceDefinition."""
    spec = definition.setdefault("spec", {})
    names = spec.setdefault("names", {})
    if names.get("kind"):
        names.setdefault("singular", names["kind"].lower())
        names.setdefault("listKind", names["kind"] + "List")
    spec.setdefault("conversion", {"strategy": "None"})


def default_service(service: Object) -> None:
    """A Service."""
    spec = service.setdefault("spec", {})
    for key, value in (("sessionAffinity", "None"), ("type", "ClusterIP"), ("internalTrafficPolicy", "Cluster")):
        spec.setdefault(key, value)
    for port in spec.get("ports") or ():
        port.setdefault("protocol", "TCP")
        port["targetPort"] = port.get("targetPort") or port.get("port")


def default_binding(binding: Object) -> None:
    """A RoleBinding or ClusterRoleBinding."""
    binding.setdefault("roleRef", {}).setdefault("apiGroup", "rbac.authorization.k8s.io")


def default_deployment(deployment: Object) -> None:
    """A Deployment and its Pod template."""
    spec = deployment.setdefault("spec", {})
    spec.setdefault("replicas", 1)
    strategy = spec.setdefault("strategy", {})
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        strategy.setdefault("rollingUpdate", {"maxUnavailable": "25%", "maxSurge": "25%"})
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)
    _default_pod_spec(spec.setdefault("template", {}).setdefault("spec", {}))
