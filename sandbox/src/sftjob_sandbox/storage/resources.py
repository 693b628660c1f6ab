"""What the server serves: the built-in resources, and those that CustomResourceDefinitions add."""

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from sftjob_sandbox.apimachinery.objects import Object
from sftjob_sandbox.apimachinery.schemas import ObjectSchema
from sftjob_sandbox.kinds.builtin import builtin_schema
from sftjob_sandbox.kinds.custom import custom_schema

DEFINITIONS: Final = "customresourcedefinitions.apiextensions.k8s.io"
"""Key of the resource that defines resources."""
VERBS: Final = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True)
class ServedVersion:
    """One version of a resource. `columns` are a CRD's additionalPrinterColumns."""

    name: str
    schema: ObjectSchema
    subresources: frozenset[str] = frozenset()
    columns: tuple[Object, ...] = ()
    notice: str = ""
    """Warning that every answer to a write carries."""


@dataclass(frozen=True)
class Resource:
    """One kind of object that can be stored."""

    group: str
    plural: str
    kind: str
    versions: tuple[ServedVersion, ...]
    storage_version: str
    namespaced: bool = True
    singular: str = ""
    list_kind: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    custom: bool = False
    returns_deleted: bool = False
    """Whether DELETE answers with the object instead of a Status."""
    unconditional_update: bool = True
    """Whether PUT without a resourceVersion is accepted."""

    @property
    def key(self) -> str:
        """`pods`, `sftjobs.sftjob.dev`: how errors name it and storage files it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    def api_version(self, version: str) -> str:
        """`v1`, `sftjob.dev/v1alpha1`."""
        return f"{self.group}/{version}" if self.group else version

    def served(self, version: str) -> ServedVersion | None:
        """The version of this name, if it is served."""
        return next((v for v in self.versions if v.name == version), None)


class _BuiltIn(NamedTuple):
    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    returns_deleted: bool = False
    unconditional_update: bool = True
    notice: str = ""


_RBAC: Final = "rbac.authorization.k8s.io"
_RBAC_NOTICE: Final = "this emulator keeps RBAC objects and authorizes nothing by them"
_BUILT_IN: Final = (
    _BuiltIn("", "v1", "namespaces", "Namespace", namespaced=False, short_names=("ns",), subresources=("status",)),
    _BuiltIn("", "v1", "nodes", "Node", namespaced=False, short_names=("no",), subresources=("status",)),
    _BuiltIn("", "v1", "configmaps", "ConfigMap", short_names=("cm",)),
    _BuiltIn("", "v1", "secrets", "Secret"),
    _BuiltIn("", "v1", "serviceaccounts", "ServiceAccount", True, ("sa",), (), ("token",), returns_deleted=True),
    _BuiltIn("", "v1", "services", "Service", True, ("svc",), ("all",), ("status",), returns_deleted=True),
    _BuiltIn("", "v1", "events", "Event", short_names=("ev",)),
    _BuiltIn("", "v1", "pods", "Pod", True, ("po",), ("all",), ("status", "log"), returns_deleted=True),
    _BuiltIn(
        "", "v1", "persistentvolumeclaims", "PersistentVolumeClaim", True, ("pvc",), (), ("status",), True
    ),
    _BuiltIn(
        "apps", "v1", "deployments", "Deployment", True, ("deploy",), ("all",), ("status",),
        notice="this emulator keeps Deployments and makes no Pods of them",
    ),
    _BuiltIn(
        "networking.k8s.io", "v1", "networkpolicies", "NetworkPolicy", True, ("netpol",),
        notice="this emulator keeps NetworkPolicies and does not isolate Pods",
    ),
    _BuiltIn(_RBAC, "v1", "roles", "Role", notice=_RBAC_NOTICE),
    _BuiltIn(_RBAC, "v1", "rolebindings", "RoleBinding", notice=_RBAC_NOTICE),
    _BuiltIn(_RBAC, "v1", "clusterroles", "ClusterRole", namespaced=False, notice=_RBAC_NOTICE),
    _BuiltIn(_RBAC, "v1", "clusterrolebindings", "ClusterRoleBinding", namespaced=False, notice=_RBAC_NOTICE),
    _BuiltIn("coordination.k8s.io", "v1", "leases", "Lease", unconditional_update=False),
    _BuiltIn(
        "apiextensions.k8s.io", "v1", "customresourcedefinitions", "CustomResourceDefinition", False, ("crd", "crds"),
        ("api-extensions",), ("status",), unconditional_update=False,
    ),
)  # fmt: skip


def built_in_resources() -> Iterator[Resource]:
    """Every built-in resource."""
    for row in _BUILT_IN:
        schema = builtin_schema(row.group, row.version, row.kind)
        yield Resource(
            group=row.group,
            plural=row.plural,
            kind=row.kind,
            versions=(ServedVersion(row.version, schema, frozenset(row.subresources), notice=row.notice),),
            storage_version=row.version,
            namespaced=row.namespaced,
            singular=row.kind.lower(),
            list_kind=f"{row.kind}List",
            short_names=row.short_names,
            categories=row.categories,
            returns_deleted=row.returns_deleted,
            unconditional_update=row.unconditional_update,
        )


def custom_resource(definition: Object) -> Resource:
    """The resource that an accepted CustomResourceDefinition defines."""
    spec, names = definition["spec"], definition["spec"]["names"]
    versions = [version for version in spec["versions"] if version["served"]]
    return Resource(
        group=spec["group"],
        plural=names["plural"],
        kind=names["kind"],
        versions=tuple(_served_version(definition, version) for version in versions),
        storage_version=next(version["name"] for version in spec["versions"] if version["storage"]),
        namespaced=spec["scope"] == "Namespaced",
        singular=names.get("singular") or names["kind"].lower(),
        list_kind=names.get("listKind") or f"{names['kind']}List",
        short_names=tuple(names.get("shortNames") or ()),
        categories=tuple(names.get("categories") or ()),
        custom=True,
        unconditional_update=False,
    )


def _served_version(definition: Object, version: Object) -> ServedVersion:
    return ServedVersion(
        name=version["name"],
        schema=custom_schema(definition, version["name"]),
        subresources=frozenset(name for name in version.get("subresources") or {} if name == "status"),
        columns=tuple(version.get("additionalPrinterColumns") or ()),
    )


@dataclass
class Catalog:
    """The resources served now."""

    resources: dict[str, Resource] = field(default_factory=lambda: {r.key: r for r in built_in_resources()})

    def find(self, group: str, version: str, plural: str) -> Resource | None:
        """The resource of a request's path."""
        found = self.resources.get(f"{plural}.{group}" if group else plural)
        return found if found and found.served(version) else None

    def of_kind(self, group: str, kind: str) -> Resource | None:
        """The resource that stores objects of a kind."""
        return next((r for r in self.resources.values() if r.group == group and r.kind == kind), None)
