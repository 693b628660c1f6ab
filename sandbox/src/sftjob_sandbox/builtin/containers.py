"""Rules of containers. Source: kubernetes' pkg/apis/core/validation."""

from collections.abc import Callable
from typing import Any, Final

from sftjob_sandbox import names
from sftjob_sandbox.builtin.references import check_field, check_resource_field
from sftjob_sandbox.builtin.resources import check_requirements
from sftjob_sandbox.builtin.security import check_security_context
from sftjob_sandbox.builtin.volumes import descending_path, no_backsteps
from sftjob_sandbox.causes import duplicate, forbidden, invalid, not_found, not_supported, required
from sftjob_sandbox.errors import Cause
from sftjob_sandbox.metadata import one_of
from sftjob_sandbox.objects import Object

ENV_FIELD_PATHS: Final = frozenset({
    "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName", "spec.serviceAccountName", "status.hostIP",
    "status.hostIPs", "status.podIP", "status.podIPs",
})  # fmt: skip
_PROTOCOLS: Final = ("SCTP", "TCP", "UDP")
_PROBES: Final = ("livenessProbe", "readinessProbe", "startupProbe")
_ONE_SOURCE: Final = "may not have more than one field specified at a time"


class PodContext:
    """What containers refer to: volumes by name, names of resource claims, and the Pod's grace period."""

    def __init__(self, spec: Object, volumes: dict[str, Object]) -> None:
        self.volumes = volumes
        self.claims = {claim.get("name", "") for claim in spec.get("resourceClaims") or ()}
        self.grace_seconds: int = spec.get("terminationGracePeriodSeconds", 30)


def check_containers(containers: list[Object], path: str, context: PodContext) -> list[Cause]:
    """The regular containers of a Pod."""
    if not containers:
        return [required(path)]
    causes: list[Cause] = []
    taken: set[str] = set()
    for index, container in enumerate(containers):
        where = f"{path}[{index}]"
        causes += _check_common(container, where, context)
        causes += _check_unique(container, where, taken)
        causes += _check_handlers(container, where, context)
        if "restartPolicy" in container:
            causes.append(forbidden(f"{where}.restartPolicy", "may not be set for non-init containers"))
    return [*causes, *_host_port_conflicts(containers, path)]


def check_init_containers(
    containers: list[Object], regular: list[Object], path: str, context: PodContext
) -> list[Cause]:
    """The init containers of a Pod."""
    causes: list[Cause] = []
    taken = {container.get("name", "") for container in regular}
    for index, container in enumerate(containers):
        where = f"{path}[{index}]"
        causes += _check_common(container, where, context)
        policy = container.get("restartPolicy")
        if policy is not None:
            causes += one_of(f"{where}.restartPolicy", policy, ("Always",))
        causes += _check_unique(container, where, taken)
        causes += _host_port_conflicts([container], path)
        if policy == "Always":
            causes += _check_handlers(container, where, context)
        else:
            text = "may not be set for init containers without restartPolicy=Always"
            causes += [forbidden(f"{where}.{key}", text) for key in ("lifecycle", *_PROBES) if key in container]
    return causes


def _check_unique(container: Object, path: str, taken: set[str]) -> list[Cause]:
    name = container.get("name") or ""
    if name in taken:
        return [duplicate(f"{path}.name", name)]
    taken.add(name)
    return []


