"""State machines about one job, and what holds for it whatever happens in whatever order."""

import asyncio
from itertools import pairwise
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine, invariant

from sftjob_contract.names import KIND, Stage
from sftjob_operator.effects.cluster import Object, UnavailableError
from support.checks.status_rules import illegal_transitions, shrunk_attempts, unheard_checkpoints
from support.fakes.crash_points import MortalCluster, MortalWorld
from support.fakes.fake_cluster import an_outcome, ended, running
from support.jobs.builders import JobBuilder

KEY = ("team", "demo")
LIVE = ("Pending", "Running", "Unknown")
LONG_SECONDS = 700.0
"""Longer than any backoff."""
LAST_TURNS = 60


class Told(MortalCluster):
    """A cluster that keeps every status that the job has had, and loses answers to creates on order."""

    def __init__(self) -> None:
        super().__init__()
        self.statuses: list[Object] = []
        self.lost_answers: list[str] = []
        """Kinds of objects of which the next create is done, and its answer is lost."""
        self.late_creates: list[str] = []
        """Kinds of objects of which the next create is given up by the client, and may be done by the server later."""
        self.on_their_way: list[Object] = []
        """Objects that were given up like that."""

    def store(self, body: Object, event: str) -> Object:
        if body["kind"] == KIND:
            self.statuses.append(body.get("status") or {})
        return super().store(body, event)

    async def create(self, body: Object) -> Object:
        kind = body["kind"]
        if kind in self.late_creates:
            self.late_creates.remove(kind)
            self.on_their_way.append(body)
            raise UnavailableError("POST: TimeoutError")
        stored = await super().create(body)
        if kind in self.lost_answers:
            self.lost_answers.remove(kind)
            raise UnavailableError("POST: ServerDisconnectedError")
        return stored

    async def arrive(self) -> None:
        """Let the creates that were given up be done, where their names are free."""
        arrived, self.on_their_way = self.on_their_way, []
        for body in arrived:
            if (body["kind"], body["metadata"]["namespace"], body["metadata"]["name"]) not in self.objects:
                await super().create(body)


class JobMachine(RuleBasedStateMachine):
    """One job; rules are what happens to it."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.cluster = Told()
        self.world = MortalWorld(self.cluster)
        self.checkpoints: set[int] = set()
        """Steps of checkpoints that a trainer has reported."""

    def begin(self, job: JobBuilder) -> None:
        """Apply the job."""
        self.do(self.world.apply(job))

    def do(self, work: Any) -> None:
        """Run a coroutine."""
        self.runner.run(work)

    def pods(self, *phases: str) -> list[str]:
        """Names of the Pods that are in one of these phases."""
        bodies = [body for (kind, _, _), body in self.world.cluster.objects.items() if kind == "Pod"]
        return sorted(
            body["metadata"]["name"] for body in bodies if (body.get("status") or {}).get("phase", "Pending") in phases
        )

    def end(self, name: str, code: int, speaks: bool) -> Object:
        """How a Pod ends, with a last word or without."""
        stage = next(stage for stage in Stage if f"-{stage}-" in name)
        said = an_outcome(stage, code, message="As told.") if speaks and code < 128 else None
        return ended(code, said, seconds=self.world.clock.elapsed)

    @invariant()
    def at_most_one_attempt_has_ever_trained_at_a_time(self) -> None:
        assert self.world.mortal.most_attempts <= 1

    @invariant()
    def phases_follow_each_other_as_they_may(self) -> None:
        assert illegal_transitions([None, *(status.get("phase") for status in self.told())]) == []

    @invariant()
    def attempts_only_grow(self) -> None:
        assert [shrunk for pair in pairwise(self.told()) if (shrunk := shrunk_attempts(*pair))] == []

    @invariant()
    def checkpoints_are_those_that_a_trainer_told_of(self) -> None:
        assert unheard_checkpoints(self.told()[-1], self.checkpoints) == []

    def told(self) -> list[Object]:
        """Every status so far, but for those before the first write."""
        return [status for status in self.cluster.statuses if status] or [{}]

    def teardown(self) -> None:
        try:
            if (KIND, *KEY) in self.world.cluster.objects:
                self.do(self.comes_to_an_end())
        finally:
            self.runner.close()

    async def comes_to_an_end(self) -> None:
        """From here on nothing goes wrong: within a bounded time the job has ended, and nothing of it runs."""
        self.world.mortal.crash = None
        self.world.cluster.failures.clear()
        self.cluster.lost_answers.clear()
        self.cluster.late_creates.clear()
        await self.world.change(KEY, suspend=False)
        for _ in range(LAST_TURNS):
            for name in self.pods("Pending"):
                await self.world.pod(name, running(self.world.clock.elapsed))
            for name in self.pods("Running", "Unknown"):
                await self.world.pod(name, self.end(name, 0, speaks=True))
            await self.world.controller.resync()
            await self.world.pass_time(LONG_SECONDS)
        assert self.world.status(KEY)["phase"] in ("Succeeded", "Failed")
        assert self.pods(*LIVE) == []
        self.phases_follow_each_other_as_they_may()
        await self.late_children_are_deleted()

    async def late_children_are_deleted(self) -> None:
        """What was given up arrives after the end of the job, and is found by the next listing."""
        await self.cluster.arrive()
        self.world.cluster.undelivered.clear()
        for name in self.pods(*LIVE):
            self.world.set_pod(name, running(self.world.clock.elapsed))
        await self.world.controller.resync()
        await self.world.settle()
        live = [self.world.cluster.objects["Pod", KEY[0], name] for name in self.pods(*LIVE)]
        assert [body["metadata"]["name"] for body in live if "deletionTimestamp" not in body["metadata"]] == []
