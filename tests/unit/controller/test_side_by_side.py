"""Many jobs and several workers at once, with requests that take their time and finish in any order."""

import asyncio
import random
from collections import Counter
from collections.abc import Mapping
from typing import Any

from sftjob_contract.names import KIND, LABEL_JOB
from sftjob_operator.effects.cluster import Object
from support.fakes.fake_cluster import FakeCluster, World, ended, running
from support.jobs.builders import a_job

JOBS = 30


class SlowCluster(FakeCluster):
    """Every request gives way to others before and after it takes effect; watches may run ahead of answers."""

    def __init__(self) -> None:
        super().__init__()
        self.chance = random.Random(7)
        self.busy: Counter[str] = Counter()
        self.most_at_once: Counter[str] = Counter()

    async def create(self, body: Object) -> Object:
        return await self._slowly(_job_of(body), super().create(body))

    async def patch_status(self, namespace: str, name: str, patch: Mapping[str, Any]) -> Object:
        return await self._slowly(name, super().patch_status(namespace, name, patch))

    async def _slowly(self, job: str, request: Any) -> Object:
        self.busy[job] += 1
        self.most_at_once[job] = max(self.most_at_once[job], self.busy[job])
        await self._give_way()
        try:
            return await request
        finally:
            await self._give_way()
            self.busy[job] -= 1

    async def _give_way(self) -> None:
        for _ in range(self.chance.randrange(4)):
            await asyncio.sleep(0)


def _job_of(body: Object) -> str:
    return (body["metadata"].get("labels") or {}).get(LABEL_JOB) or body["involvedObject"]["name"]


def move_pods(world: World) -> None:
    """A node: what waits runs, what runs ends well."""
    for (kind, _, name), body in tuple(world.cluster.objects.items()):
        phase = (body.get("status") or {}).get("phase")
        if kind == "Pod" and phase != "Succeeded":
            world.set_pod(name, ended(0) if phase == "Running" else running())


async def test_every_job_gets_exactly_its_own_and_is_never_worked_on_twice_at_once() -> None:
    cluster = SlowCluster()
    world = World(cluster)
    names = [f"job-{number}" for number in range(JOBS)]
    for name in names:
        cluster.store(a_job(name).meta(uid=f"uid-of-{name}").body(), "ADDED")
    working = asyncio.create_task(world.controller.run(workers=8))
    async with asyncio.timeout(20):
        while not all(world.status(("team", name)).get("phase") == "Succeeded" for name in names):
            world.deliver()
            if cluster.chance.random() < 0.3:
                move_pods(world)
            await asyncio.sleep(0)
    working.cancel()
    assert set(cluster.most_at_once.values()) == {1}
    created = Counter((_job_of(r.body), r.kind) for r in world.requests("create") if r.kind != "Event")
    assert created == {
        (name, kind): count
        for name in names
        for kind, count in [("PersistentVolumeClaim", 1), ("ConfigMap", 1), ("Pod", 2)]
    }
    assert all(len([r for r in world.requests("patch") if r.name == name]) <= 4 for name in names)
    assert {r.kind for r in world.requests("get") if r.kind != KIND} == {"ConfigMap"}
