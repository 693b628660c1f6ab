"""Rules of ConfigMaps, Secrets, Events, Services and Deployments that the published schema does not state.

Source: kubernetes' pkg/apis/core/validation and pkg/apis/apps/validation.
"""

from typing import Final

from sftjob_sandbox.apimachinery import names
from sftjob_sandbox.apimachinery.causes import duplicate, forbidden, invalid, required, too_long
from sftjob_sandbox.apimachinery.errors import Cause
from sftjob_sandbox.apimachinery.metadata import immutable
from sftjob_sandbox.apimachinery.objects import Object

_SIZE_LIMIT_BYTES: Final = 1024 * 1024
_LOCKED: Final = "field is immutable when `immutable` is set"


def validate_config_map(config: Object, old: Object | None) -> list[Cause]:
    """Keys, size, and that an immutable ConfigMap stays as it is."""
    causes = _locked(config, old, ("data", "binaryData")) if old else []
    data, binary = config.get("data") or {}, config.get("binaryData") or {}
    for field, entries in (("data", data), ("binaryData", binary)):
        causes += [invalid(f"{field}[{key}]", key, text) for key in entries for text in names.config_key(key)]
    text = "duplicate of key present in binaryData"
    causes += [invalid(f"data[{key}]", key, text) for key in data if key in binary]
    size = sum(map(names.byte_length, data.values())) + sum(map(_decoded_size, binary.values()))
    return [*causes, too_long("", _SIZE_LIMIT_BYTES)] if size > _SIZE_LIMIT_BYTES else causes


def validate_secret(secret: Object, old: Object | None) -> list[Cause]:
    """Keys, size, and what may not change. No message contains a value of a Secret."""
    causes = []
    if old is not None:
        causes += immutable("type", secret.get("type"), old.get("type"))
        causes += _locked(secret, old, ("data",))
    data = secret.get("data") or {}
    causes += [invalid(f"data[{key}]", key, text) for key in data for text in names.config_key(key)]
    if sum(map(_decoded_size, data.values())) > _SIZE_LIMIT_BYTES:
        causes.append(too_long("data", _SIZE_LIMIT_BYTES))
    return causes


def _decoded_size(encoded: str) -> int:
    return len(encoded) * 3 // 4 - encoded[-2:].count("=")


def _locked(new: Object, old: Object, keys: tuple[str, ...]) -> list[Cause]:
    if not old.get("immutable"):
        return []
    causes = [] if new.get("immutable") else [forbidden("immutable", _LOCKED)]
    return causes + [forbidden(key, _LOCKED) for key in keys if (new.get(key) or {}) != (old.get(key) or {})]


def validate_event(event: Object, old: Object | None) -> list[Cause]:  # noqa: ARG001 -- one signature
    """An Event is in the namespace of its object; one about a cluster-scoped object is in `default`."""
    namespace, named = event["metadata"].get("namespace") or "", event["involvedObject"].get("namespace") or ""
    if named == namespace or (not named and namespace in ("default", "kube-system")):
        return []
    return [invalid("involvedObject.namespace", named, "does not match event.namespace")]


def validate_service(service: Object, old: Object | None) -> list[Cause]:
    """Ports and address of a Service."""
    spec = service.get("spec") or {}
    ports = spec.get("ports") or []
    causes = [] if ports or spec.get("clusterIP") == "None" else [required("spec.ports")]
    taken: set[str] = set()
    for index, port in enumerate(ports):
        where, name, number = f"spec.ports[{index}]", port.get("name") or "", port.get("port") or 0
        if not name and len(ports) > 1:
            causes.append(required(f"{where}.name"))
        causes += [invalid(f"{where}.name", name, text) for text in (names.dns1123_label(name) if name else ())]
        if name and name in taken:
            causes.append(duplicate(f"{where}.name", name))
        taken.add(name)
        causes += [invalid(f"{where}.port", number, text) for text in names.between(number, 1, 65535)]
    before = ((old or {}).get("spec") or {}).get("clusterIP")
    return [*causes, *(immutable("spec.clusterIP", spec.get("clusterIP", ""), before) if before else ())]


def validate_deployment(deployment: Object, old: Object | None) -> list[Cause]:
    """Selector and template of a Deployment."""
    spec = deployment.get("spec") or {}
    selector, labels = spec.get("selector") or {}, (spec["template"].get("metadata") or {}).get("labels") or {}
    causes = []
    if any(labels.get(key) != value for key, value in (selector.get("matchLabels") or {}).items()):
        text = "`selector` does not match template `labels`"
        causes.append(invalid("spec.template.metadata.labels", labels, text))
    return causes if old is None else [*causes, *immutable("spec.selector", selector, old["spec"].get("selector"))]


def validate_binding(binding: Object, old: Object | None) -> list[Cause]:
    """The role of a RoleBinding or ClusterRoleBinding stays."""
    changed = old is not None and binding.get("roleRef") != old.get("roleRef")
    return [invalid("roleRef", binding.get("roleRef"), "cannot change roleRef")] if changed else []
