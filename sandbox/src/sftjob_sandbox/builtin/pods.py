"""Rules of Pods: on create, on update, and for their status. Source: kubernetes' pkg/apis/core/validation."""

import ipaddress
from collections.abc import Mapping
from typing import Any, Final

from sftjob_sandbox import names
from sftjob_sandbox.builtin.containers import PodContext, check_containers, check_init_containers
from sftjob_sandbox.builtin.resources import check_quantity
from sftjob_sandbox.builtin.scheduling import check_affinity, check_tolerations, check_topology_spread
from sftjob_sandbox.builtin.security import check_pod_security_context
from sftjob_sandbox.builtin.volumes import check_volumes
from sftjob_sandbox.causes import duplicate, forbidden, invalid, required
from sftjob_sandbox.errors import Cause
from sftjob_sandbox.jsoncopy import copied
from sftjob_sandbox.metadata import one_of, validate_labels
from sftjob_sandbox.objects import Object

_MAX_INT32: Final = 2**31 - 1
_UPDATABLE: Final = (
    "`spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,"
    "`spec.tolerations` (only additions to existing tolerations),"
    "`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)"
)
_SYSTEM_CONDITIONS: Final = ("PodScheduled", "Ready", "Initialized")


def validate_pod(pod: Object, old: Object | None) -> list[Cause]:
    """The rules of a Pod beside those of its metadata."""
    spec = pod.get("spec") or {}
    causes = [*check_pod_spec(spec, "spec"), *_check_token_account(spec)]
    if old is None:
        if spec.get("ephemeralContainers"):
            causes.append(forbidden("spec.ephemeralContainers", "cannot be set on create"))
        if spec.get("nodeName") and spec.get("schedulingGates"):
            text = "cannot be set until all schedulingGates have been cleared"
            causes.append(forbidden("spec.nodeName", text))
        return causes
    return [*causes, *_check_update(spec, old["spec"])]


def _check_token_account(spec: Object) -> list[Cause]:
    if spec.get("serviceAccountName"):
        return []
    text = "must not be specified when serviceAccountName is not set"
    return [
        forbidden(f"spec.volumes[{index}].projected.sources[{position}].serviceAccountToken", text)
        for index, volume in enumerate(spec.get("volumes") or ())
        for position, source in enumerate((volume.get("projected") or {}).get("sources") or ())
        if "serviceAccountToken" in source
    ]


def check_pod_spec(spec: Object, path: str) -> list[Cause]:
    """The spec of a Pod or of a Pod template."""
    volumes, causes = check_volumes(spec.get("volumes") or [], f"{path}.volumes")
    context = PodContext(spec, volumes)
    regular, initial = spec.get("containers") or [], spec.get("initContainers") or []
    dns_policies = ("ClusterFirstWithHostNet", "ClusterFirst", "Default", "None")
    return [
        *causes,
        *check_containers(regular, f"{path}.containers", context),
        *check_init_containers(initial, regular, f"{path}.initContainers", context),
        *_check_host_network(spec, path),
        *one_of(f"{path}.restartPolicy", spec.get("restartPolicy"), ("Always", "OnFailure", "Never")),
        *one_of(f"{path}.dnsPolicy", spec.get("dnsPolicy"), dns_policies),
        *validate_labels(spec.get("nodeSelector") or {}, f"{path}.nodeSelector"),
        *check_pod_security_context(spec.get("securityContext") or {}, spec, f"{path}.securityContext"),
        *check_affinity(spec.get("affinity") or {}, f"{path}.affinity"),
        *_check_dns(spec, f"{path}.dnsConfig"),
        *_check_gates(spec, path),
        *check_topology_spread(spec.get("topologySpreadConstraints") or [], f"{path}.topologySpreadConstraints"),
        *_check_names(spec, path),
        *_check_deadline(spec, path),
        *check_tolerations(spec.get("tolerations") or [], f"{path}.tolerations"),
        *_check_host_aliases(spec.get("hostAliases") or [], f"{path}.hostAliases"),
        *one_of(
            f"{path}.preemptionPolicy", spec.get("preemptionPolicy"), ("PreemptLowerPriority", "Never"), empty=True
        ),
        *_check_overhead(spec.get("overhead") or {}, f"{path}.overhead"),
    ]


def _check_host_network(spec: Object, path: str) -> list[Cause]:
    if not spec.get("hostNetwork"):
        return []
    text = "must match `containerPort` when `hostNetwork` is true"
    return [
        invalid(f"{path}.containers[{index}].ports[{position}].hostPort", port.get("hostPort", 0), text)
        for index, container in enumerate(spec.get("containers") or ())
        for position, port in enumerate(container.get("ports") or ())
        if port.get("hostPort", 0) != port.get("containerPort", 0)
    ]


