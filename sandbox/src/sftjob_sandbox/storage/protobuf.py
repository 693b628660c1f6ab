"""Decoder of the protobuf bodies that client-go's typed clients send; kubectl and Helm offer no JSON fallback.

Field numbers are those of the published `generated.proto` files; `optional` marks pointers in Go, whose explicit zero
is kept. Only kinds that kubectl and Helm send to this server are known; anything else is refused.
"""

import base64
import json
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.apimachinery.messages import message_types
from sftjob_sandbox.apimachinery.objects import Object, timestamp

MAGIC: Final = b"k8s\x00"
CONTENT_TYPE: Final = "application/vnd.kubernetes.protobuf"
_TYPES: Final = message_types("k8s", """
message Unknown { TypeMeta typeMeta = 1; bytes raw = 2; string contentEncoding = 3; string contentType = 4; }
message TypeMeta { string apiVersion = 1; string kind = 2; }
message ObjectMeta {
  string name = 1; string generateName = 2; string namespace = 3; string selfLink = 4; string uid = 5;
  string resourceVersion = 6; int64 generation = 7; Time creationTimestamp = 8; Time deletionTimestamp = 9;
  optional int64 deletionGracePeriodSeconds = 10; map<string, string> labels = 11; map<string, string> annotations = 12;
  repeated OwnerReference ownerReferences = 13; repeated string finalizers = 14;
  repeated ManagedFieldsEntry managedFields = 17;
}
message OwnerReference {
  string kind = 1; string name = 3; string uid = 4; string apiVersion = 5;
  optional bool controller = 6; optional bool blockOwnerDeletion = 7;
}
message ManagedFieldsEntry {
  string manager = 1; string operation = 2; string apiVersion = 3; Time time = 4;
  string fieldsType = 6; FieldsV1 fieldsV1 = 7; string subresource = 8;
}
message Time { int64 seconds = 1; int32 nanos = 2; }
message FieldsV1 { bytes Raw = 1; }
message Secret {
  ObjectMeta metadata = 1; map<string, bytes> data = 2; string type = 3; map<string, string> stringData = 4;
  optional bool immutable = 5;
}
message ConfigMap {
  ObjectMeta metadata = 1; map<string, string> data = 2; map<string, bytes> binaryData = 3; optional bool immutable = 4;
}
message Namespace { ObjectMeta metadata = 1; NamespaceSpec spec = 2; NamespaceStatus status = 3; }
message NamespaceSpec { repeated string finalizers = 1; }
message NamespaceStatus { string phase = 1; }
message ServiceAccount {
  ObjectMeta metadata = 1; repeated LocalObjectReference imagePullSecrets = 3;
  optional bool automountServiceAccountToken = 4;
}
message LocalObjectReference { string name = 1; }
message TokenRequest { ObjectMeta metadata = 1; TokenRequestSpec spec = 2; TokenRequestStatus status = 3; }
message TokenRequestSpec {
  repeated string audiences = 1; BoundObjectReference boundObjectRef = 3; optional int64 expirationSeconds = 4;
}
message BoundObjectReference { string kind = 1; string apiVersion = 2; string name = 3; string uid = 4; }
message TokenRequestStatus { string token = 1; Time expirationTimestamp = 2; }
message SelfSubjectAccessReview { ObjectMeta metadata = 1; AccessReviewSpec spec = 2; AccessReviewStatus status = 3; }
message AccessReviewSpec { ResourceAttributes resourceAttributes = 1; NonResourceAttributes nonResourceAttributes = 2; }
message ResourceAttributes {
  string namespace = 1; string verb = 2; string group = 3; string version = 4; string resource = 5;
  string subresource = 6; string name = 7;
}
message NonResourceAttributes { string path = 1; string verb = 2; }
message AccessReviewStatus { bool allowed = 1; string reason = 2; string evaluationError = 3; bool denied = 4; }
message DeleteOptions {
  optional int64 gracePeriodSeconds = 1; Preconditions preconditions = 2; optional bool orphanDependents = 3;
  optional string propagationPolicy = 4; repeated string dryRun = 5;
}
message Preconditions { optional string uid = 1; optional string resourceVersion = 2; }
""")  # fmt: skip
_KINDS: Final = (
    "v1 Secret", "v1 ConfigMap", "v1 Namespace", "v1 ServiceAccount", "authentication.k8s.io/v1 TokenRequest",
    "authorization.k8s.io/v1 SelfSubjectAccessReview",
)  # fmt: skip


def decode(body: bytes) -> Object:
    """Decode one object.

    Raises ApiError: 400 for what is no such message, 415 for a kind or field that is not known here.
    """
    if not body.startswith(MAGIC):
        refusal = "provided data does not appear to be a protobuf message, expected prefix [107 56 115 0]"
        raise ApiError(400, "BadRequest", refusal)
    try:
        envelope = _TYPES["Unknown"].FromString(body[len(MAGIC) :])
        api_version, kind = envelope.typeMeta.apiVersion, envelope.typeMeta.kind
        if kind != "DeleteOptions" and f"{api_version} {kind}" not in _KINDS:
            refusal = f"this server decodes no protobuf body of {api_version} {kind}; send application/json"
            raise ApiError(415, "UnsupportedMediaType", refusal)
        content = _json(_TYPES[kind].FromString(envelope.raw))
    except (DecodeError, ValueError, OverflowError, OSError) as error:  # the last two: a time out of range
        raise ApiError(400, "BadRequest", f"unable to decode protobuf body: {error}") from error
    return {"apiVersion": api_version, "kind": kind, **content}


def _json(value: Any) -> Any:
    if isinstance(value, Message):
        return _object(value)
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, str | int):
        return value
    return {key: _json(item) for key, item in value.items()} if isinstance(value, Mapping) else [*map(_json, value)]


def _object(message: Any) -> Any:
    """A message as JSON; an empty time is the zero time, which JSON shows as null and readers ignore."""
    name = message.DESCRIPTOR.name
    for unknown in UnknownFieldSet(message):
        refusal = f"this server does not know protobuf field {unknown.field_number} of {name}; send application/json"
        raise ApiError(415, "UnsupportedMediaType", refusal)
    if name == "Time":
        return timestamp(datetime.fromtimestamp(message.seconds, UTC)) if message.ListFields() else None
    if name == "FieldsV1":
        return json.loads(message.Raw or b"{}")
    shown = ((field.name, _json(value)) for field, value in message.ListFields())
    return {key: value for key, value in shown if value is not None}
