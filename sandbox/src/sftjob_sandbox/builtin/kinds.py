"""Built-in kinds as ObjectSchemas."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Final

from sftjob_sandbox import names
from sftjob_sandbox.builtin import access, defaults, network, others
from sftjob_sandbox.builtin.claims import validate_claim, validate_claim_status
from sftjob_sandbox.builtin.config import validate_config_map, validate_secret
from sftjob_sandbox.builtin.decode import DecodeError, Place, decoder
from sftjob_sandbox.builtin.definitions import definitions, referred
from sftjob_sandbox.builtin.pod_admission import admit_pod, tolerate_node_problems
from sftjob_sandbox.builtin.pods import validate_pod, validate_pod_status
from sftjob_sandbox.builtin.services import admit_service
from sftjob_sandbox.causes import invalid
from sftjob_sandbox.crd.definition import check_definition_update
from sftjob_sandbox.errors import ApiError, Cause
from sftjob_sandbox.fields import FieldTree
from sftjob_sandbox.jsoncopy import copied
from sftjob_sandbox.metadata import NameRule, validate_metadata, validate_metadata_update
from sftjob_sandbox.objects import Object

Check = Callable[[Object, Object | None], list[Cause]]


@dataclass(frozen=True)
class _Rules:
    """What differs between kinds, beside their fields."""

    definition: str
    namespaced: bool = True
    has_status: bool = False
    name_rule: NameRule = names.dns1123_subdomain
    default: Callable[[Object], None] | None = None
    """Sets defaults in place, on this server's own copy."""
    validate: Check | None = None
    validate_status: Callable[[Object, Object], list[Cause]] | None = None
    zero: Mapping[str, Any] = field(default_factory=dict)
    """What Go writes of an object with nothing set, beside its metadata."""


_TEMPLATE: Final = {"metadata": {"creationTimestamp": None}, "spec": {"containers": None}}
_NO_ROLE: Final = {"apiGroup": "", "kind": "", "name": ""}
_KINDS: Final[Mapping[tuple[str, str, str], _Rules]] = {
    ("", "v1", "Pod"): _Rules(
        "io.k8s.api.core.v1.Pod",
        has_status=True,
        default=defaults.default_pod,
        validate=validate_pod,
        validate_status=validate_pod_status,
        zero={"spec": {"containers": None}, "status": {}},
    ),
    ("", "v1", "PersistentVolumeClaim"): _Rules(
        "io.k8s.api.core.v1.PersistentVolumeClaim",
        has_status=True,
        default=defaults.default_claim,
        validate=validate_claim,
        validate_status=validate_claim_status,
        zero={"spec": {"resources": {}}, "status": {}},
    ),
    ("", "v1", "ConfigMap"): _Rules("io.k8s.api.core.v1.ConfigMap", validate=validate_config_map),
    ("", "v1", "Secret"): _Rules(
        "io.k8s.api.core.v1.Secret", default=defaults.default_secret, validate=validate_secret
    ),
    ("", "v1", "Namespace"): _Rules(
        "io.k8s.api.core.v1.Namespace",
        namespaced=False,
        has_status=True,
        name_rule=names.dns1123_label,
        default=defaults.default_namespace,
        validate_status=others.validate_namespace_status,
        zero={"spec": {}, "status": {}},
    ),
    ("", "v1", "Node"): _Rules(
        "io.k8s.api.core.v1.Node",
        namespaced=False,
        has_status=True,
        default=defaults.default_node,
        zero={"spec": {}, "status": {}},
    ),
    ("", "v1", "ServiceAccount"): _Rules("io.k8s.api.core.v1.ServiceAccount"),
    ("", "v1", "Event"): _Rules(
        "io.k8s.api.core.v1.Event",
        validate=others.validate_event,
        zero={
            "involvedObject": {},
            "source": {},
            **dict.fromkeys(("firstTimestamp", "lastTimestamp", "eventTime")),
            **dict.fromkeys(("reportingComponent", "reportingInstance"), ""),
        },
    ),
    ("", "v1", "Service"): _Rules(
        "io.k8s.api.core.v1.Service",
        has_status=True,
        name_rule=names.dns1035_label,
        default=defaults.default_service,
        validate=others.validate_service,
        zero={"spec": {}, "status": {"loadBalancer": {}}},
    ),
    ("apps", "v1", "Deployment"): _Rules(
        "io.k8s.api.apps.v1.Deployment",
        has_status=True,
        default=defaults.default_deployment,
        validate=others.validate_deployment,
        zero={"spec": {"selector": None, "strategy": {}, "template": _TEMPLATE}, "status": {}},
    ),
    ("networking.k8s.io", "v1", "NetworkPolicy"): _Rules(
        "io.k8s.api.networking.v1.NetworkPolicy",
        default=network.default_network_policy,
        validate=network.validate_network_policy,
        zero={"spec": {"podSelector": {}}},
    ),
    (access.GROUP, "v1", "Role"): _Rules(
        "io.k8s.api.rbac.v1.Role", name_rule=names.path_segment, validate=access.validate_role, zero={"rules": None}
    ),
    (access.GROUP, "v1", "ClusterRole"): _Rules(
        "io.k8s.api.rbac.v1.ClusterRole",
        namespaced=False,
        name_rule=names.path_segment,
        validate=access.validate_cluster_role,
        zero={"rules": None},
    ),
    (access.GROUP, "v1", "RoleBinding"): _Rules(
        "io.k8s.api.rbac.v1.RoleBinding",
        name_rule=names.path_segment,
        default=access.default_binding,
        validate=access.validate_role_binding,
        zero={"roleRef": _NO_ROLE},
    ),
    (access.GROUP, "v1", "ClusterRoleBinding"): _Rules(
        "io.k8s.api.rbac.v1.ClusterRoleBinding",
        namespaced=False,
        name_rule=names.path_segment,
        default=access.default_binding,
        validate=access.validate_cluster_role_binding,
        zero={"roleRef": _NO_ROLE},
    ),
    ("coordination.k8s.io", "v1", "Lease"): _Rules(
        "io.k8s.api.coordination.v1.Lease", validate=others.validate_lease, zero={"spec": {}}
    ),
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"): _Rules(
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceDefinition",
        namespaced=False,
        has_status=True,
        default=defaults.default_definition,
        validate=lambda obj, old: [] if old is None else check_definition_update(obj, old),
        zero={
            "spec": {"group": "", "names": {"plural": "", "kind": ""}, "scope": "", "versions": None},
            "status": {"conditions": None, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": None},
        },
    ),
}
_STANDARD_FINALIZERS: Final = frozenset({
    "kubernetes", "orphan", "foregroundDeletion",
})  # fmt: skip


