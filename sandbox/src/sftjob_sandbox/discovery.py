"""Discovery: which groups, versions and resources there are, each at its own path or all in one document."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from sftjob_sandbox.answers import accepted
from sftjob_sandbox.objects import Object
from sftjob_sandbox.resources import VERBS, Catalog, Resource
from sftjob_sandbox.reviews import REVIEWS
from sftjob_sandbox.reviews import VERSION as REVIEW_VERSION

AGGREGATED: Final = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"
_SUBRESOURCE_VERBS: Final = {"status": ("get", "patch", "update"), "log": ("get",), "token": ("create",)}
_SUBRESOURCE_KINDS: Final = {"token": ("authentication.k8s.io", "v1", "TokenRequest")}
# As on a real server: namespaces are emptied one by one, never as a collection.
WITHOUT_DELETE_COLLECTION: Final = ("namespaces",)


@dataclass(frozen=True, kw_only=True)
class _Served:
    """One resource or subresource, as discovery tells it."""

    name: str
    kind: tuple[str, str, str]
    namespaced: bool
    verbs: tuple[str, ...]
    singular: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()


def wants_aggregated(accept: str) -> bool:
    """Whether a client understands all groups in one document."""
    wanted = ("apidiscovery.k8s.io", "v2", "APIGroupDiscoveryList")
    return any(tuple(p.get(key) for key in ("g", "v", "as")) == wanted for _, p in accepted(accept))


def versions(address: str) -> Object:
    """/api."""
    addresses = [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}]
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": addresses}


def group_list(catalog: Catalog) -> Object:
    """/apis."""
    groups = [_group(catalog, name) for name in _groups(catalog) if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def group(catalog: Catalog, name: str) -> Object | None:
    """/apis/GROUP."""
    if name not in _groups(catalog) or not name:
        return None
    return {"kind": "APIGroup", "apiVersion": "v1", **_group(catalog, name)}


def resource_list(catalog: Catalog, name: str, version: str) -> Object | None:
    """/api/v1 and /apis/GROUP/VERSION."""
    if version not in _versions(catalog, name):
        return None
    resources = [_flat(served) for _, subs in _resources(catalog, name, version) for served in subs]
    group_version = f"{name}/{version}" if name else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": resources}


def aggregated(catalog: Catalog, *, legacy: bool) -> Object:
    """/api (`legacy`) or /apis as one document."""
    names = [name for name in _groups(catalog) if bool(name) != legacy]
    items = [
        {
            "metadata": {"name": name} if name else {},
            "versions": [_aggregated_version(catalog, name, version) for version in _versions(catalog, name)],
        }
        for name in names
    ]
    return {"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items}


def _groups(catalog: Catalog) -> list[str]:
    """Every group, built-in ones first."""
    reviews = {review.group for review in REVIEWS}
    built_in = {r.group for r in catalog.resources.values() if not r.custom} | reviews
    return [*sorted(built_in), *sorted({r.group for r in catalog.resources.values()} - built_in)]


def _versions(catalog: Catalog, name: str) -> list[str]:
    """Versions of a group, the preferred one first."""
    found = [v.name for r in catalog.resources.values() if r.group == name for v in r.versions]
    found += [REVIEW_VERSION for review in REVIEWS if review.group == name]
    return list(dict.fromkeys(found))


def _group(catalog: Catalog, name: str) -> Object:
    told = [{"groupVersion": f"{name}/{version}", "version": version} for version in _versions(catalog, name)]
    return {"name": name, "versions": told, "preferredVersion": told[0]}


def _resources(catalog: Catalog, group_name: str, version: str) -> Iterator[tuple[_Served, list[_Served]]]:
    """Each resource of a version, and the list of itself and its subresources."""
    for resource in sorted(catalog.resources.values(), key=lambda r: r.plural):
        if resource.group == group_name and (served := resource.served(version)):
            main = _main(resource, version)
            yield main, [main, *(_sub(main, name) for name in sorted(served.subresources))]
    for review in REVIEWS:
        if (review.group, REVIEW_VERSION) == (group_name, version):
            kind = (review.group, REVIEW_VERSION, review.kind)
            main = _Served(
                name=review.plural,
                kind=kind,
                namespaced=review.namespaced,
                verbs=("create",),
                singular=review.kind.lower(),
            )
            yield main, [main]


def _main(resource: Resource, version: str) -> _Served:
    verbs = tuple(v for v in VERBS if v != "deletecollection" or resource.key not in WITHOUT_DELETE_COLLECTION)
    return _Served(
        name=resource.plural,
        kind=(resource.group, version, resource.kind),
        namespaced=resource.namespaced,
        verbs=verbs,
        singular=resource.singular,
        short_names=resource.short_names,
        categories=resource.categories,
    )


def _sub(main: _Served, name: str) -> _Served:
    return _Served(
        name=f"{main.name}/{name}",
        kind=_SUBRESOURCE_KINDS.get(name, main.kind),
        namespaced=main.namespaced,
        verbs=_SUBRESOURCE_VERBS[name],
    )


def _flat(served: _Served) -> Object:
    group_name, version, kind = served.kind
    told: Object = {
        "name": served.name,
        "singularName": served.singular,
        "namespaced": served.namespaced,
        "kind": kind,
        "verbs": list(served.verbs),
    }
    if "/" in served.name and served.name.endswith("/token"):
        told |= {"group": group_name, "version": version}
    if served.short_names:
        told["shortNames"] = list(served.short_names)
    if served.categories:
        told["categories"] = list(served.categories)
    return told


def _aggregated_version(catalog: Catalog, name: str, version: str) -> Object:
    resources = [_aggregated_resource(main, subs) for main, subs in _resources(catalog, name, version)]
    return {"version": version, "resources": resources, "freshness": "Current"}


def _aggregated_resource(main: _Served, subs: list[_Served]) -> Object:
    told: Object = {
        "resource": main.name,
        "responseKind": _kind(main),
        "scope": "Namespaced" if main.namespaced else "Cluster",
        "singularResource": main.singular,
        "verbs": list(main.verbs),
    }
    if main.short_names:
        told["shortNames"] = list(main.short_names)
    if main.categories:
        told["categories"] = list(main.categories)
    if subs[1:]:
        told["subresources"] = [
            {"subresource": sub.name.split("/")[1], "responseKind": _kind(sub), "verbs": list(sub.verbs)}
            for sub in subs[1:]
        ]
    return told


def _kind(served: _Served) -> Object:
    return dict(zip(("group", "version", "kind"), served.kind, strict=True))
