"""Rules of resource requests and limits. Source: kubernetes' pkg/apis/core/validation and helper."""

from typing import Final

from sftjob_sandbox import names
from sftjob_sandbox.builtin import quantity
from sftjob_sandbox.causes import forbidden, invalid, required
from sftjob_sandbox.errors import Cause
from sftjob_sandbox.objects import Object

_STANDARD: Final = ("cpu", "memory", "ephemeral-storage")
_STANDARD_TYPES: Final = frozenset({
    *_STANDARD, "requests.cpu", "requests.memory", "requests.ephemeral-storage", "limits.cpu", "limits.memory",
    "limits.ephemeral-storage", "pods", "resourcequotas", "services", "replicationcontrollers", "secrets", "configmaps",
    "persistentvolumeclaims", "storage", "requests.storage", "services.nodeports", "services.loadbalancers",
})  # fmt: skip
_HUGE_PAGES: Final = "hugepages-"
NEGATIVE: Final = "must be greater than or equal to 0"


def is_native(name: str) -> bool:
    """Kubernetes' own resources: without a prefix, or with kubernetes.io."""
    return "/" not in name or "kubernetes.io/" in name


def is_extended(name: str) -> bool:
    """Resources that a device plugin provides, such as nvidia.com/gpu."""
    return not is_native(name) and not name.startswith("requests.") and not names.qualified_name(f"requests.{name}")


def may_overcommit(name: str) -> bool:
    """Whether a request may stay below its limit."""
    return is_native(name) and not name.startswith(_HUGE_PAGES)


def check_quantity(name: str, value: str, path: str) -> list[Cause]:
    """Not negative; whole for extended resources."""
    number = quantity.parse(value).value
    causes = [invalid(path, value, NEGATIVE)] if number < 0 else []
    if is_extended(name) and number != number.to_integral_value():
        causes.append(invalid(path, value, "must be an integer"))
    return causes


def _check_name(name: str, path: str) -> list[Cause]:
    if texts := names.qualified_name(name):
        return [invalid(path, name, text) for text in texts]
    if "/" not in name:
        causes = []
        if name not in _STANDARD_TYPES and not name.startswith(_HUGE_PAGES):
            causes.append(invalid(path, name, "must be a standard resource type or fully qualified"))
        if name not in _STANDARD and not name.startswith(_HUGE_PAGES):
            causes.append(invalid(path, name, "must be a standard resource for containers"))
        return causes
    if not is_native(name) and not is_extended(name):
        return [invalid(path, name, "doesn't follow extended resource name standard")]
    return []


def check_requirements(resources: Object, claims: set[str], path: str) -> list[Cause]:
    """Names, amounts, and that no request exceeds its limit. `claims` are the Pod's resource claims."""
    limits, requests = resources.get("limits") or {}, resources.get("requests") or {}
    causes: list[Cause] = []
    for name, value in limits.items():
        where = f"{path}.limits[{name}]"
        causes += [*_check_name(name, where), *check_quantity(name, value, where)]
    for name, value in requests.items():
        where = f"{path}.requests[{name}]"
        causes += [*_check_name(name, where), *check_quantity(name, value, where)]
        causes += _compare(name, value, limits.get(name), path)
    asked = {*limits, *requests}
    if any(name.startswith(_HUGE_PAGES) for name in asked) and not asked & {"cpu", "memory"}:
        causes.append(forbidden(path, "HugePages require cpu or memory"))
    for index, claim in enumerate(resources.get("claims") or ()):
        if claim.get("name") not in claims:
            where = f"{path}.claims[{index}]"
            text = "must be one of the names in pod.spec.resourceClaims"
            text += ": " + ", ".join(sorted(claims)) if claims else " which is empty"
            found = Cause("FieldValueNotFound", where, f'Not found: "{claim.get("name", "")}": {text}')
            causes.append(found)
    return causes


def _compare(name: str, value: str, limit: str | None, path: str) -> list[Cause]:
    if limit is None:
        if may_overcommit(name):
            return []
        return [required(f"{path}.limits", "Limit must be set for non overcommitable resources")]
    requested, allowed = quantity.parse(value).value, quantity.parse(limit).value
    if requested != allowed and not may_overcommit(name):
        return [invalid(f"{path}.requests", value, f"must be equal to {name} limit of {limit}")]
    if requested > allowed:
        return [invalid(f"{path}.requests", value, f"must be less than or equal to {name} limit of {limit}")]
    return []
