"""Built-in kinds as ObjectSchemas."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property
from typing import Any, Final

from sftjob_sandbox.apimachinery import names
from sftjob_sandbox.apimachinery.causes import invalid
from sftjob_sandbox.apimachinery.errors import ApiError, Cause
from sftjob_sandbox.apimachinery.fields import FieldTree
from sftjob_sandbox.apimachinery.metadata import NameRule, validate_metadata, validate_metadata_update
from sftjob_sandbox.apimachinery.objects import Object, copied
from sftjob_sandbox.builtin import defaults, others
from sftjob_sandbox.builtin.claims import validate_claim
from sftjob_sandbox.builtin.decode import DecodeError, Place, decoder
from sftjob_sandbox.builtin.definitions import definitions, missing_fields, referred
from sftjob_sandbox.builtin.pods import validate_pod
from sftjob_sandbox.crd.definition import check_definition_update

Check = Callable[[Object, Object | None], list[Cause]]


@dataclass(frozen=True)
class _Rules:
    """What differs between kinds, besides their fields."""

    package: str
    """Kubernetes' API package that publishes the type."""
    has_status: bool = False
    name_rule: NameRule = names.dns1123_subdomain
    default: Callable[[Object], None] | None = None
    """Sets defaults in place, on this server's own copy."""
    validate: Check | None = None
    zero: Mapping[str, Any] = field(default_factory=dict)
    """How Go encodes an object with nothing set, besides its metadata."""


_TEMPLATE: Final = {"metadata": {"creationTimestamp": None}, "spec": {"containers": None}}
_RBAC: Final = "rbac.authorization.k8s.io"
_NO_ROLE: Final = {"apiGroup": "", "kind": "", "name": ""}
_EVENT_ZERO: Final[Object] = {
    "involvedObject": {},
    "source": {},
    **dict.fromkeys(("firstTimestamp", "lastTimestamp", "eventTime")),
    **dict.fromkeys(("reportingComponent", "reportingInstance"), ""),
}
_DEFINITION_ZERO: Final = {
    "spec": {"group": "", "names": {"plural": "", "kind": ""}, "scope": "", "versions": None},
    "status": {"conditions": None, "acceptedNames": {"plural": "", "kind": ""}, "storedVersions": None},
}
_KINDS: Final[Mapping[tuple[str, str, str], _Rules]] = {
    ("", "v1", "Pod"): _Rules(
        "core", True, default=defaults.default_pod, validate=validate_pod,
        zero={"spec": {"containers": None}, "status": {}},
    ),
    ("", "v1", "PersistentVolumeClaim"): _Rules(
        "core", True, default=defaults.default_claim, validate=validate_claim,
        zero={"spec": {"resources": {}}, "status": {}},
    ),
    ("", "v1", "ConfigMap"): _Rules("core", validate=others.validate_config_map),
    ("", "v1", "Secret"): _Rules("core", default=defaults.default_secret, validate=others.validate_secret),
    ("", "v1", "Namespace"): _Rules(
        "core", True, names.dns1123_label, default=defaults.default_namespace, zero={"spec": {}, "status": {}}
    ),
    ("", "v1", "Node"): _Rules("core", True, zero={"spec": {}, "status": {}}),
    ("", "v1", "ServiceAccount"): _Rules("core"),
    ("", "v1", "Event"): _Rules("core", validate=others.validate_event, zero=_EVENT_ZERO),
    ("", "v1", "Service"): _Rules(
        "core", True, names.dns1035_label, default=defaults.default_service, validate=others.validate_service,
        zero={"spec": {}, "status": {"loadBalancer": {}}},
    ),
    ("apps", "v1", "Deployment"): _Rules(
        "apps", True, default=defaults.default_deployment, validate=others.validate_deployment,
        zero={"spec": {"selector": None, "strategy": {}, "template": _TEMPLATE}, "status": {}},
    ),
    ("networking.k8s.io", "v1", "NetworkPolicy"): _Rules("networking", zero={"spec": {"podSelector": {}}}),
    (_RBAC, "v1", "Role"): _Rules("rbac", name_rule=names.path_segment, zero={"rules": None}),
    (_RBAC, "v1", "ClusterRole"): _Rules("rbac", name_rule=names.path_segment, zero={"rules": None}),
    (_RBAC, "v1", "RoleBinding"): _Rules(
        "rbac", name_rule=names.path_segment, default=defaults.default_binding, validate=others.validate_binding,
        zero={"roleRef": _NO_ROLE},
    ),
    (_RBAC, "v1", "ClusterRoleBinding"): _Rules(
        "rbac", name_rule=names.path_segment, default=defaults.default_binding,
        validate=others.validate_binding, zero={"roleRef": _NO_ROLE},
    ),
    ("coordination.k8s.io", "v1", "Lease"): _Rules("coordination", zero={"spec": {}}),
    ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"): _Rules(
        "apiextensions", True, default=defaults.default_definition,
        validate=lambda obj, old: [] if old is None else check_definition_update(obj, old), zero=_DEFINITION_ZERO,
    ),
}  # fmt: skip
_STANDARD_FINALIZERS: Final = ("kubernetes", "orphan", "foregroundDeletion")


class BuiltinSchema:
    """One built-in kind; see ObjectSchema."""

    def __init__(self, group: str, version: str, kind: str) -> None:
        self.group, self.version, self.kind = group, version, kind
        self._rules = _KINDS[(group, version, kind)]
        self.has_status = self._rules.has_status

    @property
    def component(self) -> str:
        """Name of the published type."""
        if self._rules.package == "apiextensions":
            return f"io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.{self.version}.{self.kind}"
        return f"io.k8s.api.{self._rules.package}.{self.version}.{self.kind}"

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

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        """Metadata, then required fields, then the kind's own rules."""
        own = self._rules.validate(obj, old) if self._rules.validate else []
        declared = {**{key: value for key, value in obj.items() if key != "status"}, "metadata": {}}
        return list(dict.fromkeys([*self._metadata(obj, old), *missing_fields(self.component, declared), *own]))

    def validate_status(self, obj: Object, old: Object) -> list[Cause]:
        """Metadata alone."""
        return self._metadata(obj, old)

    def _metadata(self, obj: Object, old: Object | None) -> list[Cause]:
        metadata, rules = obj["metadata"], self._rules
        causes = []
        if old is not None:
            causes += validate_metadata_update(metadata, old["metadata"])
        else:
            causes += validate_metadata(metadata, rules.name_rule)
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
