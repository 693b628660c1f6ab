"""What a server sets or keeps when an object is written: system metadata, generation, status.

Pure: copies in, copies out. The rules are those of the strategies in k8s.io/kubernetes/pkg/registry and of
k8s.io/apiserver/pkg/registry/rest.
"""

from typing import Final

from sftjob_sandbox.apimachinery.causes import invalid as invalid_value
from sftjob_sandbox.apimachinery.errors import ApiError, invalid
from sftjob_sandbox.apimachinery.objects import Object, name_of, namespace_of, uid_of, with_metadata
from sftjob_sandbox.storage.resources import DEFINITIONS, Resource, ServedVersion

_SYSTEM_FIELDS: Final = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "selfLink")
_MAY_BE_EMPTY: Final = ("name", "managedFields")
_INITIAL_STATUS: Final[dict[str, Object]] = {
    "namespaces": {"phase": "Active"},
    "persistentvolumeclaims": {"phase": "Pending"},
    "services": {"loadBalancer": {}},
}
PROTECTION_FINALIZER: Final = "kubernetes.io/pvc-protection"


def check_namespace(obj: Object, namespace: str) -> None:
    """Raise 400 if the object names another namespace than the request."""
    named = namespace_of(obj)
    if named and named != namespace:
        raise ApiError(
            400, "BadRequest", "the namespace of the provided object does not match the namespace sent on the request"
        )


def before_create(resource: Resource, version: ServedVersion, obj: Object, namespace: str) -> Object:
    """The object with what only the server may set wiped, and in the namespace of the request.

    Raises ApiError when it names another namespace or carries a resourceVersion.
    """
    check_namespace(obj, namespace)
    metadata = tidy_metadata(obj["metadata"])
    if metadata.pop("resourceVersion", None):
        raise ApiError(500, "", "resourceVersion should not be set on objects to be created")
    for key in (*_SYSTEM_FIELDS, "generation"):
        metadata.pop(key, None)
    if namespace and resource.namespaced:
        metadata["namespace"] = namespace
    new = {**obj, "metadata": metadata}
    if "status" in version.subresources and resource.key != "nodes":
        new.pop("status", None)
    return new


def with_initial_state(resource: Resource, obj: Object) -> Object:
    """The object with the generation, status and finalizers that it starts with."""
    if resource.custom or resource.key == DEFINITIONS:
        return with_metadata(obj, generation=1)
    if resource.key == "pods":
        return {**obj, "status": {"phase": "Pending"}}
    if resource.key == "namespaces":
        obj = {**obj, "spec": {"finalizers": ["kubernetes"]}}
    if resource.key == "persistentvolumeclaims":
        others = [name for name in obj["metadata"].get("finalizers") or () if name != PROTECTION_FINALIZER]
        obj = with_metadata(obj, finalizers=[*others, PROTECTION_FINALIZER])
    if resource.key in _INITIAL_STATUS:
        return {**obj, "status": dict(_INITIAL_STATUS[resource.key])}
    return obj


def before_update(resource: Resource, version: ServedVersion, new: Object, old: Object) -> Object:
    """The object with what this request may not change taken from the stored one."""
    check_namespace(new, namespace_of(old))
    new = {**new, "metadata": _kept_metadata(new["metadata"], old["metadata"])}
    if "status" in version.subresources:
        new = _with_member(new, "status", old)
    if resource.key == "namespaces":
        new = _with_member(new, "spec", old)
    return new


def before_status_update(resource: Resource, new: Object, old: Object) -> Object:
    """The stored object with the status of the new one. Only built-in kinds let labels and annotations change too."""
    metadata = dict(old["metadata"])
    taken = ("managedFields",) if resource.custom else ("managedFields", "labels", "annotations")
    for key in taken:
        metadata.pop(key, None)
        if new["metadata"].get(key):
            metadata[key] = new["metadata"][key]
    return {**_with_member(old, "status", new), "metadata": metadata}


def with_generation(resource: Resource, new: Object, old: Object) -> Object:
    """The object with its generation increased if it differs from the stored one besides metadata."""
    generation = old["metadata"].get("generation")
    if generation is None:
        return new
    ignored = {"metadata"} if resource.custom else {"metadata", "status"}
    changed = {k: v for k, v in new.items() if k not in ignored} != {k: v for k, v in old.items() if k not in ignored}
    return with_metadata(new, generation=generation + changed)


def check_preconditions(resource: Resource, new: Object, old: Object) -> None:
    """Raise 409 if the new object has another uid or resourceVersion, 422 if it lacks a required resourceVersion."""
    name, key = name_of(old), resource.key
    uid = new["metadata"].get("uid")
    if uid and uid != uid_of(old):
        text = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {uid_of(old)}"
        path = f"/registry/{key}/{namespace_of(old)}/{name}".replace("//", "/")
        text = f"StorageError: invalid object, Code: 4, Key: {path}, ResourceVersion: 0, AdditionalErrorMsg: {text}"
        raise conflict(resource, name, text)
    revision = new["metadata"].get("resourceVersion")
    if not revision and not resource.unconditional_update:
        cause = invalid_value("metadata.resourceVersion", 0, "must be specified for an update")
        raise invalid(resource.plural, resource.group, name, [cause])
    if revision and revision != old["metadata"]["resourceVersion"]:
        text = "the object has been modified; please apply your changes to the latest version and try again"
        raise conflict(resource, name, text)


def conflict(resource: Resource, name: str, text: str, *, called: str = "") -> ApiError:
    """409: the stored object is not in the state that the request needs. `called`: its kind where not the plural."""
    called = called or resource.plural
    qualified = f"{called}.{resource.group}" if resource.group else called
    details = {"name": name} | ({"group": resource.group} if resource.group else {}) | {"kind": called}
    return ApiError(409, "Conflict", f'Operation cannot be fulfilled on {qualified} "{name}": {text}', details)


def tidy_metadata(metadata: Object) -> Object:
    """Copy without empty members, as metav1.ObjectMeta is encoded."""
    return {k: v for k, v in metadata.items() if k in _MAY_BE_EMPTY or (v is not None and v not in ("", [], {}))}


def _kept_metadata(new: Object, old: Object) -> Object:
    metadata = tidy_metadata(new)
    for key in (*_SYSTEM_FIELDS, "generation", "generateName", "namespace"):
        metadata.pop(key, None)
        if key in old:
            metadata[key] = old[key]
    metadata["resourceVersion"] = old["resourceVersion"]
    return metadata


def _with_member(obj: Object, key: str, source: Object) -> Object:
    rest = {k: v for k, v in obj.items() if k != key}
    return {**rest, key: source[key]} if key in source else rest
