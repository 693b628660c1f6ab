"""Whatever happens to Pods, watches, requests and the operator, in whatever order: the job comes to a legal end."""

import asyncio
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from sftjob_contract.names import KIND, Stage
from sftjob_contract.progress import Checkpoint
from sftjob_operator.effects.cluster import ConflictError, ForbiddenError, Object, UnavailableError
from support.builders import a_job
from support.crash_points import CrashPoint, Moment, MortalCluster, MortalWorld
from support.fake_cluster import an_outcome, ended, gated, running, unschedulable, waiting
from support.legal import illegal_transitions, shrunk_attempts, unheard_checkpoints
from support.progress import a_progress

KEY = ("team", "demo")
ENDS = (0, 65, 70, 75, 76, 77, 137, 143)
WAITS = (waiting("ImagePullBackOff", "not found"), unschedulable("0/3 nodes"), gated())
FAILURES = (UnavailableError("timeout"), UnavailableError("slow down", 2), ForbiddenError("quota"))
LONG_SECONDS = 700.0
"""Longer than any backoff."""
LAST_TURNS = 60


class Told(MortalCluster):
    """A cluster that keeps every status that the job has had."""

    def __init__(self) -> None:
        super().__init__()
        self.statuses: list[Object] = []

    def store(self, body: Object, event: str) -> Object:
        if body["kind"] == KIND:
            self.statuses.append(body.get("status") or {})
        return super().store(body, event)


