"""References from env variables and files to fields and resources of the Pod (the downward API)."""

from typing import Final

from sftjob_sandbox import names
from sftjob_sandbox.builtin import quantity
from sftjob_sandbox.causes import invalid, not_supported, required
from sftjob_sandbox.errors import Cause
from sftjob_sandbox.objects import Object

_LABELS: Final = frozenset({
    "metadata.annotations", "metadata.labels", "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName",
    "spec.restartPolicy", "spec.serviceAccountName", "spec.schedulerName", "status.phase", "status.hostIP",
    "status.hostIPs", "status.podIP", "status.podIPs",
})  # fmt: skip
_RESOURCES: Final = (
    "limits.cpu", "limits.ephemeral-storage", "limits.memory",
    "requests.cpu", "requests.ephemeral-storage", "requests.memory",
)  # fmt: skip
_HUGE_PAGES: Final = ("limits.hugepages-", "requests.hugepages-")
_SIZE_DIVISORS: Final = ("1", "1k", "1M", "1G", "1T", "1P", "1E", "1Ki", "1Mi", "1Gi", "1Ti", "1Pi", "1Ei")


def check_field(reference: Object, allowed: frozenset[str], path: str) -> list[Cause]:
    """`fieldRef`: a field, or `metadata.labels['key']`."""
    version, field = reference.get("apiVersion") or "", reference.get("fieldPath") or ""
    if not version or not field:
        return [required(f"{path}.fieldPath" if version else f"{path}.apiVersion")]
    if version != "v1":
        text = f"error converting fieldPath: unsupported pod version: {version}"
        return [invalid(f"{path}.fieldPath", field, text)]
    base, _, rest = field.partition("['")
    if rest.endswith("']"):
        subscript = rest.removesuffix("']")
        if base == "metadata.annotations":
            return [invalid(path, subscript.lower(), text) for text in names.qualified_name(subscript.lower())]
        if base == "metadata.labels":
            return [invalid(path, subscript, text) for text in names.qualified_name(subscript)]
    if field not in _LABELS:
        text = f"error converting fieldPath: field label not supported: {field}"
        return [invalid(f"{path}.fieldPath", field, text)]
    return [] if field in allowed else [not_supported(f"{path}.fieldPath", field, sorted(allowed))]


def check_resource_field(reference: Object, path: str, *, volume: bool) -> list[Cause]:
    """`resourceFieldRef`: a request or limit of a container."""
    resource = reference.get("resource") or ""
    if volume and not reference.get("containerName"):
        return [required(f"{path}.containerName")]
    if not resource:
        return [required(f"{path}.resource")]
    if resource not in _RESOURCES and not resource.startswith(_HUGE_PAGES):
        return [not_supported(f"{path}.resource", resource, _RESOURCES)]
    return _check_divisor(resource, str(reference.get("divisor") or "0"), path)


def _check_divisor(resource: str, divisor: str, path: str) -> list[Cause]:
    if quantity.parse(divisor).value == 0:
        return []
    if resource.endswith(".cpu"):
        if divisor in ("1m", "1"):
            return []
        text = "only divisor's values 1m and 1 are supported with the cpu resource"
        return [invalid(f"{path}.divisor", resource, text)]
    if divisor in _SIZE_DIVISORS:
        return []
    kind = "memory" if resource.endswith(".memory") else "local ephemeral storage"
    kind = "hugepages" if "hugepages" in resource else kind
    text = f"only divisor's values {', '.join(_SIZE_DIVISORS)} are supported with the {kind} resource"
    return [invalid(f"{path}.divisor", resource, text)]
