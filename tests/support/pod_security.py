"""The restricted Pod Security Standard, written from its text.

https://kubernetes.io/docs/concepts/security/pod-security-standards/
Restricted includes baseline. Windows-only and removed fields are left out.
"""

from collections.abc import Iterator
from typing import Any

_VOLUME_TYPES = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)
_SECCOMP_TYPES = frozenset({"RuntimeDefault", "Localhost"})


def violations(pod: dict[str, Any]) -> list[str]:
    """What a namespace that enforces `restricted` would refuse about `pod`."""
    spec = pod["spec"]
    return [*_host(spec), *_volumes(spec), *(line for container in _containers(spec) for line in _of(container, spec))]


def _containers(spec: dict[str, Any]) -> list[dict[str, Any]]:
    return [c for key in ("initContainers", "containers", "ephemeralContainers") for c in spec.get(key, [])]


def _host(spec: dict[str, Any]) -> Iterator[str]:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield f"{field} must be unset or false"
    if spec.get("securityContext", {}).get("sysctls"):
        yield "sysctls must not be set"


def _volumes(spec: dict[str, Any]) -> Iterator[str]:
    for volume in spec.get("volumes", []):
        if forbidden := set(volume) - {"name"} - _VOLUME_TYPES:
            yield f"volume {volume['name']} must not be a {forbidden.pop()}"


def _of(container: dict[str, Any], spec: dict[str, Any]) -> Iterator[str]:
    name = container["name"]
    own = container.get("securityContext", {})
    merged = {**spec.get("securityContext", {}), **own}
    if own.get("privileged"):
        yield f"{name}: privileged must be unset or false"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: allowPrivilegeEscalation must be false"
    if merged.get("runAsNonRoot") is not True:
        yield f"{name}: runAsNonRoot must be true"
    if merged.get("runAsUser") == 0:
        yield f"{name}: runAsUser must not be 0"
    if merged.get("seccompProfile", {}).get("type") not in _SECCOMP_TYPES:
        yield f"{name}: seccompProfile.type must be RuntimeDefault or Localhost"
    capabilities = own.get("capabilities", {})
    if "ALL" not in capabilities.get("drop", []):
        yield f"{name}: capabilities.drop must hold ALL"
    if set(capabilities.get("add", [])) - {"NET_BIND_SERVICE"}:
        yield f"{name}: capabilities.add may hold NET_BIND_SERVICE only"
    if own.get("procMount", "Default") != "Default":
        yield f"{name}: procMount must be Default"
    if any(port.get("hostPort") for port in container.get("ports", [])):
        yield f"{name}: hostPort must not be set"
