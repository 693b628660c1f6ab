"""Decoding into built-in types, as Go's decoder and encoder do it: strict about types, canonical in form.

A decoded value has no unknown fields, no nulls, none of the empty values that `omitempty` leaves out of JSON, and
quantities and times in canonical form.
"""

import base64
import binascii
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from typing import Any, Final

from sftjob_sandbox.builtin import quantity
from sftjob_sandbox.builtin.definitions import definitions, reference
from sftjob_sandbox.objects import Object

Decode = Callable[[Any, "Place"], Any]

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_JSON_KINDS: Final = {dict: "object", list: "array", str: "string", bool: "bool", int: "number", float: "number"}

# Optional texts that are pointers in Go, so that an empty text is kept.
_POINTER_TEXTS: Final = frozenset({
    "LeaseSpec.holderIdentity", "LeaseSpec.preferredHolder", "LeaseSpec.strategy", "AppArmorProfile.localhostProfile",
    "CSIVolumeSource.fsType", "ClusterTrustBundleProjection.name", "ClusterTrustBundleProjection.signerName",
    "Container.restartPolicy", "HostPathVolumeSource.type", "PersistentVolumeClaimSpec.storageClassName",
    "PersistentVolumeClaimSpec.volumeAttributesClassName", "PersistentVolumeClaimSpec.volumeMode",
    "PodDNSConfigOption.value", "PodSecurityContext.fsGroupChangePolicy", "PodSpec.preemptionPolicy",
    "PodSpec.runtimeClassName", "SeccompProfile.localhostProfile", "SecurityContext.procMount",
    "ServicePort.appProtocol", "ServiceSpec.internalTrafficPolicy", "ServiceSpec.ipFamilyPolicy",
    "ServiceSpec.loadBalancerClass", "TopologySpreadConstraint.nodeAffinityPolicy",
    "TopologySpreadConstraint.nodeTaintsPolicy", "TypedLocalObjectReference.apiGroup", "TypedObjectReference.apiGroup",
    "TypedObjectReference.namespace", "VolumeMount.mountPropagation", "VolumeMount.recursiveReadOnly",
    "Event.reportingComponent", "CustomResourceDefinitionVersion.deprecationWarning",
    "JSONSchemaProps.x-kubernetes-list-type", "JSONSchemaProps.x-kubernetes-map-type", "ValidationRule.reason",
})  # fmt: skip
# Optional booleans and integers that are plain values in Go, so that false and 0 are left out.
_PLAIN_SCALARS: Final = frozenset({
    "Container.stdin", "Container.stdinOnce", "Container.tty", "NFSVolumeSource.readOnly", "NodeSpec.unschedulable",
    "PersistentVolumeClaimVolumeSource.readOnly", "PodSpec.hostIPC", "PodSpec.hostNetwork", "PodSpec.hostPID",
    "ServiceSpec.publishNotReadyAddresses", "VolumeMount.readOnly", "VolumeMountStatus.readOnly",
    "ContainerImage.sizeBytes", "ContainerPort.hostPort", "ContainerStateTerminated.signal", "Event.count",
    "Probe.failureThreshold", "Probe.initialDelaySeconds", "Probe.periodSeconds", "Probe.successThreshold",
    "Probe.timeoutSeconds", "ServicePort.nodePort", "ServiceSpec.healthCheckNodePort",
    "Condition.observedGeneration", "ObjectMeta.generation", "DeploymentSpec.paused", "DeploymentSpec.minReadySeconds",
    "DeploymentStatus.availableReplicas", "DeploymentStatus.observedGeneration", "DeploymentStatus.readyReplicas",
    "DeploymentStatus.replicas", "DeploymentStatus.unavailableReplicas", "DeploymentStatus.updatedReplicas",
    "JSONSchemaProps.exclusiveMaximum", "JSONSchemaProps.exclusiveMinimum", "JSONSchemaProps.nullable",
    "JSONSchemaProps.uniqueItems", "JSONSchemaProps.x-kubernetes-embedded-resource",
    "JSONSchemaProps.x-kubernetes-int-or-string", "CustomResourceColumnDefinition.priority",
    "CustomResourceDefinitionVersion.deprecated", "CustomResourceDefinitionSpec.preserveUnknownFields",
})  # fmt: skip
# Structs (not pointers) that Go's encoder always writes.
_ALWAYS_WRITTEN: Final[Mapping[str, tuple[str, ...]]] = {
    "Container": ("resources",),
    "ContainerStatus": ("lastState", "state"),
    "PersistentVolumeClaimSpec": ("resources",),
    "Event": ("source", "involvedObject"),
    "DeploymentSpec": ("strategy",),
    "ServiceStatus": ("loadBalancer",),
}


