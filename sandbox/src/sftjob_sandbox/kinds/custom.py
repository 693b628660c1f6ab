"""Custom resources as ObjectSchemas, compiled from an accepted CustomResourceDefinition."""

from functools import cached_property
from typing import Any

from sftjob_sandbox.apimachinery import names
from sftjob_sandbox.apimachinery.causes import invalid
from sftjob_sandbox.apimachinery.errors import ApiError, Cause
from sftjob_sandbox.apimachinery.fields import FieldTree
from sftjob_sandbox.apimachinery.metadata import validate_metadata, validate_metadata_update
from sftjob_sandbox.apimachinery.objects import Object, copied
from sftjob_sandbox.builtin.decode import DecodeError, Place, decoder
from sftjob_sandbox.builtin.definitions import OBJECT_META, REFERENCE_PREFIX, definitions, referred
from sftjob_sandbox.crd.rules import compile_rules, run_rules
from sftjob_sandbox.crd.structural import MISSING, default, prune, validate_lists
from sftjob_sandbox.crd.values import ValueSchema

# With one of these, rules are not run: they may rely on what the schema promises.
_BLOCKING = frozenset({
    "FieldValueNotSupported", "FieldValueRequired", "FieldValueTooLong", "FieldValueTooMany", "FieldValueTypeInvalid",
})  # fmt: skip
_NOT_CHECKED = (
    "some validation rules were not checked because the object was invalid; "
    "correct the existing errors to complete validation"
)


class CustomSchema:
    """One version of a custom resource; see ObjectSchema."""

    def __init__(self, definition: Object, version: str) -> None:
        spec = definition["spec"]
        declared = next(entry for entry in spec["versions"] if entry["name"] == version)
        self.group, self.version, self.kind = spec["group"], version, spec["names"]["kind"]
        self.has_status = (declared.get("subresources") or {}).get("status") is not None
        self._schema: Object = declared["schema"]["openAPIV3Schema"]
        self._values = ValueSchema(self._schema)
        self._status = self._values.properties.get("status")
        self._rules = compile_rules(self._schema, root=True)

    def prune(self, obj: Object) -> tuple[Object, list[str]]:
        """Drop what the schema does not have; metadata is decoded as for built-in kinds."""
        place = Place()
        try:
            metadata = decoder(OBJECT_META)(obj.get("metadata") or {}, place)
        except DecodeError as error:
            text = f'{self.kind} in version "{self.version}" cannot be handled as a {self.kind}: {error}'
            raise ApiError(400, "BadRequest", text) from error
        unknown = [f"metadata.{path}" for path in place.unknown]
        pruned: Object = prune(obj, self._schema, "", unknown)
        return {**pruned, "metadata": metadata}, sorted(unknown)

    def default(self, obj: Object) -> Object:
        """A copy with the schema's defaults."""
        result: Object = default(obj, self._schema)
        return result

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        """Metadata, schema, duplicates in lists, then rules."""
        causes = self._type_causes(obj)
        if causes:
            return causes
        if old is None:
            causes = validate_metadata(obj["metadata"], names.dns1123_subdomain)
        else:
            causes = validate_metadata_update(obj["metadata"], old["metadata"])
        causes += self._values.errors(obj, "", old=MISSING if old is None else old)
        return [*causes, *self._list_causes(obj, old), *self._rule_causes(obj, old, causes)]

    def validate_status(self, obj: Object, old: Object) -> list[Cause]:
        """The schema for the status alone; duplicates and rules for the whole object."""
        causes = self._type_causes(obj)
        if causes:
            return causes
        causes = validate_metadata_update(obj["metadata"], old["metadata"])
        if self._status is not None and "status" in obj:
            causes += self._status.errors(obj["status"], "", root="status")
        return [*causes, *self._list_causes(obj, old), *self._rule_causes(obj, old, causes)]

    def _type_causes(self, obj: Object) -> list[Cause]:
        causes = []
        api_version = f"{self.group}/{self.version}"
        if obj.get("kind") != self.kind:
            causes.append(invalid("kind", obj.get("kind", ""), f"must be {self.kind}"))
        if obj.get("apiVersion") != api_version:
            causes.append(invalid("apiVersion", obj.get("apiVersion", ""), f"must be {api_version}"))
        return causes

    def _list_causes(self, obj: Object, old: Object | None) -> list[Cause]:
        """An object that had duplicates already may keep them."""
        if old is not None and validate_lists(old, self._schema, ""):
            return []
        return validate_lists(obj, self._schema, "")

    def _rule_causes(self, obj: Object, old: Object | None, causes: list[Cause]) -> list[Cause]:
        if self._rules is None:
            return []
        if any(cause.reason in _BLOCKING for cause in causes):
            return [invalid("<nil>", None, _NOT_CHECKED)]
        return run_rules(self._rules, obj, "", MISSING if old is None else old)

    def reset_fields(self, subresource: str) -> tuple[tuple[str, ...], ...]:
        """The status belongs to /status, all else does not."""
        if subresource == "status":
            return (("metadata",), *((name,) for name in self._schema.get("properties") or {} if name != "status"))
        return (("status",),) if self.has_status else ()

    @property
    def component(self) -> str:
        """`dev.sftjob.v1alpha1.SFTJob`."""
        return ".".join([*reversed(self.group.split(".")), self.version, self.kind])

    @property
    def zero(self) -> Object:
        """Custom resources have no fields of their own."""
        return {"metadata": {}}

    @cached_property
    def _published(self) -> Object:
        """The declared schema with the fields that every object has."""
        published: dict[str, Any] = copied(self._schema)
        pod = definitions()["io.k8s.api.core.v1.Pod"]["properties"]
        described = {key: {"type": "string", "description": pod[key]["description"]} for key in ("apiVersion", "kind")}
        metadata = {
            "description": pod["metadata"]["description"],
            "allOf": [{"$ref": REFERENCE_PREFIX + OBJECT_META}],
        }
        published["properties"] = {**published.get("properties", {}), **described, "metadata": metadata}
        published["x-kubernetes-group-version-kind"] = [
            {"group": self.group, "version": self.version, "kind": self.kind},
        ]
        return published

    @cached_property
    def fields(self) -> FieldTree:
        """How the kind's fields merge."""
        return FieldTree(self._published, definitions())

    def openapi(self) -> dict[str, Object]:
        """The kind's schema and those it refers to."""
        return {self.component: self._published, **referred(OBJECT_META)}


def custom_schema(definition: Object, version: str) -> CustomSchema:
    """Compile one version of an accepted definition. Raises StopIteration for a version that it does not have."""
    return CustomSchema(definition, version)
