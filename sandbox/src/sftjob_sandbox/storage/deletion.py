"""What a DELETE does to an object: remove it, mark it, or nothing new. Pure.

Source: k8s.io/apiserver/pkg/registry/rest/delete.go and k8s.io/apiserver/pkg/registry/generic/registry/store.go.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Literal

from sftjob_sandbox.apimachinery.causes import forbidden, not_supported
from sftjob_sandbox.apimachinery.errors import ApiError, Cause, invalid
from sftjob_sandbox.apimachinery.objects import (
    Object,
    finalizers_of,
    is_deleting,
    name_of,
    parse_timestamp,
    timestamp,
    uid_of,
    with_metadata,
)
from sftjob_sandbox.storage.resources import Resource
from sftjob_sandbox.storage.strategies import conflict

ORPHAN: Final = "orphan"
FOREGROUND: Final = "foregroundDeletion"
_POLICIES: Final = ("Foreground", "Background", "Orphan")


@dataclass(frozen=True, kw_only=True)
class DeleteOptions:
    """metav1.DeleteOptions."""

    grace_period_seconds: int | None = None
    propagation: str = ""
    uid: str = ""
    resource_version: str = ""
    dry_run: bool = False


@dataclass(frozen=True)
class Deletion:
    """`remove`: the object goes now. `mark`: it is stored as `obj` until someone finishes. `keep`: nothing changes."""

    kind: Literal["remove", "mark", "keep"]
    obj: Object


def parse_delete_options(body: Object) -> DeleteOptions:
    """Read DeleteOptions. Raises ApiError 400 or 422."""
    grace, policy = body.get("gracePeriodSeconds"), body.get("propagationPolicy")
    preconditions = body.get("preconditions") or {}
    if grace is not None and not isinstance(grace, int):
        text = "json: cannot unmarshal value into Go struct field DeleteOptions.gracePeriodSeconds of type int64"
        raise ApiError(400, "BadRequest", text)
    if body.get("orphanDependents") is not None:
        raise _invalid_options(forbidden("orphanDependents", "this local server does not support the deprecated field"))
    if policy is not None and policy not in _POLICIES:
        raise _invalid_options(not_supported("propagationPolicy", policy, (*_POLICIES, "nil")))
    return DeleteOptions(
        grace_period_seconds=grace,
        propagation=policy or "",
        uid=str(preconditions.get("uid") or ""),
        resource_version=str(preconditions.get("resourceVersion") or ""),
        dry_run=_dry_run(body.get("dryRun") or []),
    )


def plan_deletion(resource: Resource, obj: Object, options: DeleteOptions, now: datetime) -> Deletion:
    """Decide what a DELETE does. Raises ApiError 409 when a precondition does not hold, 403 for what may not go."""
    _check_preconditions(resource, obj, options)
    if resource.key == "namespaces":
        return _delete_namespace(resource, obj, now)
    finalizers = _finalizers(obj, options)
    if resource.key == "pods":
        deletion = _delete_gracefully(obj, options, now)
        if deletion.kind == "keep":
            return deletion
        marked = with_metadata(deletion.obj, finalizers=finalizers)
        return Deletion("mark" if finalizers else deletion.kind, marked)
    marked = with_metadata(obj, finalizers=finalizers)
    return Deletion("mark", _marked(marked, 0, now)) if finalizers else Deletion("remove", marked)


def goes_with_update(new: Object, old: Object) -> bool:
    """Whether an update removes the object, since it took the last finalizer off one that is being deleted."""
    grace = old["metadata"].get("deletionGracePeriodSeconds")
    return is_deleting(old) and not grace and not finalizers_of(new) and not (new.get("spec") or {}).get("finalizers")


def _dry_run(asked: list[str]) -> bool:
    if any(value != "All" for value in asked):
        raise _invalid_options(not_supported("dryRun", asked, ("All",)))
    return bool(asked)


def _delete_namespace(resource: Resource, obj: Object, now: datetime) -> Deletion:
    if name_of(obj) in ("default", "kube-system", "kube-public"):
        details = {"name": name_of(obj), "kind": resource.plural}
        text = f'namespaces "{name_of(obj)}" is forbidden: this namespace may not be deleted'
        raise ApiError(403, "Forbidden", text, details)
    if is_deleting(obj):
        return Deletion("keep", obj)
    marked = with_metadata(obj, deletionTimestamp=timestamp(now))
    return Deletion("mark", {**marked, "status": {**obj.get("status", {}), "phase": "Terminating"}})


def _delete_gracefully(pod: Object, options: DeleteOptions, now: datetime) -> Deletion:
    asked = options.grace_period_seconds
    asked = 1 if asked is not None and asked < 0 else asked
    if is_deleting(pod):
        return _shorten(pod, asked, now)
    grace = pod["spec"].get("terminationGracePeriodSeconds", 0) if asked is None else asked
    finished = pod.get("status", {}).get("phase") in ("Succeeded", "Failed")
    if not pod["spec"].get("nodeName") or finished:
        grace = 0
    marked = _marked(pod, max(grace, 0), now)
    return Deletion("mark" if grace else "remove", marked)


def _shorten(pod: Object, asked: int | None, now: datetime) -> Deletion:
    """A second DELETE may only shorten the grace period of the first."""
    metadata = pod["metadata"]
    grace = metadata.get("deletionGracePeriodSeconds")
    if not grace:
        return Deletion("remove", pod)
    if asked is None or asked >= grace:
        return Deletion("keep", pod)
    deadline = parse_timestamp(metadata["deletionTimestamp"]) + timedelta(seconds=asked - grace)
    if deadline < now:
        deadline, asked = now, 1 if asked else 0
    marked = with_metadata(pod, deletionTimestamp=timestamp(deadline), deletionGracePeriodSeconds=asked)
    return Deletion("mark" if asked else "remove", marked)


def _marked(obj: Object, grace: int, now: datetime) -> Object:
    metadata: dict[str, Any] = {"deletionGracePeriodSeconds": grace}
    if not is_deleting(obj):
        metadata["deletionTimestamp"] = timestamp(now + timedelta(seconds=grace))
        if "generation" in obj["metadata"]:
            metadata["generation"] = obj["metadata"]["generation"] + 1
    return with_metadata(obj, **metadata)


def _finalizers(obj: Object, options: DeleteOptions) -> list[str]:
    """The finalizers after the propagation policy added or removed the garbage collector's."""
    present = finalizers_of(obj)
    others = [name for name in present if name not in (ORPHAN, FOREGROUND)]
    if not options.propagation:
        return others + [name for name in (ORPHAN, FOREGROUND) if name in present][:1]
    added = {"Orphan": [ORPHAN], "Foreground": [FOREGROUND]}.get(options.propagation, [])
    return others + added


def _check_preconditions(resource: Resource, obj: Object, options: DeleteOptions) -> None:
    if options.uid and options.uid != uid_of(obj):
        text = (
            f"the UID in the precondition ({options.uid}) does not match the UID in record ({uid_of(obj)}). "
            "The object might have been deleted and then recreated"
        )
        raise conflict(resource, name_of(obj), text, called=resource.kind)
    revision = obj["metadata"]["resourceVersion"]
    if options.resource_version and options.resource_version != revision:
        text = (
            f"the ResourceVersion in the precondition ({options.resource_version}) does not match the ResourceVersion "
            f"in record ({revision}). The object might have been modified"
        )
        raise conflict(resource, name_of(obj), text, called=resource.kind)


def _invalid_options(cause: Cause) -> ApiError:
    return invalid("DeleteOptions", "meta.k8s.io", "", [cause])
