"""Fields of Kubernetes objects, and the names, times and random parts that a server generates."""

import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

Object = dict[str, Any]
Clock = Callable[[], datetime]

_NAME_LIMIT = 63
_SUFFIX_LENGTH = 5
_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"  # k8s.io/apimachinery/pkg/util/rand: no vowels, no look-alikes


def utc_now() -> datetime:
    """The real clock."""
    return datetime.now(UTC)


def timestamp(moment: datetime) -> str:
    """A metav1.Time: RFC 3339 in UTC with whole seconds."""
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def parse_timestamp(text: str) -> datetime:
    """The inverse of `timestamp`; also reads fractions (metav1.MicroTime) and other offsets. Raises ValueError."""
    return datetime.fromisoformat(text)


def generated_name(base: str) -> str:
    """`base`, cut where needed, followed by five random characters, as for `metadata.generateName`."""
    suffix = "".join(random.choices(_SUFFIX_LETTERS, k=_SUFFIX_LENGTH))  # noqa: S311 -- a name, not a secret
    return base[: _NAME_LIMIT - _SUFFIX_LENGTH] + suffix


def name_of(obj: Mapping[str, Any]) -> str:
    """`metadata.name`, or nothing."""
    return str(obj["metadata"].get("name") or "")


def namespace_of(obj: Mapping[str, Any]) -> str:
    """`metadata.namespace`, empty for a cluster-scoped object."""
    return str(obj["metadata"].get("namespace") or "")


def uid_of(obj: Mapping[str, Any]) -> str:
    """`metadata.uid` of a stored object."""
    return str(obj["metadata"]["uid"])


def finalizers_of(obj: Mapping[str, Any]) -> list[str]:
    """`metadata.finalizers`."""
    return list(obj["metadata"].get("finalizers") or ())


def owners_of(obj: Mapping[str, Any]) -> list[Object]:
    """`metadata.ownerReferences`."""
    return list(obj["metadata"].get("ownerReferences") or ())


def is_deleting(obj: Mapping[str, Any]) -> bool:
    """Whether the object is being deleted."""
    return bool(obj["metadata"].get("deletionTimestamp"))


def with_metadata(obj: Object, **changes: Any) -> Object:
    """Copy with these metadata fields; a value of None, or an empty list or map, removes the field."""
    metadata = {**obj["metadata"], **changes}
    for key in changes:
        if metadata[key] is None or metadata[key] in ([], {}):
            del metadata[key]
    return {**obj, "metadata": metadata}


def claims_of(pod: Object) -> list[str]:
    """Names of the PersistentVolumeClaims that the Pod mounts."""
    volumes = pod["spec"].get("volumes") or ()
    return [volume["persistentVolumeClaim"]["claimName"] for volume in volumes if volume.get("persistentVolumeClaim")]


def copied(value: Any) -> Any:
    """A deep copy of dicts, lists and scalars."""
    if isinstance(value, dict):
        return {key: copied(item) if isinstance(item, dict | list) else item for key, item in value.items()}
    if isinstance(value, list):
        return [copied(item) if isinstance(item, dict | list) else item for item in value]
    return value
