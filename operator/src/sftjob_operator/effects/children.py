"""Creating an object that may exist already, and deleting one that may be gone already, without asking first."""

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sftjob_operator.effects.cluster import AlreadyExistsError, Cluster, ConflictError, NotFoundError, Object


@dataclass(frozen=True, kw_only=True, slots=True)
class Ensured:
    """The object as it is stored, and whether it was there before."""

    body: Object
    existed: bool


async def ensure(cluster: Cluster, body: Mapping[str, Any]) -> Ensured:
    """Create `body`; if its name is taken, read what has it.

    Raises:
        ClusterError: the server refuses or can not answer.
    """
    try:
        return Ensured(body=await cluster.create(dict(body)), existed=False)
    except AlreadyExistsError:
        metadata = body["metadata"]
        return Ensured(body=await cluster.get(body["kind"], metadata["namespace"], metadata["name"]), existed=True)


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