class BuiltinSchema:
    """One built-in kind; see ObjectSchema."""

    def __init__(self, group: str, version: str, kind: str) -> None:
        self.group, self.version, self.kind = group, version, kind
        self._rules = _KINDS[(group, version, kind)]
        self.namespaced = self._rules.namespaced
        self.has_status = self._rules.has_status

    @property
    def component(self) -> str:
        """Name of the published type."""
        return self._rules.definition

    def reset_fields(self, subresource: str) -> tuple[tuple[str, ...], ...]:
        """The status belongs to /status, the spec does not."""
        if subresource == "status":
            return (("spec",), ("metadata", "deletionTimestamp"), ("metadata", "ownerReferences"))
        return (("status",),) if self.has_status else ()

    @property
    def zero(self) -> Object:
        """An object with nothing set, as Go encodes it."""
        return {"metadata": {"creationTimestamp": None}, **self._rules.zero}

    @cached_property
    def fields(self) -> FieldTree:
        """How the kind's fields merge."""
        return FieldTree(definitions()[self.component], definitions())

    def openapi(self) -> dict[str, Object]:
        """The published type and those it refers to."""
        return referred(self.component)

    def prune(self, obj: Object) -> tuple[Object, list[str]]:
        """Decode and encode as Go does."""
        place = Place()
        try:
            decoded: Object = decoder(self.component)(obj, place)
        except DecodeError as error:
            text = f'{self.kind} in version "{self.version}" cannot be handled as a {self.kind}: {error}'
            raise ApiError(400, "BadRequest", text) from error
        decoded.setdefault("metadata", {})
        return decoded, place.unknown

    def default(self, obj: Object) -> Object:
        """A copy with the kind's defaults."""
        result: Object = copied(obj)
        if self._rules.default is not None:
            self._rules.default(result)
        return result

    def admit(self, obj: Object, service_account: Object | None) -> Object:
        """What admission makes of a new Pod or Service; other kinds pass as they are."""
        if self.kind == "Service":
            return admit_service(obj)
        return admit_pod(obj, service_account) if self.kind == "Pod" else obj

    def admit_update(self, obj: Object) -> Object:
        """What admission makes of a changed Pod; other kinds pass as they are."""
        if self.kind != "Pod":
            return obj
        result: Object = copied(obj)
        tolerate_node_problems(result["spec"])
        return result

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        """Metadata, then the kind's own rules."""
        own = self._rules.validate(obj, old) if self._rules.validate else []
        return list(dict.fromkeys([*self._metadata(obj, old), *own]))

    def validate_status(self, obj: Object, old: Object) -> list[Cause]:
        """Metadata, then the kind's rules for its status."""
        own = self._rules.validate_status(obj, old) if self._rules.validate_status else []
        return list(dict.fromkeys([*self._metadata(obj, old), *own]))

    def _metadata(self, obj: Object, old: Object | None) -> list[Cause]:
        metadata, rules = obj["metadata"], self._rules
        causes = []
        if old is not None:
            causes += validate_metadata_update(metadata, old["metadata"])
        else:
            causes += validate_metadata(metadata, namespaced=rules.namespaced, name_rule=rules.name_rule)
        if self.group == "apiextensions.k8s.io":
            return causes
        for index, name in enumerate(metadata.get("finalizers") or ()):
            if "/" not in name and name not in _STANDARD_FINALIZERS:
                text = "name is neither a standard finalizer name nor is it fully qualified"
                causes.append(invalid(f"metadata.finalizers[{index}]", name, text))
        return causes


@cache
def builtin_schema(group: str, version: str, kind: str) -> BuiltinSchema:
    """The schema of a built-in kind. Raises KeyError for one that is not served."""
    return BuiltinSchema(group, version, kind)
