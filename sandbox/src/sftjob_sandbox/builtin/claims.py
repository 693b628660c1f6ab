"""Rules of PersistentVolumeClaims. Source: kubernetes' pkg/apis/core/validation."""

from typing import Final

from sftjob_sandbox import names
from sftjob_sandbox.builtin import quantity
from sftjob_sandbox.builtin.resources import NEGATIVE
from sftjob_sandbox.builtin.scheduling import check_label_selector
from sftjob_sandbox.causes import forbidden, invalid, not_supported, required
from sftjob_sandbox.errors import Cause
from sftjob_sandbox.jsoncopy import copied
from sftjob_sandbox.metadata import immutable
from sftjob_sandbox.objects import Object

ACCESS_MODES: Final = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
_STORAGE: Final = "spec.resources[storage]"
_REQUEST: Final = "spec.resources.requests.storage"


def validate_claim(claim: Object, old: Object | None) -> list[Cause]:
    """The rules of a claim beside those of its metadata."""
    spec = claim.get("spec") or {}
    causes = _check_spec(spec)
    return causes if old is None else [*causes, *_check_update(claim, old)]


def _check_spec(spec: Object) -> list[Cause]:
    modes = spec.get("accessModes") or []
    causes = [] if modes else [required("spec.accessModes", "at least 1 access mode is required")]
    causes += check_label_selector(spec.get("selector") or {}, "spec.selector")
    causes += [not_supported("spec.accessModes", mode, ACCESS_MODES) for mode in modes if mode not in ACCESS_MODES]
    if "ReadWriteOncePod" in modes and set(modes) & set(ACCESS_MODES[:3]):
        causes.append(forbidden("spec.accessModes", "may not use ReadWriteOncePod with other access modes"))
    size = _requested(spec)
    if size is None:
        causes.append(required(_STORAGE))
    elif quantity.parse(size).value <= 0:
        causes.append(invalid(_STORAGE, size, "must be greater than zero"))
    name = spec.get("storageClassName") or ""
    causes += [invalid("spec.storageClassName", name, text) for text in (names.dns1123_subdomain(name) if name else ())]
    mode = spec.get("volumeMode")
    if mode is not None and mode not in ("Block", "Filesystem"):
        causes.append(not_supported("spec.volumeMode", mode, ("Block", "Filesystem")))
    for key in ("dataSource", "dataSourceRef"):
        causes += _check_source(spec.get(key), f"spec.{key}")
    return causes


def _requested(spec: Object) -> str | None:
    size = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    return None if size is None else str(size)


def _check_source(source: Object | None, path: str) -> list[Cause]:
    if source is None:
        return []
    causes = [required(f"{path}.{key}") for key in ("name", "kind") if not source.get(key)]
    if not source.get("apiGroup") and source.get("kind") != "PersistentVolumeClaim":
        text = "must be 'PersistentVolumeClaim' when referencing the default apiGroup"
        causes.append(invalid(path, source.get("kind", ""), text))
    return causes


def _check_update(claim: Object, old: Object) -> list[Cause]:
    """Only a bound claim may change, and only by asking for more."""
    new_spec, old_spec = copied(claim.get("spec") or {}), copied(old.get("spec") or {})
    if not old_spec.get("volumeName") and "volumeName" in new_spec:
        old_spec["volumeName"] = new_spec["volumeName"]
    if old_spec.get("storageClassName") is None and "storageClassName" in new_spec:
        old_spec["storageClassName"] = new_spec["storageClassName"]
    new_size, old_size = _requested(new_spec), _requested(old_spec)
    requests = (new_spec.get("resources") or {}).get("requests")
    if (claim.get("status") or {}).get("phase") == "Bound" and requests and old_size is not None:
        requests["storage"] = old_size
    for key in ("volumeAttributesClassName",):
        new_spec.pop(key, None)
        old_spec.pop(key, None)
    causes: list[Cause] = []
    if new_spec != old_spec:
        changed = sorted(key for key in {*new_spec, *old_spec} if new_spec.get(key) != old_spec.get(key))
        text = (
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for "
            f"bound claims\nchanged: {', '.join(changed)}\n"
        )
        causes.append(forbidden("spec", text))
    if new_size is not None and old_size is not None:
        causes += _check_shrinking(new_size, old_size, old)
    modes = ((spec.get("spec") or {}).get("volumeMode") for spec in (claim, old))
    return [*causes, *immutable("volumeMode", next(modes), next(modes))]


def _check_shrinking(new_size: str, old_size: str, old: Object) -> list[Cause]:
    """A claim may shrink only down to what it has got, so that a failed expansion can be taken back."""
    if quantity.parse(new_size).value >= quantity.parse(old_size).value:
        return []
    capacity = ((old.get("status") or {}).get("capacity") or {}).get("storage") or "0"
    if quantity.parse(new_size).value <= quantity.parse(capacity).value:
        return [forbidden(_REQUEST, "field can not be less than status.capacity")]
    return []


def validate_claim_status(claim: Object, old: Object) -> list[Cause]:  # noqa: ARG001 -- one signature
    """The status of a claim."""
    capacity = (claim.get("status") or {}).get("capacity") or {}
    return [
        invalid(f"status.capacity[{name}]", value, NEGATIVE)
        for name, value in capacity.items()
        if quantity.parse(value).value < 0
    ]