def _check_common(container: Object, path: str, context: PodContext) -> list[Cause]:
    name, image = container.get("name") or "", container.get("image") or ""
    causes = [invalid(f"{path}.name", name, text) for text in names.dns1123_label(name)] if name else []
    if not name:
        causes.append(required(f"{path}.name"))
    if not image:
        causes.append(required(f"{path}.image"))
    elif image != image.strip():
        causes.append(invalid(f"{path}.image", image, "must not have leading or trailing whitespace"))
    policies = ("File", "FallbackToLogsOnError")
    return [
        *causes,
        *one_of(f"{path}.terminationMessagePolicy", container.get("terminationMessagePolicy"), policies),
        *_check_ports(container.get("ports") or [], f"{path}.ports"),
        *_check_env(container.get("env") or [], f"{path}.env"),
        *_check_env_from(container.get("envFrom") or [], f"{path}.envFrom"),
        *_check_mounts(container, f"{path}.volumeMounts", context),
        *_check_devices(container, f"{path}.volumeDevices", context),
        *one_of(f"{path}.imagePullPolicy", container.get("imagePullPolicy"), ("Always", "IfNotPresent", "Never")),
        *check_requirements(container.get("resources") or {}, context.claims, f"{path}.resources"),
        *check_security_context(container.get("securityContext"), f"{path}.securityContext"),
    ]


def _check_ports(ports: list[Object], path: str) -> list[Cause]:
    causes: list[Cause] = []
    taken: set[str] = set()
    for index, port in enumerate(ports):
        where = f"{path}[{index}]"
        name = port.get("name") or ""
        if name and (texts := names.port_name(name)):
            causes += [invalid(f"{where}.name", name, text) for text in texts]
        elif name in taken:
            causes.append(duplicate(f"{where}.name", name))
        elif name:
            taken.add(name)
        number = port.get("containerPort") or 0
        if not number:
            causes.append(required(f"{where}.containerPort"))
        else:
            causes += [invalid(f"{where}.containerPort", number, text) for text in names.port_number(number)]
        host = port.get("hostPort") or 0
        causes += [invalid(f"{where}.hostPort", host, text) for text in (names.port_number(host) if host else ())]
        causes += one_of(f"{where}.protocol", port.get("protocol"), _PROTOCOLS)
    return causes


def _host_port_conflicts(containers: list[Object], path: str) -> list[Cause]:
    causes: list[Cause] = []
    taken: set[str] = set()
    for index, container in enumerate(containers):
        for position, port in enumerate(container.get("ports") or ()):
            if port.get("hostPort"):
                text = f"{port.get('protocol', '')}/{port.get('hostIP', '')}/{port['hostPort']}"
                if text in taken:
                    causes.append(duplicate(f"{path}[{index}].ports[{position}].hostPort", text))
                taken.add(text)
    return causes


def _check_env(variables: list[Object], path: str) -> list[Cause]:
    causes: list[Cause] = []
    for index, variable in enumerate(variables):
        where = f"{path}[{index}]"
        name = variable.get("name") or ""
        if not name:
            causes.append(required(f"{where}.name"))
        else:
            causes += [invalid(f"{where}.name", name, text) for text in names.env_name(name)]
        if "valueFrom" in variable:
            causes += _check_value_from(variable, f"{where}.valueFrom")
    return causes


def _check_value_from(variable: Object, path: str) -> list[Cause]:
    source = variable["valueFrom"]
    causes: list[Cause] = []
    if "fieldRef" in source:
        causes += check_field(source["fieldRef"], ENV_FIELD_PATHS, f"{path}.fieldRef")
    if "resourceFieldRef" in source:
        causes += check_resource_field(source["resourceFieldRef"], f"{path}.resourceFieldRef", volume=False)
    for kind in ("configMapKeyRef", "secretKeyRef"):
        if kind in source:
            causes += _check_key_selector(source[kind], f"{path}.{kind}")
    if not source:
        text = "must specify one of: `fieldRef`, `resourceFieldRef`, `configMapKeyRef` or `secretKeyRef`"
        causes.append(invalid(path, "", text))
    elif variable.get("value"):
        causes.append(invalid(path, "", "may not be specified when `value` is not empty"))
    elif len(source) > 1:
        causes.append(invalid(path, "", _ONE_SOURCE))
    return causes


def _check_key_selector(selector: Object, path: str) -> list[Cause]:
    name, key = selector.get("name") or "", selector.get("key") or ""
    causes = [invalid(f"{path}.name", name, text) for text in names.dns1123_subdomain(name)]
    if not key:
        return [*causes, required(f"{path}.key")]
    return [*causes, *(invalid(f"{path}.key", key, text) for text in names.config_key(key))]