class DecodeError(Exception):
    """A value that Go's decoder refuses."""


@dataclass
class Place:
    """Where a value stands, for messages, and the unknown fields found so far."""

    path: list[str] = field(default_factory=list)
    """Names of fields, `[1]` for items of lists, `{key` for values of maps."""
    struct: str = ""
    unknown: list[str] = field(default_factory=list)

    def go_path(self) -> str:
        """`spec.containers.image`: Go leaves indices and keys of maps out."""
        return ".".join(name for name in self.path if name[0] not in "[{")

    def strict_path(self, name: str) -> str:
        """`spec.containers[0].foo`."""
        parts = (part if part[0] == "[" else "." + part.removeprefix("{") for part in [*self.path, name])
        text = "".join(parts)
        return text.removeprefix(".")

    def wrong_type(self, value: Any, go_type: str) -> DecodeError:
        """The error of encoding/json for a value of the wrong type."""
        found = _JSON_KINDS.get(type(value), "null")
        if isinstance(value, int | float) and not isinstance(value, bool) and go_type.startswith("int"):
            found = f"number {value}"
        where = f"Go struct field {self.struct}.{self.go_path()}" if self.path else "Go value"
        return DecodeError(f"json: cannot unmarshal {found} into {where} of type {go_type}")


@cache
def decoder(name: str) -> Decode:
    """Decoder of the published type `name`."""
    if name.endswith(".Quantity"):
        return _quantity
    if name.endswith(".IntOrString"):
        return _int_or_string
    if name.endswith((".Time", ".MicroTime")):
        return _micro_time if name.endswith(".MicroTime") else _time
    if name.endswith((".JSONSchemaPropsOrArray", ".JSONSchemaPropsOrBool", ".JSONSchemaPropsOrStringArray")):
        return _SchemaUnion(name.rpartition(".")[0] + ".JSONSchemaProps")
    if name.endswith(".FieldsV1") or "properties" not in definitions()[name]:
        return _opaque
    return _Struct(name)


def _field_decoder(schema: Mapping[str, Any]) -> Decode:
    name = reference(schema)
    if name is not None:
        return _Lazy(name)
    kind = schema.get("type")
    if kind == "array":
        return _List(_field_decoder(schema["items"]), _go_type(schema))
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return _Map(_field_decoder(schema["additionalProperties"]), _go_type(schema))
    if kind == "string":
        return _bytes if schema.get("format") == "byte" else _string
    if kind == "integer":
        return _int32 if schema.get("format") == "int32" else _int64
    return {"boolean": _boolean, "number": _float}.get(str(kind), _opaque)


def _go_type(schema: Mapping[str, Any]) -> str:
    name = reference(schema)
    if name is not None:
        return "v1." + name.rsplit(".", 1)[1]
    if schema.get("type") == "array":
        return "[]" + _go_type(schema["items"])
    if schema.get("type") == "object":
        values = schema.get("additionalProperties")
        return "map[string]" + (_go_type(values) if isinstance(values, dict) else "interface {}")
    return {"boolean": "bool", "integer": "int32"}.get(str(schema.get("type")), "string")


@dataclass
class _Lazy:
    """A reference, resolved at first use: types may refer to themselves."""

    name: str

    def __call__(self, value: Any, place: Place) -> Any:
        return decoder(self.name)(value, place)


@dataclass
class _List:
    items: Decode
    go_type: str

    def __call__(self, value: Any, place: Place) -> Any:
        if not isinstance(value, list):
            raise place.wrong_type(value, self.go_type)
        result = []
        for index, item in enumerate(value):
            place.path.append(f"[{index}]")
            result.append(_zero(self.items) if item is None else self.items(item, place))
            place.path.pop()
        return result


def _zero(items: Decode) -> Any:
    """What null becomes as an item of a list."""
    return "" if items in (_string, _bytes) else {}


@dataclass
class _Map:
    values: Decode
    go_type: str

    def __call__(self, value: Any, place: Place) -> Any:
        if not isinstance(value, dict):
            raise place.wrong_type(value, self.go_type)
        return {
            str(key): _zero(self.values) if item is None else self.values(item, place) for key, item in value.items()
        }


