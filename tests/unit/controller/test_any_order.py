"""Whatever happens to Pods, watches, requests and the operator, in whatever order: the job comes to a legal end."""

from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from sftjob_contract.names import KIND
from sftjob_contract.reports.progress import Checkpoint
from sftjob_operator.effects.cluster import ConflictError, ForbiddenError, Object, UnavailableError
from support.fakes.crash_points import CrashPoint, Moment
from support.fakes.fake_cluster import gated, running, unschedulable, waiting
from support.fakes.job_machine import KEY, LONG_SECONDS, JobMachine
from support.fakes.progress import a_progress
from support.jobs.builders import a_job

ENDS = (0, 65, 70, 75, 76, 77, 137, 143)
WAITS = (waiting("ImagePullBackOff", "not found"), unschedulable("0/3 nodes"), gated())
FAILURES = (UnavailableError("timeout"), UnavailableError("slow down", 2), ForbiddenError("quota"))


class AnyOrder(JobMachine):
    """One job among everything that can go wrong."""

    @initialize(retries=st.integers(0, 3), deadline=st.sampled_from([None, None, 3000]), nodes=st.sampled_from([1, 2]))
    def start(self, retries: int, deadline: int | None, nodes: int) -> None:
        job = a_job().failure_policy(max_retries=retries, backoff_seconds=10).resources(nodes=nodes)
        self.begin(job.set("deadlineSeconds", deadline))

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


AnyOrder.TestCase.settings = settings(
    max_examples=20, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAnyOrder = pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")(AnyOrder.TestCase)
