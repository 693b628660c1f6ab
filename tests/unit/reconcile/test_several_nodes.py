"""An attempt of several Pods, one on each node: they begin, run, fail and succeed as one."""

from typing import Any

import pytest

from sftjob_contract.names import Stage
from sftjob_contract.reports.outcome import Output
from sftjob_operator.api import AttemptStatus, SFTJobStatus
from sftjob_operator.reconcile import Decision, PodPhase, PodView
from support.fakes import decisions
from support.fakes.decisions import PREPARED, a_pod, an_ended_pod, condition
from support.fakes.fake_cluster import an_outcome, moment
from support.jobs.builders import JobBuilder, a_job

NODES = 3
JOB = a_job().resources(nodes=NODES).storage(access_modes=["ReadWriteMany"]).failure_policy(backoff_seconds=0)


def pending(rank: int, attempt: int = 1, **parts: Any) -> PodView:
    return a_pod(Stage.TRAIN, parts.pop("phase", PodPhase.PENDING), attempt, rank=rank, **parts)


def running(rank: int, attempt: int = 1, **parts: Any) -> PodView:
    return pending(rank, attempt, phase=PodPhase.RUNNING, started=moment(rank), **parts)


def ended(rank: int, exit_code: int | None, attempt: int = 1, seconds: float = 9, **parts: Any) -> PodView:
    return an_ended_pod(Stage.TRAIN, exit_code, attempt, seconds, rank=rank, started=moment(rank), **parts)


def decided(*pods: PodView, job: JobBuilder = JOB, seconds: float = 10) -> Decision:
    return decisions.decided(PREPARED, *pods, job=job, seconds=seconds)


def acts(decision: Decision) -> list[str]:
    """Without kinds: a Service and a Pod of one name would be seen by their numbers."""
    return [act.replace("Service/", "").replace("Pod/", "") for act in decisions.acts(decision)]


def attempt(decision: Decision, number: int = 1) -> AttemptStatus:
    (found,) = [a for a in decision.status.attempts if (a.stage, a.number) == (Stage.TRAIN, number)]
    return found


SERVICE = "create demo-train"
CONFIG = "create ConfigMap/demo-config"
ALL = [CONFIG, SERVICE, "create demo-train-1-0", "create demo-train-1-1", "create demo-train-1-2"]


@pytest.mark.parametrize(
    ("pods", "phase", "actions"),
    [
        ((), "Preparing", ALL),
        ((pending(0), pending(1), pending(2)), "Preparing", []),
        ((running(0), running(1), pending(2)), "Preparing", []),
        ((running(0), running(1), pending(2, unschedulable="0/3 nodes")), "Queued", []),
        ((pending(0), pending(1, gated=True), pending(2)), "Queued", []),
        ((running(0), running(1), running(2)), "Running", []),
        ((ended(0, 0), running(1), ended(2, 0)), "Running", []),
        ((ended(0, 0), ended(1, 0), ended(2, 0)), "Succeeded", []),
    ],
)
def test_an_attempt_is_as_far_as_the_last_of_its_pods(
    pods: tuple[PodView, ...], phase: str, actions: list[str]
) -> None:
    decision = decided(*pods)
    assert (decision.status.phase, acts(decision)) == (phase, actions)


@pytest.mark.parametrize(
    ("pods", "created"),
    [
        ((pending(0),), ["demo-train-1-1", "demo-train-1-2"]),
        ((running(0),), ["demo-train-1-1", "demo-train-1-2"]),
        ((running(0), running(1)), ["demo-train-1-2"]),
        ((pending(1), pending(2)), ["demo-train-1-0"]),
    ],
)
def test_pods_that_were_not_created_yet_are_added(pods: tuple[PodView, ...], created: list[str]) -> None:
    decision = decided(*pods)
    assert acts(decision) == [SERVICE, *(f"create {name}" for name in created)]
    assert [(a.stage, a.number, a.pod) for a in decision.status.attempts[1:]] == [("train", 1, "demo-train-1-0")]


@pytest.mark.parametrize(
    ("pods", "deleted", "why"),
    [
        ((running(0), ended(1, 137), running(2)), [0, 2], "Pod demo-train-1-1 failed."),
        ((ended(0, 70), running(1), running(2)), [1, 2], "Pod demo-train-1-0 failed."),
        ((ended(0, 0), ended(1, 137), running(2)), [2], "Pod demo-train-1-1 failed."),
        ((running(0), ended(1, 137), running(2, deleting=True)), [0], "Pod demo-train-1-1 failed."),
        ((pending(0), ended(1, 66), pending(2)), [0, 2], "Pod demo-train-1-1 failed."),
        ((running(0), ended(1, 0)), [0], "Pod demo-train-1-2 no longer exists."),
    ],
)
def test_a_pod_that_fails_ends_the_others(pods: tuple[PodView, ...], deleted: list[int], why: str) -> None:
    decision = decided(*pods)
    assert acts(decision) == [f"delete demo-train-1-{rank}" for rank in deleted]
    assert decision.status.phase == "Restarting"
    status, reason, message = condition(decision, "Running")
    assert (status, reason) == ("False", "Stopping")
    assert why in message
    assert attempt(decision).end_time is None