@dataclass
class _SchemaUnion:
    """Where a CRD's schema has a schema, a list of them, or a boolean."""

    name: str

    def __call__(self, value: Any, place: Place) -> Any:
        if isinstance(value, list):
            return _List(_Lazy(self.name), "[]v1.JSONSchemaProps")(value, place)
        return decoder(self.name)(value, place) if isinstance(value, dict) else value


class _Struct:
    """An object with known fields."""

    def __init__(self, name: str) -> None:
        schema = definitions()[name]
        self.name = name.rsplit(".", 1)[1]
        self.fields = {key: _field_decoder(part) for key, part in schema["properties"].items()}
        required = set(schema.get("required", ()))
        self.omitted = {
            key: self._omits(key, part) for key, part in schema["properties"].items() if key not in required
        }
        self.always = _ALWAYS_WRITTEN.get(self.name, ())

    def _omits(self, key: str, schema: Mapping[str, Any]) -> bool:
        """Whether Go leaves the field out of JSON when it is empty."""
        qualified = f"{self.name}.{key}"
        if schema.get("type") in ("boolean", "integer", "number"):
            return qualified in _PLAIN_SCALARS
        if schema.get("type") == "string":
            return qualified not in _POINTER_TEXTS
        return reference(schema) is None

    def __call__(self, value: Any, place: Place) -> Any:
        if not isinstance(value, dict):
            raise place.wrong_type(value, f"v1.{self.name}")
        result: Object = {}
        outer, place.struct = place.struct, self.name
        for key, item in value.items():
            decode = self.fields.get(key)
            if decode is None:
                place.unknown.append(place.strict_path(key))
                continue
            if item is None:
                continue
            place.path.append(key)
            place.struct = self.name
            decoded = decode(item, place)
            place.path.pop()
            if decoded or not self.omitted.get(key):
                result[key] = decoded
        place.struct = outer
        for key in self.always:
            result.setdefault(key, {})
        return result


def _opaque(value: Any, place: Place) -> Any:  # noqa: ARG001 -- decoders share one signature
    return value


def _string(value: Any, place: Place) -> Any:
    if not isinstance(value, str):
        raise place.wrong_type(value, "string")
    return value


def _boolean(value: Any, place: Place) -> Any:
    if not isinstance(value, bool):
        raise place.wrong_type(value, "bool")
    return value


def _integer(value: Any, place: Place, bits: int) -> Any:
    if isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int) or not -(1 << bits - 1) <= value < 1 << bits - 1:
        raise place.wrong_type(value, f"int{bits}")
    return value


def _int32(value: Any, place: Place) -> Any:
    return _integer(value, place, 32)


def _int64(value: Any, place: Place) -> Any:
    return _integer(value, place, 64)


def _float(value: Any, place: Place) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise place.wrong_type(value, "float64")
    return value


def _bytes(value: Any, place: Place) -> Any:
    try:
        return base64.b64encode(base64.b64decode(_string(value, place).replace("\n", ""), validate=True)).decode()
    except (binascii.Error, ValueError) as error:
        position = next((i for i, c in enumerate(value) if not re.match(r"[A-Za-z0-9+/=\r\n]", c)), len(value))
        raise DecodeError(f"illegal base64 data at input byte {position}") from error


def _quantity(value: Any, place: Place) -> Any:  # noqa: ARG001 -- decoders share one signature
    try:
        return quantity.canonical(value)
    except ValueError as error:
        raise DecodeError(str(error)) from error


def _int_or_string(value: Any, place: Place) -> Any:
    if isinstance(value, str):
        return value
    return _integer(value, place, 32)


def _moment(value: Any, place: Place) -> datetime:
    text = _string(value, place)
    if not _TIME.fullmatch(text):
        layout = "2006-01-02T15:04:05Z07:00"
        raise DecodeError(f'parsing time "{text}" as "{layout}": cannot parse "{text}" as "2006"')
    return datetime.fromisoformat(text.upper()).astimezone(UTC)


def _time(value: Any, place: Place) -> Any:
    return _moment(value, place).strftime("%Y-%m-%dT%H:%M:%SZ")


def _micro_time(value: Any, place: Place) -> Any:
    return _moment(value, place).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
