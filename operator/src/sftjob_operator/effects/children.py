"""Creating an object that may exist already, and deleting one that may be gone already, without asking first."""

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
    """The object as it is stored, and whether it was there before."""

    body: Object
    existed: bool


async def ensure(cluster: Cluster, body: Mapping[str, Any], *, expected: bool = False) -> Ensured:
    """Create `body`; if its name is taken, read the object that has it, and bring `data` of a ConfigMap up to date.

    `expected`: the object usually exists, so that it is read first. An object of another owner is never changed.

    Raises:
        ClusterError: the server refuses or cannot answer.
    """
    metadata = body["metadata"]
    name = (body["kind"], metadata["namespace"], metadata["name"])
    if expected and (found := await find(cluster, *name)) is not None:
        return Ensured(body=await _up_to_date(cluster, found, body), existed=True)
    try:
        return Ensured(body=await cluster.create(dict(body)), existed=False)
    except AlreadyExistsError as error:
        if (found := await find(cluster, *name)) is None:  # it went meanwhile, or a webhook refused it with this code
            raise UnavailableError(str(error)) from error
        return Ensured(body=await _up_to_date(cluster, found, body), existed=True)


async def publish(cluster: Cluster, found: Object, data: Mapping[str, str]) -> Object:
    """Set keys of a ConfigMap that was read; the other keys stay, and nothing is written if nothing differs.

    Raises:
        ConflictError: it has changed since it was read.
        ClusterError: the server refuses or cannot answer.
    """
    kept = found.get("data") or {}
    if kept | dict(data) == kept:
        return found
    return await cluster.replace({**found, "data": {**kept, **data}})


async def _up_to_date(cluster: Cluster, found: Object, body: Mapping[str, Any]) -> Object:
    """`found`, with the data and annotations of `body` if it is a ConfigMap of the same owner."""
    if "data" not in body or not _same_owner(found, body):
        return found
    metadata = found["metadata"]
    notes = (metadata.get("annotations") or {}) | (body["metadata"].get("annotations") or {})
    return await publish(cluster, {**found, "metadata": metadata | {"annotations": notes}}, body["data"])


def _same_owner(found: Object, body: Mapping[str, Any]) -> bool:
    owners = [{owner["uid"] for owner in one["metadata"].get("ownerReferences") or ()} for one in (found, body)]
    return bool(owners[0] & owners[1])


async def remove(cluster: Cluster, kind: str, namespace: str, name: str, uid: str) -> None:
    """Delete the object that has this uid, if it is still there; another of its name is left alone.

    Raises:
        ClusterError: the server refuses or can not answer.
    """
    with suppress(NotFoundError, ConflictError):
        await cluster.delete(kind, namespace, name, uid)


async def find(cluster: Cluster, kind: str, namespace: str, name: str) -> Object | None:
    """The object of that name, or None.

    Raises:
        ClusterError: the server refuses or can not answer.
    """
    try:
        return await cluster.get(kind, namespace, name)
    except NotFoundError:
        return None