class AnyOrder(RuleBasedStateMachine):
    """One job among everything that can go wrong."""

    @initialize(retries=st.integers(0, 3), deadline=st.sampled_from([None, None, 3000]), nodes=st.sampled_from([1, 2]))
    def start(self, retries: int, deadline: int | None, nodes: int) -> None:
        self.runner = asyncio.Runner()
        self.world = MortalWorld(Told())
        self.checkpoints: set[int] = set()
        job = a_job().failure_policy(max_retries=retries, backoff_seconds=10).resources(nodes=nodes)
        self.do(self.world.apply(job.set("deadlineSeconds", deadline)))

    def do(self, work: Any) -> None:
        self.runner.run(work)

    def pods(self, *phases: str) -> list[str]:
        bodies = [body for (kind, _, _), body in self.world.cluster.objects.items() if kind == "Pod"]
        return sorted(
            body["metadata"]["name"] for body in bodies if (body.get("status") or {}).get("phase", "Pending") in phases
        )

    # What the cluster does

    @precondition(lambda self: self.pods("Pending"))
    @rule(data=st.data(), status=st.sampled_from(WAITS))
    def a_pod_waits(self, data: Any, status: Object) -> None:
        self.do(self.world.pod(data.draw(st.sampled_from(self.pods("Pending"))), status))

    @precondition(lambda self: self.pods("Pending"))
    @rule(data=st.data())
    def a_pod_starts(self, data: Any) -> None:
        name = data.draw(st.sampled_from(self.pods("Pending")))
        self.do(self.world.pod(name, running(self.world.clock.elapsed)))

    @precondition(lambda self: self.pods("Running", "Unknown"))
    @rule(data=st.data(), code=st.sampled_from(ENDS), speaks=st.booleans(), heard=st.booleans())
    def a_pod_ends(self, data: Any, code: int, speaks: bool, heard: bool) -> None:
        name = data.draw(st.sampled_from(self.pods("Running", "Unknown")))
        self.world.set_pod(name, self.end(name, code, speaks))
        if not heard:
            self.world.cluster.undelivered.clear()
        self.do(self.world.settle())

    def end(self, name: str, code: int, speaks: bool) -> Object:
        """How a Pod ends, with a last word or without."""
        stage = Stage.PREPARE if "-prepare-" in name else Stage.TRAIN
        said = an_outcome(stage, code, message="As told.") if speaks and code < 128 else None
        return ended(code, said, seconds=self.world.clock.elapsed)

    @precondition(lambda self: self.pods("Pending", "Running", "Unknown", "Succeeded", "Failed"))
    @rule(data=st.data(), heard=st.booleans())
    def a_pod_vanishes(self, data: Any, heard: bool) -> None:
        name = data.draw(st.sampled_from(self.pods("Pending", "Running", "Unknown", "Succeeded", "Failed")))
        self.world.cluster.remove("Pod", KEY[0], name)
        if not heard:
            self.world.cluster.undelivered.clear()
        self.do(self.world.settle())

    @precondition(lambda self: self.pods("Running"))
    @rule()
    def a_node_falls_silent(self) -> None:
        self.do(self.world.pod(self.pods("Running")[0], running() | {"phase": "Unknown"}))

    @rule(verb=st.sampled_from(["create", "get", "delete"]), error=st.sampled_from(FAILURES))
    def a_request_about_a_pod_fails(self, verb: str, error: Exception) -> None:
        self.world.cluster.failures.append((verb, "Pod", error))

    @rule(error=st.sampled_from([ConflictError("modified"), UnavailableError("timeout")]))
    def a_status_write_fails(self, error: Exception) -> None:
        self.world.cluster.failures.append(("patch", KIND, error))

    # What the operator, its user, the trainer and the clock do

    @rule(writes=st.integers(1, 4), moment=st.sampled_from(Moment))
    def the_operator_dies_soon(self, writes: int, moment: Moment) -> None:
        self.world.mortal.crash = CrashPoint(len(self.world.mortal.writes) + writes, moment)

    @rule()
    def the_operator_restarts(self) -> None:
        self.do(self.world.restart_operator())

    @rule()
    def everything_is_listed(self) -> None:
        self.do(self.world.controller.resync())
        self.do(self.world.settle())

    @rule()
    def its_user_suspends_or_resumes(self) -> None:
        suspended = self.world.cluster.objects[KIND, *KEY]["spec"].get("suspend", False)
        self.do(self.world.change(KEY, suspend=not suspended))

    @rule(step=st.integers(1, 99), attempt=st.integers(1, 4))
    def a_trainer_reports(self, step: int, attempt: int) -> None:
        self.checkpoints.add(step)
        checkpoint = Checkpoint(step=step, path=f"checkpoints/checkpoint-{step}", bytes=1, time="2026-03-01T12:00:00Z")
        progress = a_progress(step, attempt, checkpoints=(checkpoint,))
        self.world.controller.report(KEY, progress)
        self.do(self.world.settle())

    @rule(seconds=st.sampled_from([1.0, 15.0, LONG_SECONDS]))
    def time_passes(self, seconds: float) -> None:
        self.do(self.world.pass_time(seconds))

    # What always holds

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
        assert isinstance(self.world.cluster, Told)
        statuses = self.world.cluster.statuses
        return [status for status in statuses if status] or [{}]

    def teardown(self) -> None:
        if not hasattr(self, "runner"):
            return
        try:
            self.do(self.comes_to_an_end())
        finally:
            self.runner.close()

    async def comes_to_an_end(self) -> None:
        """From here on nothing goes wrong: within a bounded time the job has ended, and nothing of it runs."""
        self.world.mortal.crash = None
        self.world.cluster.failures.clear()
        await self.world.change(KEY, suspend=False)
        for _ in range(LAST_TURNS):
            for name in self.pods("Pending"):
                await self.world.pod(name, running(self.world.clock.elapsed))
            for name in self.pods("Running", "Unknown"):
                await self.world.pod(name, self.end(name, 0, speaks=True))
            await self.world.controller.resync()
            await self.world.pass_time(LONG_SECONDS)
        assert self.world.status(KEY)["phase"] in ("Succeeded", "Failed")
        assert self.pods("Pending", "Running", "Unknown") == []
        self.phases_follow_each_other_as_they_may()


AnyOrder.TestCase.settings = settings(
    max_examples=40, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAnyOrder = pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")(AnyOrder.TestCase)
