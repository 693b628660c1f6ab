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
from functools import cache, partial
from typing import Any, Final

from sftjob_sandbox.apimachinery import quantity
from sftjob_sandbox.apimachinery.objects import Object
from sftjob_sandbox.builtin.definitions import definitions, reference

Decode = Callable[[Any, "Place"], Any]

_TIME: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")
_JSON_KINDS: Final = {dict: "object", list: "array", str: "string", bool: "bool", int: "number", float: "number"}
_UNIONS: Final = (".JSONSchemaPropsOrArray", ".JSONSchemaPropsOrBool", ".JSONSchemaPropsOrStringArray")

# Optional texts that are pointers in Go, so that an empty text is kept.
_POINTER_TEXTS: Final = frozenset({
    "LeaseSpec.holderIdentity", "LeaseSpec.preferredHolder", "LeaseSpec.strategy", "Container.restartPolicy",
    "PersistentVolumeClaimSpec.storageClassName", "PersistentVolumeClaimSpec.volumeAttributesClassName",
    "PersistentVolumeClaimSpec.volumeMode", "PodSecurityContext.fsGroupChangePolicy", "PodSpec.preemptionPolicy",
    "PodSpec.runtimeClassName", "SeccompProfile.localhostProfile", "SecurityContext.procMount",
    "ServicePort.appProtocol", "ServiceSpec.internalTrafficPolicy", "ServiceSpec.ipFamilyPolicy",
    "ServiceSpec.loadBalancerClass", "VolumeMount.mountPropagation", "VolumeMount.recursiveReadOnly",
    "Event.reportingComponent", "CustomResourceDefinitionVersion.deprecationWarning",
    "JSONSchemaProps.x-kubernetes-list-type", "JSONSchemaProps.x-kubernetes-map-type", "ValidationRule.reason",
})  # fmt: skip
# Optional booleans and integers that are plain values in Go, so that false and 0 are left out.
_PLAIN_SCALARS: Final = frozenset({
    "Container.stdin", "Container.stdinOnce", "Container.tty", "NodeSpec.unschedulable",
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
    """Where a value is, for messages, and the unknown fields found so far."""

    path: list[str] = field(default_factory=list)
    """Names of fields, and `[1]` for items of lists."""
    struct: str = ""
    unknown: list[str] = field(default_factory=list)

    def strict_path(self, name: str) -> str:
        """`spec.containers[0].foo`."""
        return "".join(part if part[0] == "[" else f".{part}" for part in [*self.path, name]).removeprefix(".")

    def wrong_type(self, value: Any, go_type: str) -> DecodeError:
        """The error of encoding/json for a value of the wrong type; its paths have no indices."""
        found = _JSON_KINDS.get(type(value), "null")
        if found == "number" and go_type.startswith("int"):
            found = f"number {value}"
        names = ".".join(name for name in self.path if name[0] != "[")
        where = f"Go struct field {self.struct}.{names}" if self.path else "Go value"
        return DecodeError(f"json: cannot unmarshal {found} into {where} of type {go_type}")


@cache
def decoder(name: str) -> Decode:
    """Decoder of the published type `name`."""
    kind = name.rpartition(".")[2]
    known: dict[str, Decode] = {
        "Quantity": _quantity, "IntOrString": _int_or_string, "Time": _time, "MicroTime": _micro_time,
        "FieldsV1": _opaque,
    }  # fmt: skip
    if kind in known:
        return known[kind]
    if name.endswith(_UNIONS):
        return lambda value, place: _union(name.rpartition(".")[0] + ".JSONSchemaProps", value, place)
    return _Struct(name) if "properties" in definitions()[name] else _opaque


def _union(name: str, value: Any, place: "Place") -> Any:
    """Where a CRD's schema has a schema, a list of them, or a boolean."""
    if isinstance(value, list):
        return [_union(name, item, place) for item in value]
    return decoder(name)(value, place) if isinstance(value, dict) else value


def _decode(name: str, value: Any, place: Place) -> Any:
    return decoder(name)(value, place)


def _field_decoder(schema: Mapping[str, Any]) -> Decode:
    name = reference(schema)
    if name is not None:
        return partial(_decode, name)  # at first use: types may refer to themselves
    kind, form, values = schema.get("type"), schema.get("format"), schema.get("additionalProperties")
    if kind == "array":
        items, go_type = _field_decoder(schema["items"]), _go_type(schema)
        empty: Any = "" if schema["items"].get("type") == "string" else {}
        return lambda value, place: _list(value, place, items, go_type, empty)
    if kind == "object" and isinstance(values, dict):
        below, go_type = _field_decoder(values), _go_type(schema)
        return lambda value, place: _map(value, place, below, go_type)
    known: dict[Any, Decode] = {
        ("string", "byte"): _bytes, ("integer", "int32"): _int32, ("integer", "int64"): _int64,
        ("number", "double"): _float, ("boolean", None): _boolean,
    }  # fmt: skip
    return known.get((kind, form)) or {"string": _string, "integer": _int64}.get(str(kind), _opaque)


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


def _list(value: Any, place: Place, items: Decode, go_type: str, empty: Any) -> Any:
    if not isinstance(value, list):
        raise place.wrong_type(value, go_type)
    result = []
    for index, item in enumerate(value):
        place.path.append(f"[{index}]")
        result.append(empty if item is None else items(item, place))
        place.path.pop()
    return result


def _map(value: Any, place: Place, values: Decode, go_type: str) -> Any:
    if not isinstance(value, dict):
        raise place.wrong_type(value, go_type)
    return {str(key): "" if item is None else values(item, place) for key, item in value.items()}


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
        outer = place.struct
        for key, item in value.items():
            decode = self.fields.get(key)
            if decode is None:
                place.unknown.append(place.strict_path(key))
            elif item is not None:
                place.path.append(key)
                place.struct = self.name
                decoded = decode(item, place)
                place.path.pop()
                if decoded or not self.omitted.get(key):
                    result[key] = decoded
        place.struct = outer
        return {**{key: {} for key in _ALWAYS_WRITTEN.get(self.name, ())}, **result}


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
    return value if isinstance(value, str) else _integer(value, place, 32)


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
