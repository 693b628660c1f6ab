"""The admission plugins of a server: what they change in a new object, or refuse."""

from collections.abc import Callable

from sftjob_sandbox.apimachinery.errors import ApiError, not_found
from sftjob_sandbox.apimachinery.objects import Object, is_deleting, name_of
from sftjob_sandbox.builtin.pod_admission import admit_pod, admit_service, tolerate_node_problems
from sftjob_sandbox.storage.resources import Resource

Lookup = Callable[[str, str, str], Object | None]
"""(resource, namespace, name) to the stored object."""


def admit(resource: Resource, obj: Object, namespace: str, lookup: Lookup) -> Object:
    """A new object as admission lets it through. Raises ApiError 404, 403 or 501."""
    if resource.namespaced:
        _check_namespace(resource, obj, namespace, lookup)
    if resource.key == "pods":
        return admit_pod(obj, _service_account(resource, obj, namespace, lookup))
    return admit_service(obj) if resource.key == "services" else obj


def admit_update(resource: Resource, obj: Object) -> Object:
    """A changed object as admission lets it through."""
    if resource.key != "pods":
        return obj
    return {**obj, "spec": tolerate_node_problems(obj["spec"])}


def _check_namespace(resource: Resource, obj: Object, namespace: str, lookup: Lookup) -> None:
    stored = lookup("namespaces", "", namespace)
    if stored is None:
        raise not_found("namespaces", "", namespace)
    if is_deleting(stored):
        text = f"unable to create new content in namespace {namespace} because it is being terminated"
        cause = {
            "reason": "NamespaceTerminating",
            "message": f"namespace {namespace} is being terminated",
            "field": "metadata.namespace",
        }
        raise _forbidden(resource, name_of(obj), text, [cause])


def _service_account(resource: Resource, pod: Object, namespace: str, lookup: Lookup) -> Object:
    account = pod["spec"].get("serviceAccountName") or "default"
    stored = lookup("serviceaccounts", namespace, account)
    if stored is None:
        text = f'error looking up service account {namespace}/{account}: serviceaccount "{account}" not found'
        raise _forbidden(resource, name_of(pod), text, [])
    return stored


def _forbidden(resource: Resource, name: str, text: str, causes: list[Object]) -> ApiError:
    details: Object = {"name": name} if name else {}
    if resource.group:
        details["group"] = resource.group
    details["kind"] = resource.plural
    if causes:
        details["causes"] = causes
    subject = f'{resource.key} "{name}"' if name else resource.key
    return ApiError(403, "Forbidden", f"{subject} is forbidden: {text}", details)