def _check_dns(spec: Object, path: str) -> list[Cause]:
    config = spec.get("dnsConfig")
    if spec.get("dnsPolicy") == "None":
        if config is None:
            return [required(path, "must provide `dnsConfig` when `dnsPolicy` is None")]
        if not config.get("nameservers"):
            text = "must provide at least one DNS nameserver when `dnsPolicy` is None"
            return [required(f"{path}.nameservers", text)]
    causes: list[Cause] = []
    servers, searches = (config or {}).get("nameservers") or [], (config or {}).get("searches") or []
    if len(servers) > 3:
        causes.append(invalid(f"{path}.nameservers", servers, "must not have more than 3 nameservers"))
    for index, server in enumerate(servers):
        causes += _check_ip(server, f"{path}.nameservers[{index}]")
    if len(searches) > 32:
        causes.append(invalid(f"{path}.searches", searches, "must not have more than 32 search paths"))
    for index, search in enumerate(searches):
        texts = names.dns1123_subdomain(search.removesuffix("."))
        causes += [invalid(f"{path}.searches[{index}]", search.removesuffix("."), text) for text in texts]
    for index, option in enumerate((config or {}).get("options") or ()):
        causes += [] if option.get("name") else [required(f"{path}.options[{index}]", "must not be empty")]
    return causes


def _check_ip(value: str, path: str) -> list[Cause]:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        return [invalid(path, value, "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)")]
    return []


def _check_gates(spec: Object, path: str) -> list[Cause]:
    causes: list[Cause] = []
    for index, gate in enumerate(spec.get("readinessGates") or ()):
        name = gate.get("conditionType") or ""
        where = f"{path}.readinessGates[{index}].conditionType"
        causes += [invalid(where, name, text) for text in names.qualified_name(name)]
    taken: set[str] = set()
    for index, gate in enumerate(spec.get("schedulingGates") or ()):
        name, where = gate.get("name") or "", f"{path}.schedulingGates[{index}]"
        causes += [invalid(where, name, text) for text in names.qualified_name(name)]
        if name in taken:
            causes.append(duplicate(where, name))
        taken.add(name)
    return causes


def _check_names(spec: Object, path: str) -> list[Cause]:
    rules = {
        "serviceAccountName": names.dns1123_subdomain,
        "nodeName": names.dns1123_subdomain,
        "hostname": names.dns1123_label,
        "subdomain": names.dns1123_label,
        "priorityClassName": names.dns1123_subdomain,
        "runtimeClassName": names.dns1123_subdomain,
    }
    return [
        invalid(f"{path}.{key}", spec[key], text)
        for key, rule in rules.items()
        if spec.get(key)
        for text in rule(spec[key])
    ]


def _check_deadline(spec: Object, path: str) -> list[Cause]:
    value = spec.get("activeDeadlineSeconds")
    if value is None:
        return []
    return [invalid(f"{path}.activeDeadlineSeconds", value, text) for text in names.between(value, 1, _MAX_INT32)]


def _check_host_aliases(aliases: list[Object], path: str) -> list[Cause]:
    causes: list[Cause] = []
    for index, alias in enumerate(aliases):
        causes += _check_ip(alias.get("ip") or "", f"{path}[{index}].ip")
        for position, name in enumerate(alias.get("hostnames") or ()):
            where = f"{path}[{index}].hostnames[{position}]"
            causes += [invalid(where, name, text) for text in names.dns1123_subdomain(name)]
    return causes


def _check_overhead(overhead: Mapping[str, str], path: str) -> list[Cause]:
    return [cause for name, value in overhead.items() for cause in check_quantity(name, value, f"{path}[{name}]")]


def _check_update(new: Object, old: Object) -> list[Cause]:
    """Only images, a shorter deadline, more tolerations and fewer scheduling gates."""
    causes: list[Cause] = []
    for key in ("containers", "initContainers"):
        if len(new.get(key) or ()) != len(old.get(key) or ()):
            return [forbidden(f"spec.{key}", "pod updates may not add or remove containers")]
    deadline = _check_deadline_update(new, old)
    if deadline and new.get("activeDeadlineSeconds") is not None:
        return deadline
    causes += deadline
    causes += _check_toleration_update(new.get("tolerations") or [], old.get("tolerations") or [])
    known = {gate.get("name") for gate in old.get("schedulingGates") or ()}
    for index, gate in enumerate(new.get("schedulingGates") or ()):
        if gate.get("name") not in known:
            text = f"only deletion is allowed, but found new scheduling gate '{gate.get('name', '')}'"
            causes.append(forbidden(f"spec.schedulingGates[{index}].name", text))
    munged = _munged(new, old)
    if munged != old:
        text = f"pod updates may not change fields other than {_UPDATABLE}\n{_difference(old, munged)}"
        causes.append(forbidden("spec", text))
    return causes


