"""The Lease that one operator holds at a time: without it the operator neither decides nor writes.

The rules are those of client-go's leader election: a candidate acquires a Lease once it has observed no renewal for the
Lease's duration by its own clock, and a holder stops by its own clock well before that.
"""

import asyncio
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final, Protocol

from sftjob_operator.effects.cluster import AlreadyExistsError, ClusterError, ConflictError, NotFoundError, Object

LEASE_SECONDS: Final = 15
"""How long others wait after the last renewal that they observed."""
RENEW_DEADLINE_SECONDS: Final = 10
"""How long the holder may write after its last renewal, by its own clock."""
RENEW_SECONDS: Final = 4.0
RETRY_SECONDS: Final = 1.0

log = logging.getLogger(__name__)


class Leases(Protocol):
    """API calls for the Lease; see Cluster."""

    async def create(self, body: Object) -> Object:
        """Create an object."""

    async def get(self, kind: str, namespace: str, name: str) -> Object:
        """Read an object."""

    async def replace(self, body: Object) -> Object:
        """Write an object that was read, provided that it has not changed since."""


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Identity of a Lease holder: one process, and its Pod, if it runs in one."""

    pod: str | None
    process: str

    @classmethod
    def of_this_process(cls, pod: str | None) -> "Holder":
        """Return an identity that no other process has, in any Pod."""
        return cls(pod=pod, process=uuid.uuid4().hex[:12])

    @property
    def identity(self) -> str:
        """The holderIdentity in the Lease."""
        return f"{self.pod or 'process'}_{self.process}"

    def follows(self, identity: str) -> bool:
        """Whether `identity` is this process, or an earlier container of its Pod, which ended before this one began."""
        return identity == self.identity or (self.pod is not None and identity.rpartition("_")[0] == self.pod)


def claimed(lease: Mapping[str, Any], holder: Holder, unchanged_seconds: float, now: datetime) -> Object | None:
    """Return `lease` with this holder in it, or None while another one may hold it.

    `unchanged_seconds` is how long this process has observed no change of the Lease, by its own clock.
    """
    spec = lease.get("spec") or {}
    before = str(spec.get("holderIdentity") or "")
    lasts = float(spec.get("leaseDurationSeconds") or LEASE_SECONDS)
    if before and not holder.follows(before) and unchanged_seconds < lasts:
        return None
    time_ = now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    held = {"holderIdentity": holder.identity, "leaseDurationSeconds": LEASE_SECONDS, "renewTime": time_}
    if before != holder.identity:
        held |= {"acquireTime": time_, "leaseTransitions": int(spec.get("leaseTransitions") or 0) + 1}
    return {**lease, "spec": {**spec, **held}}


class Lease:
    """One Lease, claimed and renewed for one holder."""

    def __init__(self, namespace: str, name: str, holder: Holder, monotonic: Callable[[], float] | None = None) -> None:
        self._namespace = namespace
        self._name = name
        self._holder = holder
        self._monotonic = monotonic or boot_seconds
        self._renewed: float | None = None
        self._lost = False
        self._seen: tuple[str | None, float] = (None, self._monotonic())

    def held(self) -> bool:
        """Whether this process may write now."""
        return self._renewed is not None and self._monotonic() - self._renewed < RENEW_DEADLINE_SECONDS

    async def acquire(self, leases: Leases) -> None:
        """Wait until this holder has the Lease."""
        is_logged = False
        while not await self._tried(leases):
            if not is_logged:
                log.info("Lease %s/%s is held by another operator; waiting for it", self._namespace, self._name)
                is_logged = True
            await asyncio.sleep(RETRY_SECONDS)
        log.info("acquired Lease %s/%s as %s", self._namespace, self._name, self._holder.identity)

    async def keep(self, leases: Leases) -> None:
        """Renew the Lease; returns once it is lost."""
        wait = RENEW_SECONDS
        while True:
            await asyncio.sleep(wait)
            if not self.held():
                return
            wait = RENEW_SECONDS if await self._tried(leases) else RETRY_SECONDS

    async def release(self, leases: Leases) -> None:
        """Release the Lease, so that the next operator need not wait until it expires."""
        if not self.held():
            return
        self._renewed = None
        with suppress(ClusterError):
            lease = await leases.get("Lease", self._namespace, self._name)
            if (lease.get("spec") or {}).get("holderIdentity") == self._holder.identity:
                await leases.replace({**lease, "spec": {**lease["spec"], "holderIdentity": ""}})

    async def _tried(self, leases: Leases) -> bool:
        began = self._monotonic()
        try:
            async with asyncio.timeout(RENEW_DEADLINE_SECONDS / 2):
                renewed = await self._claim(leases)
        except (AlreadyExistsError, ConflictError):
            return False
        except (ClusterError, TimeoutError) as error:
            log.warning("cannot renew Lease %s/%s: %s", self._namespace, self._name, str(error) or "timed out")
            return False
        if renewed:
            self._renewed = began
        return renewed

    async def _claim(self, leases: Leases) -> bool:
        now = datetime.now(UTC)
        try:
            lease = await leases.get("Lease", self._namespace, self._name)
        except NotFoundError:
            metadata = {"name": self._name, "namespace": self._namespace}
            new = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata, "spec": {}}
            await leases.create(claimed(new, self._holder, 0, now) or new)
            return True
        version = lease["metadata"].get("resourceVersion")
        if version != self._seen[0]:
            self._seen = (version, self._monotonic())
        holder = (lease.get("spec") or {}).get("holderIdentity") or self._holder.identity
        if self._renewed is not None and holder != self._holder.identity:  # taken over: never taken back
            self._renewed, self._lost = None, True
        mine = claimed(lease, self._holder, self._monotonic() - self._seen[1], now)
        if mine is None or self._lost:
            return False
        await leases.replace(mine)
        return True


def boot_seconds() -> float:
    """Seconds of a clock that never goes backwards and continues while the machine sleeps."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)
