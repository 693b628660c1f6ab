"""Create objects that may already exist, and delete objects that may already be gone, without a request to check."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sftjob_operator.effects.cluster import (
    AlreadyExistsError,
    Cluster,
    ConflictError,
    NotFoundError,
    Object,
    UnavailableError,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Ensured:
    """The stored object, and whether it existed before."""

    body: Object
    existed: bool


async def ensure(cluster: Cluster, body: Mapping[str, Any], *, expected: bool = False) -> Ensured:
    """Create `body`; if its name is taken, read the existing object, and update `data` of a ConfigMap.

    `expected`: the object usually exists, so it is read first. An object of another owner is never changed.

    Raises:
        ClusterError: the server rejects the request or cannot answer.
    """
    metadata = body["metadata"]
    name = (body["kind"], metadata["namespace"], metadata["name"])
    if expected and (found := await find(cluster, *name)) is not None:
        return Ensured(body=await _up_to_date(cluster, found, body), existed=True)
    try:
        return Ensured(body=await cluster.create(dict(body)), existed=False)
    except AlreadyExistsError as error:
        if (found := await find(cluster, *name)) is None:  # deleted meanwhile, or a webhook rejected it with this code
            raise UnavailableError(str(error)) from error
        return Ensured(body=await _up_to_date(cluster, found, body), existed=True)


async def publish(cluster: Cluster, found: Object, data: Mapping[str, str]) -> Object:
    """Set keys of a ConfigMap that was read; the other keys stay, and nothing is written without a difference.

    Raises:
        ConflictError: it has changed since it was read.
        ClusterError: the server rejects the request or cannot answer.
    """
    kept = found.get("data") or {}
    if kept | dict(data) == kept:
        return found
    return await cluster.replace({**found, "data": {**kept, **data}})


async def _up_to_date(cluster: Cluster, found: Object, body: Mapping[str, Any]) -> Object:
    """Return `found`, with the data and annotations of `body` if it is a ConfigMap of the same owner."""
    if "data" not in body or not _same_owner(found, body):
        return found
    metadata = found["metadata"]
    notes = (metadata.get("annotations") or {}) | (body["metadata"].get("annotations") or {})
    return await publish(cluster, {**found, "metadata": metadata | {"annotations": notes}}, body["data"])


def _same_owner(found: Object, body: Mapping[str, Any]) -> bool:
    owners = [{owner["uid"] for owner in one["metadata"].get("ownerReferences") or ()} for one in (found, body)]
    return bool(owners[0] & owners[1])


async def remove(cluster: Cluster, kind: str, namespace: str, name: str, uid: str) -> None:
    """Delete the object with this UID, if it still exists; leave another one of its name alone.

    Raises:
        ClusterError: the server rejects the request or cannot answer.
    """
    with suppress(NotFoundError, ConflictError):
        await cluster.delete(kind, namespace, name, uid)


async def find(cluster: Cluster, kind: str, namespace: str, name: str) -> Object | None:
    """Return the object of that name, or None.

    Raises:
        ClusterError: the server rejects the request or cannot answer.
    """
    try:
        return await cluster.get(kind, namespace, name)
    except NotFoundError:
        return None