def test_a_pod_that_vanishes_from_a_running_attempt_ends_the_others() -> None:
    seen = decided(running(0), running(1), running(2)).status
    decision = decided(running(0), running(2), job=JOB.with_status(seen))
    assert acts(decision) == ["delete demo-train-1-0", "delete demo-train-1-2"]
    assert "Pod demo-train-1-1 no longer exists." in condition(decision, "Running")[2]
    closed = decided(ended(0, 75, deleting=True), ended(2, 75, deleting=True), job=JOB.with_status(decision.status))
    assert (attempt(closed).reason, attempt(closed).exit_code) == ("PodLost", None)
    assert "Pod demo-train-1-1 disappeared" in attempt(closed).message


@pytest.mark.parametrize("left", [(running(0, deleting=True),), (pending(0, deleting=True), running(2, deleting=True))])
def test_the_next_attempt_starts_only_when_every_pod_of_the_last_one_has_ended(left: tuple[PodView, ...]) -> None:
    gone = [ended(rank, 137) for rank in range(NODES) if rank not in [pod.rank for pod in left]]
    assert acts(decided(*left, *gone)) == []
    over = [ended(pod.rank, 143, deleting=True) for pod in left]
    restart = decided(*over, *gone)
    assert acts(restart) == [name.replace("train-1", "train-2") for name in ALL]
    assert [a.number for a in restart.status.attempts] == [1, 1, 2]


@pytest.mark.parametrize(
    ("pods", "exit_code", "reason"),
    [
        ((ended(0, 70, seconds=8), ended(1, 137, seconds=5), ended(2, 70, seconds=8)), 137, "Killed"),
        ((ended(0, 75, seconds=3, deleting=True), ended(1, 70, seconds=5), ended(2, 0)), 70, "InternalError"),
        ((ended(0, 0), ended(1, 0), ended(2, 76)), 76, "GpuOutOfMemory"),
        ((ended(0, 75, deleting=True), ended(1, 75, deleting=True), ended(2, 75, deleting=True)), 75, "Interrupted"),
        ((ended(0, 0), ended(1, 0)), None, "PodLost"),
    ],
)
def test_the_pod_that_failed_first_by_itself_tells_why(
    pods: tuple[PodView, ...], exit_code: int | None, reason: str
) -> None:
    last = attempt(decided(*pods))
    assert (last.exit_code, last.reason) == (exit_code, reason)


@pytest.mark.parametrize(
    ("first", "reason"),
    [
        (ended(0, 70, seconds=8), "Preempted"),
        (ended(0, 75, seconds=3), "Preempted"),
        (ended(0, 77, seconds=8), "Diverged"),
        (ended(0, 70, seconds=8, reason="OOMKilled"), "HostOutOfMemory"),
    ],
)
def test_a_pod_that_fails_since_another_was_taken_away_is_not_to_blame(first: PodView, reason: str) -> None:
    taken = ended(1, 137, seconds=5, deleting=True, disruption="PreemptionByScheduler")
    decision = decided(first, taken, ended(2, 75, seconds=8))
    assert attempt(decision).reason == reason


def test_the_result_is_told_by_rank_0() -> None:
    outcome = an_outcome(Stage.TRAIN, output=Output(path="output/model", metrics={"evalLoss": 1.5}))
    decision = decided(ended(0, 0, outcome=outcome), ended(1, 0), ended(2, 0, seconds=20), seconds=20)
    assert decision.status.output.metrics == {"evalLoss": 1.5}
    assert decision.status.completion_time == moment(20)
    (last,) = decision.status.attempts[1:]
    assert (last.pod, last.start_time, last.end_time) == ("demo-train-1-0", moment(2), moment(20))


def test_a_suspended_job_ends_all_of_them() -> None:
    suspended = JOB.set("suspend", True)
    decision = decided(running(0), pending(1), job=suspended)
    assert acts(decision) == ["delete demo-train-1-0", "delete demo-train-1-1"]
    rests = decided(ended(0, 143, deleting=True), job=suspended.with_status(decision.status))
    assert rests.status.phase == "Suspended"
    assert attempt(rests).reason == "Suspended"


def test_all_are_cleaned_up() -> None:
    done = SFTJobStatus(
        attempts=(AttemptStatus(stage=Stage.TRAIN, number=1, pod="demo-train-1-0", end_time=moment(0), exit_code=0),)
    )
    job = JOB.set("ttlSecondsAfterFinished", 0)
    over = decided(job=job.with_status(done))
    assert over.status.phase == "Succeeded"
    assert acts(decided(job=job.with_status(over.status), seconds=20)) == [
        "delete demo-prepare-1",
        "delete demo-train-1-0",
        "delete demo-train-1-1",
        "delete demo-train-1-2",
        "delete demo-train",
        "delete ConfigMap/demo-config",
        "delete PersistentVolumeClaim/demo",
    ]
