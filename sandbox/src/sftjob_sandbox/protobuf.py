"""Decoder of the protobuf bodies that client-go's typed clients send; kubectl and Helm offer no JSON fallback.

Field numbers are those of the published `generated.proto` files. Only kinds that kubectl and Helm send to this server
are known; anything else is refused.
"""

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final, Literal

from sftjob_sandbox.errors import ApiError
from sftjob_sandbox.objects import Object
from sftjob_sandbox.wire import MalformedError, Raw, as_bytes, fields, signed, text

MAGIC: Final = b"k8s\x00"
CONTENT_TYPE: Final = "application/vnd.kubernetes.protobuf"

Scalar = Literal["string", "int", "bool", "time", "micro_time", "fields_v1", "string_map", "bytes_map", "strings_map"]


@dataclass(frozen=True)
class _Field:
    """One field. `keeps_zero` marks pointers in Go: an explicit zero is kept in JSON."""

    name: str
    type: "Scalar | Mapping[int, _Field]" = "string"
    repeated: bool = False
    keeps_zero: bool = False


Message = Mapping[int, _Field]
_Type = Scalar | Message


def _pointer(name: str, kind: _Type) -> _Field:
    return _Field(name, kind, keeps_zero=True)


def _many(name: str, kind: _Type = "string") -> _Field:
    return _Field(name, kind, repeated=True)


_OWNER: Final[Message] = {
    1: _Field("kind"), 3: _Field("name"), 4: _Field("uid"), 5: _Field("apiVersion"),
    6: _pointer("controller", "bool"), 7: _pointer("blockOwnerDeletion", "bool"),
}  # fmt: skip
_MANAGED: Final[Message] = {
    1: _Field("manager"), 2: _Field("operation"), 3: _Field("apiVersion"), 4: _Field("time", "time"),
    6: _Field("fieldsType"), 7: _Field("fieldsV1", "fields_v1"), 8: _Field("subresource"),
}  # fmt: skip
_META: Final = _Field(
    "metadata",
    {
        1: _Field("name"), 2: _Field("generateName"), 3: _Field("namespace"), 4: _Field("selfLink"), 5: _Field("uid"),
        6: _Field("resourceVersion"), 7: _Field("generation", "int"), 8: _Field("creationTimestamp", "time"),
        9: _Field("deletionTimestamp", "time"), 10: _pointer("deletionGracePeriodSeconds", "int"),
        11: _Field("labels", "string_map"), 12: _Field("annotations", "string_map"),
        13: _many("ownerReferences", _OWNER), 14: _many("finalizers"), 17: _many("managedFields", _MANAGED),
    },
)  # fmt: skip
_REFERENCE: Final[Message] = {
    1: _Field("kind"), 2: _Field("namespace"), 3: _Field("name"), 4: _Field("uid"), 5: _Field("apiVersion"),
    6: _Field("resourceVersion"), 7: _Field("fieldPath"),
}  # fmt: skip
_SOURCE: Final[Message] = {1: _Field("component"), 2: _Field("host")}
_SERIES: Final[Message] = {1: _Field("count", "int"), 2: _Field("lastObservedTime", "micro_time")}
_BOUND: Final[Message] = {1: _Field("kind"), 2: _Field("apiVersion"), 3: _Field("name"), 4: _Field("uid")}
_NON_RESOURCE: Final = _pointer("nonResourceAttributes", {1: _Field("path"), 2: _Field("verb")})
_RESOURCE: Final = _pointer(
    "resourceAttributes",
    {
        1: _Field("namespace"), 2: _Field("verb"), 3: _Field("group"), 4: _Field("version"), 5: _Field("resource"),
        6: _Field("subresource"), 7: _Field("name"),
    },
)  # fmt: skip
_STATUS: Final = _Field("status", {})  # clients send it empty; anything in it is refused

