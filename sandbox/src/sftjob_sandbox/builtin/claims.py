"""Rules of PersistentVolumeClaims that the published schema does not state.

Source: kubernetes' pkg/apis/core/validation.
"""

from typing import Final

from sftjob_sandbox.apimachinery import names, quantity
from sftjob_sandbox.apimachinery.causes import forbidden, invalid, not_supported, required
from sftjob_sandbox.apimachinery.errors import Cause
from sftjob_sandbox.apimachinery.objects import Object, copied

_ACCESS_MODES: Final = ("ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod")
_STORAGE: Final = "spec.resources[storage]"
_SET_LATER: Final = ("volumeName", "storageClassName")


def validate_claim(claim: Object, old: Object | None) -> list[Cause]:
    """The rules of a claim besides those of its metadata."""
    spec = claim.get("spec") or {}
    modes, size, name = spec.get("accessModes") or [], _requested(spec), spec.get("storageClassName") or ""
    causes = [] if modes else [required("spec.accessModes", "at least 1 access mode is required")]
    causes += [not_supported("spec.accessModes", mode, _ACCESS_MODES) for mode in modes if mode not in _ACCESS_MODES]
    if "ReadWriteOncePod" in modes and set(modes) & set(_ACCESS_MODES[:3]):
        causes.append(forbidden("spec.accessModes", "may not use ReadWriteOncePod with other access modes"))
    if size is None:
        causes.append(required(_STORAGE))
    elif quantity.parse(size).value <= 0:
        causes.append(invalid(_STORAGE, size, "must be greater than zero"))
    causes += [invalid("spec.storageClassName", name, text) for text in (names.dns1123_subdomain(name) if name else ())]
    return causes if old is None else [*causes, *_check_update(claim, old)]


def _requested(spec: Object) -> str | None:
    size = ((spec.get("resources") or {}).get("requests") or {}).get("storage")
    return None if size is None else str(size)


def _check_update(claim: Object, old: Object) -> list[Cause]:
    """Only a bound claim may change, and only to a larger size."""
    new_spec, old_spec = copied(claim["spec"]), copied(old["spec"])
    new_size, old_size = _requested(new_spec), _requested(old_spec)
    for key in _SET_LATER:
        if key in new_spec:
            old_spec.setdefault(key, new_spec[key])
    if (claim.get("status") or {}).get("phase") == "Bound" and new_size and old_size:
        new_spec["resources"]["requests"]["storage"] = old_size
    causes: list[Cause] = []
    if new_spec != old_spec:
        changed = sorted(key for key in {*new_spec, *old_spec} if new_spec.get(key) != old_spec.get(key))
        text = (
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for "
            f"bound claims\nchanged: {', '.join(changed)}\n"
        )
        causes.append(forbidden("spec", text))
    capacity = ((old.get("status") or {}).get("capacity") or {}).get("storage") or "0"
    smallest = min((quantity.parse(old_size).value, quantity.parse(capacity).value)) if old_size else 0
    if new_size and old_size != new_size and quantity.parse(new_size).value <= smallest:
        text = "field cannot be less than status.capacity"
        causes.append(forbidden("spec.resources.requests.storage", text))
    return causes
