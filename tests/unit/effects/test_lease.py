"""One operator at a time holds the Lease; the others wait by their own clock, and a holder stops by its own."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest

from sftjob_operator.effects import lease as module
from sftjob_operator.effects.cluster import ConflictError, UnavailableError
from sftjob_operator.effects.lease import (
    LEASE_SECONDS,
    RENEW_DEADLINE_SECONDS,
    Holder,
    Lease,
    claimed,
)
from support.fakes.fake_cluster import FakeCluster, Object

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


@dataclass
class Leases(FakeCluster):
    """A cluster in memory that keeps Leases, until it is away."""

    away: bool = False
    written: list[str] = field(default_factory=list)

    async def replace(self, body: Object) -> Object:
        if self.away:
            raise UnavailableError("away")
        stored = await self.get("Lease", "ops", "operator")
        if stored["metadata"]["resourceVersion"] != body["metadata"]["resourceVersion"]:
            raise ConflictError("changed")
        self.written.append(body["spec"]["holderIdentity"])
        return self.store(body, "MODIFIED")

    def holder(self) -> str:
        return str(self.objects["Lease", "ops", "operator"]["spec"]["holderIdentity"])


@dataclass
class Time:
    seconds: float = 1000.0

    def __call__(self) -> float:
        return self.seconds


def a_lease(time: Time, pod: str | None) -> Lease:
    return Lease("ops", "operator", Holder.of_this_process(pod), time)


@pytest.mark.parametrize(
    ("before", "pod", "unchanged", "taken"),
    [
        ({}, None, 0, True),
        ({"holderIdentity": ""}, None, 0, True),
        ({"holderIdentity": "other_1"}, "mine", 14.9, False),
        ({"holderIdentity": "other_1"}, "mine", 15, True),
        ({"holderIdentity": "other_1", "leaseDurationSeconds": 60}, "mine", 59, False),
        ({"holderIdentity": "mine_0"}, "mine", 0, True),
        ({"holderIdentity": "mine_0"}, None, 0, False),
        ({"holderIdentity": "process_0"}, None, 0, False),
        ({"holderIdentity": "mine-2_0"}, "mine", 0, False),
    ],
)
def test_a_lease_is_taken_when_nobody_else_can_hold_it(
    before: dict[str, Any], pod: str | None, unchanged: float, taken: bool
) -> None:
    holder = Holder(pod=pod, process="9")
    mine = claimed({"metadata": {"name": "operator"}, "spec": before}, holder, unchanged, NOW)
    assert (mine is not None) == taken
    if mine is not None:
        assert mine["spec"]["holderIdentity"] == holder.identity
        assert mine["spec"]["renewTime"] == "2026-03-01T12:00:00.000000Z"


async def test_only_one_of_two_operators_holds_the_lease_and_the_other_waits_for_it_to_run_out() -> None:
    leases, time = Leases(), Time()
    first, second = a_lease(time, "a"), a_lease(time, "b")
    await first.acquire(leases)
    assert first.held()
    for _ in range(20):
        time.seconds += 1
        await first._tried(leases)
        assert not await second._tried(leases)
    assert first.held()
    for _ in range(LEASE_SECONDS - 1):
        time.seconds += 1
        assert not (first.held() and await second._tried(leases))
        assert not await second._tried(leases)
    assert not first.held()
    time.seconds += 2
    assert await second._tried(leases)
    assert second.held()


async def test_a_holder_that_slept_past_its_deadline_is_none_and_never_takes_the_lease_back() -> None:
    leases, time = Leases(), Time()
    first, second = a_lease(time, "same"), a_lease(time, "same")
    await first.acquire(leases)
    await second.acquire(leases)
    assert not await first._tried(leases)
    assert not first.held()
    time.seconds += RENEW_DEADLINE_SECONDS
    assert not await first._tried(leases)
    assert second._holder.identity == leases.holder()


async def test_a_holder_that_cannot_renew_stops_before_anybody_else_may_begin(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "RENEW_SECONDS", 0)
    monkeypatch.setattr(module, "RETRY_SECONDS", 0)
    leases, time = Leases(), Time()
    lease = a_lease(time, "a")
    await lease.acquire(leases)
    leases.away = True
    kept = asyncio.create_task(lease.keep(leases))
    for _ in range(RENEW_DEADLINE_SECONDS - 1):
        time.seconds += 1
        for _ in range(20):
            await asyncio.sleep(0)
        assert lease.held()
        assert not kept.done()
    time.seconds += 1
    await asyncio.wait_for(kept, 5)
    assert not lease.held()
    assert RENEW_DEADLINE_SECONDS < LEASE_SECONDS


async def test_a_clean_stop_gives_the_lease_to_the_next_at_once() -> None:
    leases, time = Leases(), Time()
    first, second = a_lease(time, "a"), a_lease(time, "b")
    await first.acquire(leases)
    await first.release(leases)
    assert not first.held()
    assert await second._tried(leases)
    await first.release(leases)
    assert leases.holder() == second._holder.identity


async def test_a_clock_that_is_wrong_takes_no_lease() -> None:
    """Only the own clock counts: times in the Lease are those of another machine."""
    old = {"holderIdentity": "other_1", "renewTime": "1999-01-01T00:00:00.000000Z"}
    assert claimed({"metadata": {}, "spec": old}, Holder(pod="mine", process="1"), 0, NOW) is None