_KINDS: Final[Mapping[str, Message]] = {
    "v1 Secret": {
        1: _META, 2: _Field("data", "bytes_map"), 3: _Field("type"), 4: _Field("stringData", "string_map"),
        5: _pointer("immutable", "bool"),
    },
    "v1 ConfigMap": {
        1: _META, 2: _Field("data", "string_map"), 3: _Field("binaryData", "bytes_map"),
        4: _pointer("immutable", "bool"),
    },
    "v1 Namespace": {1: _META, 2: _Field("spec", {1: _many("finalizers")}), 3: _Field("status", {1: _Field("phase")})},
    "v1 ServiceAccount": {
        1: _META, 2: _many("secrets", _REFERENCE), 3: _many("imagePullSecrets", {1: _Field("name")}),
        4: _pointer("automountServiceAccountToken", "bool"),
    },
    "v1 Event": {
        1: _META, 2: _Field("involvedObject", _REFERENCE), 3: _Field("reason"), 4: _Field("message"),
        5: _Field("source", _SOURCE), 6: _Field("firstTimestamp", "time"), 7: _Field("lastTimestamp", "time"),
        8: _Field("count", "int"), 9: _Field("type"), 10: _Field("eventTime", "micro_time"),
        11: _pointer("series", _SERIES), 12: _Field("action"), 13: _pointer("related", _REFERENCE),
        14: _Field("reportingComponent"), 15: _Field("reportingInstance"),
    },
    "events.k8s.io/v1 Event": {
        1: _META, 2: _Field("eventTime", "micro_time"), 3: _pointer("series", _SERIES),
        4: _Field("reportingController"), 5: _Field("reportingInstance"), 6: _Field("action"), 7: _Field("reason"),
        8: _Field("regarding", _REFERENCE), 9: _pointer("related", _REFERENCE), 10: _Field("note"), 11: _Field("type"),
        12: _Field("deprecatedSource", _SOURCE), 13: _Field("deprecatedFirstTimestamp", "time"),
        14: _Field("deprecatedLastTimestamp", "time"), 15: _Field("deprecatedCount", "int"),
    },
    "coordination.k8s.io/v1 Lease": {
        1: _META,
        2: _Field("spec", {
            1: _pointer("holderIdentity", "string"), 2: _pointer("leaseDurationSeconds", "int"),
            3: _Field("acquireTime", "micro_time"), 4: _Field("renewTime", "micro_time"),
            5: _pointer("leaseTransitions", "int"), 6: _pointer("strategy", "string"),
            7: _pointer("preferredHolder", "string"),
        }),
    },
    "authentication.k8s.io/v1 TokenRequest": {
        1: _META,
        2: _Field("spec", {
            1: _many("audiences"), 4: _pointer("expirationSeconds", "int"),
            3: _pointer("boundObjectRef", _BOUND),
        }),
        3: _Field("status", {1: _Field("token"), 2: _Field("expirationTimestamp", "time")}),
    },
    "authentication.k8s.io/v1 TokenReview": {
        1: _META, 2: _Field("spec", {1: _Field("token"), 2: _many("audiences")}),
        3: _Field("status", {1: _Field("authenticated", "bool"), 2: _Field("user", {}), 3: _Field("error")}),
    },
    "authentication.k8s.io/v1 SelfSubjectReview": {1: _META, 2: _Field("status", {1: _Field("userInfo", {
        1: _Field("username"), 2: _Field("uid")})})},
    "authorization.k8s.io/v1 SelfSubjectAccessReview": {
        1: _META, 2: _Field("spec", {1: _RESOURCE, 2: _NON_RESOURCE}),
        3: _Field("status", {1: _Field("allowed", "bool"), 2: _Field("reason"), 3: _Field("evaluationError"),
                             4: _Field("denied", "bool")}),
    },
    "authorization.k8s.io/v1 SelfSubjectRulesReview": {
        1: _META, 2: _Field("spec", {1: _Field("namespace")}),
        3: _Field("status", {3: _Field("incomplete", "bool"), 4: _Field("evaluationError")}),
    },
    "authorization.k8s.io/v1 SubjectAccessReview": {
        1: _META,
        2: _Field("spec", {1: _RESOURCE, 2: _NON_RESOURCE, 3: _Field("user"), 4: _many("groups"),
                           5: _Field("extra", "strings_map"), 6: _Field("uid")}),
        3: _Field("status", {1: _Field("allowed", "bool"), 2: _Field("reason"), 3: _Field("evaluationError"),
                             4: _Field("denied", "bool")}),
    },
}  # fmt: skip
_DELETE_OPTIONS: Final[Message] = {
    1: _pointer("gracePeriodSeconds", "int"),
    2: _pointer("preconditions", {1: _pointer("uid", "string"), 2: _pointer("resourceVersion", "string")}),
    3: _pointer("orphanDependents", "bool"), 4: _pointer("propagationPolicy", "string"), 5: _many("dryRun"),
}  # fmt: skip


