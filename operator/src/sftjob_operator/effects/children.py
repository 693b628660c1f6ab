"""Creating an object that may exist already, without asking first."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from sftjob_operator.effects.cluster import AlreadyExistsError, Cluster, Object


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
