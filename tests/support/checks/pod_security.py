"""The restricted Pod Security Standard, written from its text.

https://kubernetes.io/docs/concepts/security/pod-security-standards/ (as of Kubernetes 1.34). Restricted includes
baseline. Left out: Windows' hostProcess and the relaxations of the standard for Windows and for user namespaces, so
that a Pod is judged as one for Linux.
"""

from collections.abc import Iterator, Mapping
from typing import Any

_CONTAINERS = ("initContainers", "containers", "ephemeralContainers")
_VOLUME_TYPES = frozenset(
    {"configMap", "csi", "downwardAPI", "emptyDir", "ephemeral", "persistentVolumeClaim", "projected", "secret"}
)
_SYSCTLS = frozenset(
    {
        "kernel.shm_rmid_forced",
        "net.ipv4.ip_local_port_range",
        "net.ipv4.ip_local_reserved_ports",
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
        "net.ipv4.tcp_fin_timeout",
        "net.ipv4.tcp_keepalive_intvl",
        "net.ipv4.tcp_keepalive_probes",
        "net.ipv4.tcp_keepalive_time",
        "net.ipv4.tcp_syncookies",
    }
)
_PROFILES = frozenset({"RuntimeDefault", "Localhost"})
_SELINUX_TYPES = frozenset({"", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"})
_APPARMOR_ANNOTATION = "container.apparmor.security.beta.kubernetes.io/"


def violations(pod: Mapping[str, Any]) -> list[str]:
    """What a namespace that enforces `restricted` would refuse about `pod`."""
    spec = pod["spec"]
    context = spec.get("securityContext") or {}
    containers = [container for kind in _CONTAINERS for container in spec.get(kind) or ()]
    return [
        *_host(spec),
        *_volumes(spec),
        *_annotations(pod),
        *_sysctls(context),
        *_any_context(context, "spec"),
        *(line for container in containers for line in _container(container, context)),
    ]


def _host(spec: Mapping[str, Any]) -> Iterator[str]:
    for field in ("hostNetwork", "hostPID", "hostIPC"):
        if spec.get(field):
            yield f"{field} must be unset or false"


def _volumes(spec: Mapping[str, Any]) -> Iterator[str]:
    for volume in spec.get("volumes") or ():
        types = {kind for kind, source in volume.items() if kind != "name" and source is not None}
        if not types or types - _VOLUME_TYPES:
            yield f"volume {volume['name']} must not be a {', '.join(sorted(types)) or 'volume without a type'}"


def _annotations(pod: Mapping[str, Any]) -> Iterator[str]:
    for name, value in (pod.get("metadata", {}).get("annotations") or {}).items():
        if name.startswith(_APPARMOR_ANNOTATION) and value != "runtime/default" and not value.startswith("localhost/"):
            yield f"annotation {name} must be runtime/default or localhost/*"


def _sysctls(context: Mapping[str, Any]) -> Iterator[str]:
    for sysctl in context.get("sysctls") or ():
        if sysctl["name"] not in _SYSCTLS:
            yield f"sysctl {sysctl['name']} must not be set"


def _any_context(context: Mapping[str, Any], name: str) -> Iterator[str]:
    """What holds for the security context of the Pod as for that of each container."""
    if context.get("runAsUser") == 0:
        yield f"{name}: runAsUser must not be 0"
    if (context.get("seccompProfile") or {}).get("type", "RuntimeDefault") not in _PROFILES:
        yield f"{name}: seccompProfile.type must be RuntimeDefault or Localhost"
    if (context.get("appArmorProfile") or {}).get("type", "RuntimeDefault") not in _PROFILES:
        yield f"{name}: appArmorProfile.type must be RuntimeDefault or Localhost"
    selinux = context.get("seLinuxOptions") or {}
    if selinux.get("type", "") not in _SELINUX_TYPES:
        yield f"{name}: seLinuxOptions.type must be one for containers"
    for field in ("user", "role"):
        if selinux.get(field):
            yield f"{name}: seLinuxOptions.{field} must not be set"


def _container(container: Mapping[str, Any], of_pod: Mapping[str, Any]) -> Iterator[str]:
    name = container["name"]
    own = container.get("securityContext") or {}
    yield from _any_context(own, name)
    if own.get("runAsNonRoot", of_pod.get("runAsNonRoot")) is not True:
        yield f"{name}: runAsNonRoot must be true"
    if not own.get("seccompProfile", of_pod.get("seccompProfile")):
        yield f"{name}: seccompProfile.type must be RuntimeDefault or Localhost"
    if own.get("privileged"):
        yield f"{name}: privileged must be unset or false"
    if own.get("allowPrivilegeEscalation") is not False:
        yield f"{name}: allowPrivilegeEscalation must be false"
    if own.get("procMount", "Default") != "Default":
        yield f"{name}: procMount must be Default"
    capabilities = own.get("capabilities") or {}
    if "ALL" not in (capabilities.get("drop") or ()):
        yield f"{name}: capabilities.drop must hold ALL"
    if set(capabilities.get("add") or ()) - {"NET_BIND_SERVICE"}:
        yield f"{name}: capabilities.add may hold NET_BIND_SERVICE only"
    if any(port.get("hostPort") for port in container.get("ports") or ()):
        yield f"{name}: hostPort must not be set"
    yield from _hosts_of_handlers(container)


def _hosts_of_handlers(container: Mapping[str, Any]) -> Iterator[str]:
    handlers = {kind: container.get(kind) or {} for kind in ("livenessProbe", "readinessProbe", "startupProbe")}
    handlers |= {f"lifecycle.{moment}": handler for moment, handler in (container.get("lifecycle") or {}).items()}
    for where, handler in handlers.items():
        for action in ("httpGet", "tcpSocket"):
            if (handler.get(action) or {}).get("host"):
                yield f"{container['name']}: {where}.{action}.host must not be set"