def decode(body: bytes) -> Object:
    """Decode one object.

    Raises:
        ApiError: 400 for what is no such message, 415 for a kind or field that is not known here.
    """
    if not body.startswith(MAGIC):
        refusal = "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
        raise ApiError(400, "BadRequest", refusal)
    try:
        envelope = dict(fields(body[len(MAGIC) :]))
        type_meta = dict(fields(as_bytes(envelope.get(1, b""))))
        api_version, kind = text(type_meta.get(1, b"")), text(type_meta.get(2, b""))
        message = _DELETE_OPTIONS if kind == "DeleteOptions" else _KINDS.get(f"{api_version} {kind}")
        if message is None:
            refusal = f"this server decodes no protobuf body of {api_version} {kind}; send application/json"
            raise ApiError(415, "UnsupportedMediaType", refusal)
        content = _message(as_bytes(envelope.get(2, b"")), message, kind)
    except (ValueError, OverflowError, OSError) as error:  # the last two: a time out of range
        raise ApiError(400, "BadRequest", f"unable to decode protobuf body: {error}") from error
    return {"apiVersion": api_version, "kind": kind, **content}


def _message(data: bytes, message: Message, where: str) -> Object:
    result: Object = {}
    for number, raw in fields(data):
        field = message.get(number)
        if field is None:
            refusal = f"this server does not know protobuf field {number} of {where}; send application/json"
            raise ApiError(415, "UnsupportedMediaType", refusal)
        value = _value(raw, field.type, f"{where}.{field.name}")
        if field.repeated:
            result.setdefault(field.name, []).append(value)
        elif isinstance(field.type, str) and field.type.endswith("_map"):
            result.setdefault(field.name, {}).update(value)
        elif field.keeps_zero or value or isinstance(value, dict):
            result[field.name] = value
    return result


def _value(raw: Raw, kind: _Type, where: str) -> Any:
    if kind == "int" or kind == "bool":  # noqa: PLR1714 -- narrows the type
        if not isinstance(raw, int):
            raise MalformedError("expected a varint")
        return bool(raw) if kind == "bool" else signed(raw)
    data = as_bytes(raw)
    if kind == "string":
        return data.decode()
    if kind == "time" or kind == "micro_time":  # noqa: PLR1714 -- narrows the type
        return _time(data, micro=kind == "micro_time")
    if kind == "fields_v1":
        return json.loads(as_bytes(dict(fields(data)).get(1, b"{}")))
    if isinstance(kind, str):
        entry = dict(fields(data))
        return {text(entry.get(1, b"")): _map_value(as_bytes(entry.get(2, b"")), kind)}
    return _message(data, kind, where)


def _map_value(data: bytes, kind: Scalar) -> Any:
    if kind == "bytes_map":
        return base64.b64encode(data).decode()
    if kind == "strings_map":
        return [text(item) for _, item in fields(data)]
    return data.decode()


def _time(data: bytes, *, micro: bool) -> str | None:
    """RFC 3339; an empty message is the zero time, which JSON shows as null."""
    parts = dict(fields(data))
    seconds, nanos = parts.get(1, 0), parts.get(2, 0)
    if not data or not isinstance(seconds, int) or not isinstance(nanos, int):
        return None
    moment = datetime.fromtimestamp(seconds, UTC) + timedelta(microseconds=nanos // 1000 if micro else 0)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ" if micro else "%Y-%m-%dT%H:%M:%SZ")
