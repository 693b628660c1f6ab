"""Whatever the server refuses or forgets to answer, in whatever order: once it is well, the job ends as it should."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, precondition, rule

from sftjob_contract.names import KIND
from sftjob_operator.effects.cluster import ConflictError, UnavailableError
from support.fakes.crash_points import CrashPoint, Moment
from support.fakes.denials import DENIALS, DRAINING
from support.fakes.fake_cluster import running
from support.fakes.job_machine import KEY, LIVE, LONG_SECONDS, JobMachine
from support.jobs.builders import a_job

CHILDREN = ("PersistentVolumeClaim", "ConfigMap", "Service", "Pod")
REFUSALS = {denial.what: denial for denial in (*DENIALS, *DRAINING)}
ANSWERS = [
    *((kind, what) for kind in CHILDREN for what, denial in REFUSALS.items() if denial.fits(kind)),
    *((kind, lost) for kind in CHILDREN for lost in ("lost_answers", "late_creates") * 3),
]
"""What the server answers to the create of a kind of object: a denial, or nothing (see Told)."""
DEADLINE_SECONDS = 5000


class AnyRefusal(JobMachine):
    """One job, whose Pods do what they should; nothing else does."""

    @initialize(
        deadline=st.sampled_from([None, None, DEADLINE_SECONDS]),
        nodes=st.sampled_from([1, 2]),
        answers=st.lists(st.sampled_from(ANSWERS), max_size=4),
    )
    def start(self, deadline: int | None, nodes: int, answers: list[tuple[str, str]]) -> None:
        self.deadline = deadline
        self.creates_are_answered_badly(answers)
        self.begin(a_job().failure_policy(backoff_seconds=10).resources(nodes=nodes).set("deadlineSeconds", deadline))

    # What goes wrong

    @rule(answers=st.lists(st.sampled_from(ANSWERS), min_size=1, max_size=4))
    def creates_are_answered_badly(self, answers: list[tuple[str, str]]) -> None:
        for kind, answer in answers:
            if answer in REFUSALS:
                self.world.cluster.failures.append(("create", kind, REFUSALS[answer].error(kind, KEY[0], "demo")))
            else:
                getattr(self.cluster, answer).append(kind)

    @rule(error=st.sampled_from([ConflictError("modified"), UnavailableError("timeout")]))
    def a_status_write_fails(self, error: Exception) -> None:
        self.world.cluster.failures.append(("patch", KIND, error))

    @rule(writes=st.integers(1, 4), moment=st.sampled_from([*Moment, None]))
    def the_operator_restarts(self, writes: int, moment: Moment | None) -> None:
        if moment is None:
            self.do(self.world.restart_operator())
        else:
            self.world.mortal.crash = CrashPoint(len(self.world.mortal.writes) + writes, moment)

    # What goes on

    @rule()
    def everything_is_listed(self) -> None:
        self.do(self.world.controller.resync())
        self.do(self.world.settle())

    @rule()
    def its_user_suspends_or_resumes(self) -> None:
        suspended = self.world.cluster.objects[KIND, *KEY]["spec"].get("suspend", False)
        self.do(self.world.change(KEY, suspend=not suspended))

    @precondition(lambda self: self.pods(*LIVE))
    @rule(heard=st.booleans())
    def pods_go_on(self, heard: bool) -> None:
        starting = self.pods("Pending")
        for name in starting:
            self.world.set_pod(name, running(self.world.clock.elapsed))
        for name in set(self.pods("Running")) - set(starting):
            self.world.set_pod(name, self.end(name, 0, speaks=True))
        if not heard:
            self.world.cluster.undelivered.clear()
        self.do(self.world.settle())

    @rule(seconds=st.sampled_from([1.0, 15.0, LONG_SECONDS]))
    def time_passes(self, seconds: float) -> None:
        self.do(self.world.pass_time(seconds))

    async def comes_to_an_end(self) -> None:
        await super().comes_to_an_end()
        status = self.world.status(KEY)
        if status["phase"] == "Failed":
            assert self.deadline is not None, status["conditions"]
            assert "DeadlineExceeded" in {condition["reason"] for condition in status["conditions"]}


AnyRefusal.TestCase.settings = settings(
    max_examples=25, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck)
)
TestAnyRefusal = pytest.mark.filterwarnings("ignore::hypothesis.errors.NonInteractiveExampleWarning")(
    AnyRefusal.TestCase
)