def _check_deadline_update(new: Object, old: Object) -> list[Cause]:
    path = "spec.activeDeadlineSeconds"
    value, before = new.get("activeDeadlineSeconds"), old.get("activeDeadlineSeconds")
    if value is None:
        text = "must not update from a positive integer to nil value"
        return [invalid(path, None, text)] if before is not None else []
    if texts := names.between(value, 0, _MAX_INT32):
        return [invalid(path, value, text) for text in texts]
    if before is not None and before < value:
        return [invalid(path, value, "must be less than or equal to previous value")]
    return []


def _check_toleration_update(new: list[Object], old: list[Object]) -> list[Cause]:
    def without_seconds(toleration: Object) -> Object:
        return {key: value for key, value in toleration.items() if key != "tolerationSeconds"}

    kept = [without_seconds(toleration) for toleration in new]
    if all(without_seconds(toleration) in kept for toleration in old):
        return []
    text = "existing toleration can not be modified except its tolerationSeconds"
    return [forbidden("spec.tolerations", text)]


def _munged(new: Object, old: Object) -> Object:
    """The new spec with everything that may change set back."""
    result: Object = copied(new)
    for key in ("containers", "initContainers"):
        for container, before in zip(result.get(key) or (), old.get(key) or (), strict=True):
            container["image"] = before.get("image")
    for key in ("activeDeadlineSeconds", "schedulingGates", "tolerations"):
        result.pop(key, None)
        if key in old:
            result[key] = old[key]
    if old.get("terminationGracePeriodSeconds", 0) < 0 and new.get("terminationGracePeriodSeconds") == 1:
        result["terminationGracePeriodSeconds"] = old["terminationGracePeriodSeconds"]
    return result


def _difference(old: Any, new: Any, path: str = "spec") -> str:
    """The changed fields, one a line: what differs is told, though not in the words of Go's cmp."""
    if isinstance(old, dict) and isinstance(new, dict):
        parts = (_difference(old.get(key), new.get(key), f"{path}.{key}") for key in sorted({*old, *new}))
        return "".join(part for part in parts if part)
    if isinstance(old, list) and isinstance(new, list) and len(old) == len(new):
        parts = (_difference(a, b, f"{path}[{i}]") for i, (a, b) in enumerate(zip(old, new, strict=True)))
        return "".join(part for part in parts if part)
    return "" if old == new else f"- {path}: {old!r}\n+ {path}: {new!r}\n"


def validate_pod_status(pod: Object, old: Object) -> list[Cause]:
    """The status of a Pod: condition names, and that no container comes back to life."""
    status = pod.get("status") or {}
    causes: list[Cause] = []
    for index, condition in enumerate(status.get("conditions") or ()):
        name = condition.get("type") or ""
        if name not in _SYSTEM_CONDITIONS:
            where = f"metadata.conditions[{index}].Type"  # the path that the API server gives
            causes += [invalid(where, name, text) for text in names.qualified_name(name)]
    policy = old["spec"].get("restartPolicy")
    before = old.get("status") or {}
    for key in ("containerStatuses", "initContainerStatuses"):
        causes += _check_transitions(status.get(key) or [], before.get(key) or [], policy, f"status.{key}")
    for index, entry in enumerate(status.get("podIPs") or ()):
        causes += _check_ip(entry.get("ip") or "", f"status.podIPs[{index}]")
    return causes


def _check_transitions(new: list[Object], old: list[Object], policy: str | None, path: str) -> list[Cause]:
    if policy == "Always":
        return []
    states = {status.get("name"): status.get("state") or {} for status in new}
    causes = []
    for index, status in enumerate(old):
        terminated = (status.get("state") or {}).get("terminated")
        if not terminated or (terminated.get("exitCode") and policy == "OnFailure"):
            continue
        if status.get("name") in states and "terminated" not in states[status.get("name")]:
            text = "may not be transitioned to non-terminated state"
            causes.append(forbidden(f"{path}[{index}].state", text))
    return causes