def _check_env_from(sources: list[Object], path: str) -> list[Cause]:
    causes: list[Cause] = []
    for index, source in enumerate(sources):
        where = f"{path}[{index}]"
        prefix = source.get("prefix") or ""
        causes += [invalid(f"{where}.prefix", prefix, text) for text in (names.env_name(prefix) if prefix else ())]
        kinds = [kind for kind in ("configMapRef", "secretRef") if kind in source]
        for kind in kinds:
            name = source[kind].get("name") or ""
            texts = names.dns1123_subdomain(names.masked(name)) if name else []
            causes += [] if name else [required(f"{where}.{kind}.name")]
            causes += [invalid(f"{where}.{kind}.name", name, text) for text in texts]
        if not kinds:
            causes.append(invalid(path, "", "must specify one of: `configMapRef` or `secretRef`"))
        elif len(kinds) > 1:
            causes.append(invalid(path, "", _ONE_SOURCE))
    return causes


def _check_mounts(container: Object, path: str, context: PodContext) -> list[Cause]:
    causes: list[Cause] = []
    devices = {device.get("name"): device.get("devicePath") for device in container.get("volumeDevices") or ()}
    taken: set[str] = set()
    for index, mount in enumerate(container.get("volumeMounts") or ()):
        where = f"{path}[{index}]"
        name, target = mount.get("name") or "", mount.get("mountPath") or ""
        causes += [] if name else [required(f"{where}.name")]
        causes += [] if name in context.volumes else [not_found(f"{where}.name", name)]
        causes += [] if target else [required(f"{where}.mountPath")]
        if target in taken:
            causes.append(invalid(f"{where}.mountPath", target, "must be unique"))
        taken.add(target)
        if name in devices:
            causes.append(invalid(f"{where}.name", name, "must not already exist in volumeDevices"))
        if target in devices.values():
            text = "must not already exist as a path in volumeDevices"
            causes.append(invalid(f"{where}.mountPath", target, text))
        causes += _check_sub_path(mount, where, path)
        causes += _check_propagation(mount, container, path)
    return causes


def _check_sub_path(mount: Object, where: str, path: str) -> list[Cause]:
    sub_path, expression = mount.get("subPath") or "", mount.get("subPathExpr") or ""
    causes = descending_path(sub_path, f"{path}.subPath")
    if expression:
        if sub_path:
            text = "subPathExpr and subPath are mutually exclusive"
            causes.append(invalid(f"{where}.subPathExpr", expression, text))
        causes += descending_path(expression, f"{path}.subPathExpr")
    return causes


def _check_propagation(mount: Object, container: Object, path: str) -> list[Cause]:
    mode = mount.get("mountPropagation")
    if mode is None:
        return []
    modes = ("Bidirectional", "HostToContainer", "None")
    causes = [] if mode in modes else [not_supported(f"{path}.mountPropagation", mode, modes)]
    if mode == "Bidirectional" and not (container.get("securityContext") or {}).get("privileged"):
        text = "Bidirectional mount propagation is available only to privileged containers"
        causes.append(forbidden(f"{path}.mountPropagation", text))
    return causes


def _check_devices(container: Object, path: str, context: PodContext) -> list[Cause]:
    causes: list[Cause] = []
    taken_names: set[str] = set()
    taken_paths: set[str] = set()
    for index, device in enumerate(container.get("volumeDevices") or ()):
        where = f"{path}[{index}]"
        name, target = device.get("name") or "", device.get("devicePath") or ""
        volume = context.volumes.get(name)
        causes += [] if name else [required(f"{where}.name")]
        if name in taken_names:
            causes.append(invalid(f"{where}.name", name, "must be unique"))
        if volume is None:
            causes.append(not_found(f"{where}.name", name))
        elif not {"persistentVolumeClaim", "ephemeral"} & set(volume):
            text = "can only use volume source type of PersistentVolumeClaim or Ephemeral for block mode"
            causes.append(invalid(f"{where}.name", name, text))
        causes += [] if target else [required(f"{where}.devicePath")]
        if target in taken_paths:
            causes.append(invalid(f"{where}.devicePath", target, "must be unique"))
        if no_backsteps(target, path):
            causes.append(invalid(f"{where}.devicePath", target, "can not contain backsteps ('..')"))
        taken_names.add(name)
        taken_paths.add(target)
    return causes


