"""Rules of ConfigMaps and Secrets. Source: kubernetes' pkg/apis/core/validation."""

import base64
import json
from typing import Any, Final

from sftjob_sandbox import names
from sftjob_sandbox.causes import forbidden, invalid, required, too_long
from sftjob_sandbox.errors import Cause
from sftjob_sandbox.metadata import immutable
from sftjob_sandbox.objects import Object

SIZE_LIMIT_BYTES: Final = 1024 * 1024
_LOCKED: Final = "field is immutable when `immutable` is set"
_DOCKER: Final = {
    "kubernetes.io/dockercfg": ".dockercfg",
    "kubernetes.io/dockerconfigjson": ".dockerconfigjson",
}
_REQUIRED_KEYS: Final = {
    "kubernetes.io/ssh-auth": ("ssh-privatekey",),
    "kubernetes.io/tls": ("tls.crt", "tls.key"),
}


def validate_config_map(config: Object, old: Object | None) -> list[Cause]:
    """The rules of a ConfigMap beside those of its metadata."""
    causes = _locked(config, old, ("data", "binaryData")) if old else []
    data, binary = config.get("data") or {}, config.get("binaryData") or {}
    size = 0
    for key, text in data.items():
        causes += [invalid(f"data[{key}]", key, problem) for problem in names.config_key(key)]
        if key in binary:
            causes.append(invalid(f"data[{key}]", key, "duplicate of key present in binaryData"))
        size += names.byte_length(text)
    for key, encoded in binary.items():
        causes += [invalid(f"binaryData[{key}]", key, problem) for problem in names.config_key(key)]
        size += _decoded_size(encoded)
    return [*causes, too_long("", SIZE_LIMIT_BYTES)] if size > SIZE_LIMIT_BYTES else causes


def validate_secret(secret: Object, old: Object | None) -> list[Cause]:
    """The rules of a Secret beside those of its metadata. No value of a Secret gets into a message."""
    causes = []
    if old is not None:
        causes += immutable("type", secret.get("type"), old.get("type"))
        causes += _locked(secret, old, ("data",))
    data = secret.get("data") or {}
    for key in data:
        causes += [invalid(f"data[{key}]", key, problem) for problem in names.config_key(key)]
    if sum(_decoded_size(value) for value in data.values()) > SIZE_LIMIT_BYTES:
        causes.append(too_long("data", SIZE_LIMIT_BYTES))
    return [*causes, *_check_type(secret, data)]


def _check_type(secret: Object, data: dict[str, str]) -> list[Cause]:
    kind = secret.get("type") or ""
    if kind == "kubernetes.io/service-account-token":
        name = "kubernetes.io/service-account.name"
        annotated = (secret["metadata"].get("annotations") or {}).get(name)
        return [] if annotated else [required(f"metadata.annotations[{name}]")]
    if kind in _DOCKER:
        return _check_docker(data, _DOCKER[kind])
    if kind == "kubernetes.io/basic-auth" and not {"username", "password"} & set(data):
        return [required("data[username]"), required("data[password]")]
    return [required(f"data[{key}]") for key in _REQUIRED_KEYS.get(kind, ()) if not data.get(key)]


def _check_docker(data: dict[str, str], key: str) -> list[Cause]:
    if key not in data:
        return [required(f"data[{key}]")]
    problem = _json_problem(base64.b64decode(data[key]))
    return [invalid(f"data[{key}]", "<secret contents redacted>", problem)] if problem else []


def _json_problem(encoded: bytes) -> str:
    """What Go's decoder says about a document that is no JSON object; nothing for one that is."""
    try:
        document: Any = json.loads(encoded)
    except json.JSONDecodeError as error:
        if not error.doc[error.pos :]:
            return "unexpected end of JSON input"
        return f"invalid character '{error.doc[error.pos]}' looking for beginning of value"
    except UnicodeDecodeError:
        return "invalid character in JSON document"
    kinds = {list: "array", str: "string", bool: "bool", int: "number", float: "number"}
    found = kinds.get(type(document))
    return f"json: cannot unmarshal {found} into Go value of type map[string]interface {{}}" if found else ""


def _decoded_size(encoded: str) -> int:
    return len(encoded) * 3 // 4 - encoded[-2:].count("=")


def _locked(new: Object, old: Object, keys: tuple[str, ...]) -> list[Cause]:
    if not old.get("immutable"):
        return []
    causes = [] if new.get("immutable") else [forbidden("immutable", _LOCKED)]
    return causes + [forbidden(key, _LOCKED) for key in keys if (new.get(key) or {}) != (old.get(key) or {})]
