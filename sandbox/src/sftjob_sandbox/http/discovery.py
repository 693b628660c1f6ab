"""Discovery: the groups, versions and resources of the server, each at its own path."""

from collections.abc import Iterator
from typing import Final

from sftjob_sandbox.apimachinery.objects import Object
from sftjob_sandbox.http import reviews
from sftjob_sandbox.storage.resources import VERBS, Catalog, Resource

_SUBRESOURCES: Final[dict[str, Object]] = {
    "status": {"verbs": ["get", "patch", "update"]},
    "log": {"verbs": ["get"]},
    "token": {"verbs": ["create"], "group": reviews.AUTHENTICATION, "version": "v1", "kind": "TokenRequest"},
}
# As on a real server: namespaces are emptied one by one, never as a collection.
WITHOUT_DELETE_COLLECTION: Final = ("namespaces",)


def versions(address: str) -> Object:
    """/api."""
    addresses = [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses}


def group_list(catalog: Catalog) -> Object:
    """/apis."""
    built_in = {r.group for r in catalog.resources.values() if not r.custom} | {
        review.group for review in reviews.REVIEWS
    }
    names = [*sorted(built_in - {""}), *sorted({r.group for r in catalog.resources.values()} - built_in)]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": [_group(catalog, name) for name in names]}


def group(catalog: Catalog, name: str) -> Object | None:
    """/apis/GROUP."""
    if not name or not _versions(catalog, name):
        return None
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(catalog, name)}


def resource_list(catalog: Catalog, name: str, version: str) -> Object | None:
    """/api/v1 and /apis/GROUP/VERSION."""
    if version not in _versions(catalog, name):
        return None
    resources = [*_resources(catalog, name, version), *map(_review, _reviews(name))]
    group_version = f"{name}/{version}" if name else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}


def _versions(catalog: Catalog, name: str) -> list[str]:
    """Versions of a group, the preferred one first."""
    found = [v.name for r in catalog.resources.values() if r.group == name for v in r.versions]
    return list(dict.fromkeys(found)) or ([reviews.VERSION] if _reviews(name) else [])


def _group(catalog: Catalog, name: str) -> Object:
    shown = [{"groupVersion": f"{name}/{version}", "version": version} for version in _versions(catalog, name)]
    return {"name": name, "versions": shown, "preferredVersion": shown[0]}


def _resources(catalog: Catalog, group_name: str, version: str) -> Iterator[Object]:
    """Each resource of a version, followed by its subresources."""
    for resource in sorted(catalog.resources.values(), key=lambda r: r.plural):
        if resource.group == group_name and (served := resource.served(version)):
            yield _resource(resource)
            for name in sorted(served.subresources):
                shared = {"singularName": "", "namespaced": resource.namespaced, "kind": resource.kind}
                yield {"name": f"{resource.plural}/{name}", **shared, **_SUBRESOURCES[name]}


def _reviews(name: str) -> list[reviews.Review]:
    return [review for review in reviews.REVIEWS if review.group == name]


def _review(review: reviews.Review) -> Object:
    shared = {"singularName": review.kind.lower(), "namespaced": False, "verbs": ["create"]}
    return {"name": review.plural, "kind": review.kind, **shared}


def _resource(resource: Resource) -> Object:
    shown: Object = {
        "name": resource.plural,
        "singularName": resource.singular,
        "namespaced": resource.namespaced,
        "kind": resource.kind,
        "verbs": [v for v in VERBS if v != "deletecollection" or resource.key not in WITHOUT_DELETE_COLLECTION],
        "shortNames": list(resource.short_names),
        "categories": list(resource.categories),
    }
    return {key: value for key, value in shown.items() if value or key not in ("shortNames", "categories")}