def _check_handlers(container: Object, path: str, context: PodContext) -> list[Cause]:
    causes: list[Cause] = []
    for hook in ("postStart", "preStop"):
        if hook in (container.get("lifecycle") or {}):
            causes += _check_handler(container["lifecycle"][hook], f"{path}.lifecycle.{hook}", context)
    for kind in _PROBES:
        if kind in container:
            causes += _check_probe(container[kind], f"{path}.{kind}", context)
            if kind != "readinessProbe" and container[kind].get("successThreshold", 1) != 1:
                value = container[kind]["successThreshold"]
                causes.append(invalid(f"{path}.{kind}.successThreshold", value, "must be 1"))
    return causes


def _check_probe(probe: Object, path: str, context: PodContext) -> list[Cause]:
    causes = _check_handler(probe, path, context)
    counts = ("initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold")
    for key in counts:
        if probe.get(key, 0) < 0:
            causes.append(invalid(f"{path}.{key}", probe[key], "must be greater than or equal to 0"))
    grace = probe.get("terminationGracePeriodSeconds")
    if grace is not None and path.endswith(".readinessProbe"):
        causes.append(invalid(f"{path}.terminationGracePeriodSeconds", grace, "must not be set for readinessProbes"))
    elif grace is not None and grace <= 0:
        causes.append(invalid(f"{path}.terminationGracePeriodSeconds", grace, "must be greater than 0"))
    return causes


def _check_handler(handler: Object, path: str, context: PodContext) -> list[Cause]:
    causes: list[Cause] = []
    kinds = [kind for kind in _HANDLERS if kind in handler]
    if not kinds:
        return [required(path, "must specify a handler type")]
    for position, kind in enumerate(kinds):
        where = f"{path}.{kind}"
        if position:
            causes.append(forbidden(where, "may not specify more than 1 handler type"))
        else:
            causes += _HANDLERS[kind](handler[kind], where, context)
    return causes


def _check_exec(action: Object, path: str, context: PodContext) -> list[Cause]:  # noqa: ARG001 -- one signature
    return [] if action.get("command") else [required(f"{path}.command")]


def _check_http(action: Object, path: str, context: PodContext) -> list[Cause]:  # noqa: ARG001 -- one signature
    causes = [] if action.get("path") else [required(f"{path}.path")]
    causes += _check_port(action.get("port", 0), f"{path}.port")
    if action.get("scheme") not in ("HTTP", "HTTPS"):
        causes.append(not_supported(f"{path}.scheme", action.get("scheme", ""), ("HTTP", "HTTPS")))
    return causes


def _check_tcp(action: Object, path: str, context: PodContext) -> list[Cause]:  # noqa: ARG001 -- one signature
    return _check_port(action.get("port", 0), f"{path}.port")


def _check_sleep(action: Object, path: str, context: PodContext) -> list[Cause]:
    seconds = action.get("seconds", 0)
    if 0 < seconds <= context.grace_seconds:
        return []
    text = f"must be greater than 0 and less than terminationGracePeriodSeconds ({context.grace_seconds})"
    return [invalid(path, seconds, text)]


def _check_port(port: int | str, path: str) -> list[Cause]:
    texts = names.port_name(port) if isinstance(port, str) else names.port_number(port)
    return [invalid(path, port, text) for text in texts]


_HANDLERS: Final[dict[str, Callable[[Any, str, PodContext], list[Cause]]]] = {
    "exec": _check_exec,
    "httpGet": _check_http,
    "tcpSocket": _check_tcp,
    "grpc": _check_tcp,
    "sleep": _check_sleep,
}
