"""Suspension, deadline and time to live: what is decided when a job may not run, or has long ended."""

from typing import Any

import pytest

from sftjob_contract.names import Stage
from sftjob_contract.reports.progress import Activity, Checkpoint
from sftjob_operator.api import AttemptStatus, SFTJobStatus, replace
from sftjob_operator.reconcile import Decision, Delete, PodPhase, PodView, awaits_cleanup
from support.fakes import decisions
from support.fakes.decisions import PREPARED, a_pod, an_ended_pod, decided, message, said
from support.fakes.fake_cluster import an_outcome, moment
from support.fakes.progress import a_progress
from support.jobs.builders import JobBuilder, a_job

SUSPENDED = a_job().set("suspend", True)
DEADLINE = a_job().set("deadlineSeconds", 100)


def saved(step: int) -> Any:
    """The last word of a trainer that was asked to stop."""
    checkpoint = Checkpoint(step=step, path=f"checkpoints/checkpoint-{step}", bytes=7, time=moment(0))
    progress = a_progress(step, activity=Activity.SAVING, max_steps=96, checkpoints=(checkpoint,))
    return an_outcome(Stage.TRAIN, 75, reason="Interrupted", message="Stopped on request.", progress=progress)


SAVED = an_ended_pod(Stage.TRAIN, 75, outcome=saved(40), deleting=True)


def acts(decision: Decision) -> list[str]:
    """With the uid of what is deleted, so that nothing else of its name is."""
    return [
        f"{act} {action.uid}" if isinstance(action, Delete) else act
        for act, action in zip(decisions.acts(decision), decision.actions, strict=True)
    ]


TRAIN_DELETED = ["delete Pod/demo-train-1 uid-demo-train-1"]
PREPARE_DELETED = ["delete Pod/demo-prepare-1 uid-demo-prepare-1"]


@pytest.mark.parametrize(
    ("pods", "phase", "actions"),
    [
        ((), "Suspended", []),
        ((a_pod(Stage.PREPARE),), "Pending", PREPARE_DELETED),
        ((a_pod(Stage.PREPARE, PodPhase.PENDING),), "Pending", PREPARE_DELETED),
        ((a_pod(Stage.PREPARE, deleting=True),), "Pending", []),
        ((PREPARED,), "Suspended", []),
        ((PREPARED, a_pod(Stage.TRAIN)), "Pending", TRAIN_DELETED),
        ((PREPARED, a_pod(Stage.TRAIN, PodPhase.PENDING)), "Pending", TRAIN_DELETED),
        ((PREPARED, a_pod(Stage.TRAIN, PodPhase.UNKNOWN)), "Pending", TRAIN_DELETED),
        ((PREPARED, a_pod(Stage.TRAIN, deleting=True)), "Pending", []),
        ((PREPARED, SAVED), "Suspended", []),
        ((PREPARED, an_ended_pod(Stage.TRAIN, 137)), "Suspended", []),
        ((PREPARED, an_ended_pod(Stage.TRAIN, 0)), "Succeeded", []),
        ((PREPARED, an_ended_pod(Stage.TRAIN, 65)), "Failed", []),
        ((an_ended_pod(Stage.PREPARE, 65),), "Failed", []),
    ],
)
def test_a_suspended_job_ends_its_live_pod_and_creates_none(
    pods: tuple[PodView, ...], phase: str, actions: list[str]
) -> None:
    decision = decided(*pods, job=SUSPENDED)
    assert (decision.status.phase, acts(decision)) == (phase, actions)


def test_a_suspended_job_is_said_to_stop_until_its_pod_has_ended() -> None:
    running = decided(PREPARED, a_pod(Stage.TRAIN), job=a_job()).status
    job = SUSPENDED.with_status(running)
    decision = decided(PREPARED, a_pod(Stage.TRAIN, deleting=True), job=job)
    assert decision.status.phase == "Running"
    assert said(decision, "Running") == ("True", "Stopping")
    assert "Pod demo-train-1 is terminating" in message(decision, "Running")


@pytest.mark.parametrize(
    ("pods", "prepared", "told"),
    [
        ((), ("Unknown", "Suspended"), "Nothing has been prepared yet."),
        ((PREPARED,), ("True", "Prepared"), "1,805 training rows and 95 evaluation rows are prepared"),
        ((an_ended_pod(Stage.PREPARE, 0),), ("True", "Prepared"), "Model and data are prepared."),
        ((PREPARED, an_ended_pod(Stage.TRAIN, 143)), ("True", "Prepared"), "No training step has been reported."),
        (
            (PREPARED, SAVED),
            ("True", "Prepared"),
            "Training reached step 40 of 96; the newest checkpoint is pvc://demo/checkpoints/checkpoint-40.",
        ),
    ],
)
def test_a_suspended_job_tells_where_it_stands_and_how_to_go_on(
    pods: tuple[PodView, ...], prepared: tuple[str, str], told: str
) -> None:
    decision = decided(*pods, job=SUSPENDED)
    assert said(decision, "Prepared") == prepared
    assert said(decision, "Running") == ("False", "Suspended")
    assert said(decision, "Succeeded") == ("Unknown", "Suspended")
    assert told in message(decision, "Running")
    patch = """kubectl patch sft -n team demo --type=merge -p '{"spec":{"suspend":false}}'"""
    assert patch in message(decision, "Running")
    assert decision.recheck_seconds is None


@pytest.mark.parametrize(
    ("pod", "reason", "reached"),
    [
        (SAVED, "Suspended", 40),
        (an_ended_pod(Stage.TRAIN, 143), "Suspended", None),
        (an_ended_pod(Stage.TRAIN, 137), "Suspended", None),
        (an_ended_pod(Stage.TRAIN, None, reason="Evicted"), "Suspended", None),
        (an_ended_pod(Stage.TRAIN, 137, reason="OOMKilled"), "HostOutOfMemory", None),
        (an_ended_pod(Stage.TRAIN, 70), "InternalError", None),
    ],
)
def test_an_attempt_that_ended_by_suspension_is_recorded_as_such(pod: PodView, reason: str, reached: int) -> None:
    attempt = decided(PREPARED, pod, job=SUSPENDED).status.attempts[-1]
    assert (attempt.reason, attempt.reached_step) == (reason, reached)


def test_a_pod_that_vanished_while_the_job_is_suspended_is_no_loss() -> None:
    attempt = AttemptStatus(stage=Stage.TRAIN, number=1, pod="demo-train-1", reached_step=30)
    decision = decided(job=SUSPENDED.with_status(SFTJobStatus(attempts=(attempt,))))
    (closed,) = decision.status.attempts
    assert (closed.reason, closed.reached_step, closed.end_time) == ("Suspended", 30, moment(0))


def test_a_suspension_is_free_however_often_it_comes() -> None:
    job = a_job().set("suspend", True).failure_policy(max_retries=0, backoff_seconds=3600)
    pods = [an_ended_pod(Stage.TRAIN, 137, attempt, deleting=True) for attempt in range(1, 8)]
    rests = decided(PREPARED, *pods, job=job)
    assert rests.status.phase == "Suspended"
    resumed = decided(PREPARED, *pods, job=job.set("suspend", False).with_status(rests.status))
    assert acts(resumed) == ["create ConfigMap/demo-config", "create Pod/demo-train-8"]
    assert resumed.status.phase == "Restarting"


def test_a_suspension_that_is_taken_back_waits_for_the_old_pod_to_end() -> None:
    stopping = decided(PREPARED, a_pod(Stage.TRAIN), job=SUSPENDED).status
    resumed = a_job().failure_policy(max_retries=0).with_status(stopping)
    waits = decided(PREPARED, a_pod(Stage.TRAIN, deleting=True), job=resumed)
    assert acts(waits) == []
    assert said(waits, "Running") == ("True", "Stopping")
    killed = an_ended_pod(Stage.TRAIN, 137, deleting=True)
    goes_on = decided(PREPARED, killed, job=resumed.with_status(waits.status))
    assert acts(goes_on) == ["create ConfigMap/demo-config", "create Pod/demo-train-2"]


def test_the_end_of_a_suspended_attempt_is_no_warning() -> None:
    running = decided(PREPARED, a_pod(Stage.TRAIN), job=a_job()).status
    decision = decided(PREPARED, SAVED, job=SUSPENDED.with_status(running))
    assert [(event.type, event.reason) for event in decision.events] == [("Normal", "Suspended")]


@pytest.mark.parametrize(
    ("seconds", "recheck", "phase", "actions"),
    [(0, 100, "Running", []), (99, 1, "Running", []), (100, None, "Running", TRAIN_DELETED)],
)
def test_the_deadline_counts_from_creation(
    seconds: float, recheck: float | None, phase: str, actions: list[str]
) -> None:
    train = a_pod(Stage.TRAIN, started=moment(seconds))
    status = decided(PREPARED, train, job=a_job()).status
    job = DEADLINE.with_status(status)
    decision = decided(PREPARED, train, job=job, seconds=seconds)
    assert (decision.status.phase, acts(decision)) == (phase, actions)
    assert decision.recheck_seconds == (min(recheck, 90) if recheck is not None else 90)


@pytest.mark.parametrize(
    ("pods", "phase", "reason"),
    [
        ((), "Failed", "DeadlineExceeded"),
        ((PREPARED,), "Failed", "DeadlineExceeded"),
        ((PREPARED, SAVED), "Failed", "DeadlineExceeded"),
        ((PREPARED, an_ended_pod(Stage.TRAIN, 137, deleting=True)), "Failed", "DeadlineExceeded"),
        ((PREPARED, an_ended_pod(Stage.TRAIN, 0)), "Succeeded", "Completed"),
        ((PREPARED, an_ended_pod(Stage.TRAIN, 77)), "Failed", "Diverged"),
    ],
)
@pytest.mark.parametrize("suspend", [False, True])
def test_a_job_over_its_deadline_fails_unless_it_has_ended(
    pods: tuple[PodView, ...], phase: str, reason: str, suspend: bool
) -> None:
    job = DEADLINE.set("suspend", suspend).failure_policy(max_retries=0)
    decision = decided(*pods, job=job, seconds=500)
    assert (decision.status.phase, said(decision, "Succeeded")[1]) == (phase, reason)
    assert acts(decision) == []
    assert decision.recheck_seconds is None
    if reason == "DeadlineExceeded":
        assert decision.status.completion_time == moment(500)
        assert "within 100 s of its creation (spec.deadlineSeconds)" in message(decision, "Succeeded")


def test_a_missed_deadline_tells_the_last_step_and_checkpoint() -> None:
    decision = decided(PREPARED, SAVED, job=DEADLINE, seconds=100)
    assert "step 40 of 96; the newest checkpoint is pvc://demo/checkpoints/checkpoint-40" in message(
        decision, "Succeeded"
    )
    assert decision.status.attempts[-1].reason == "DeadlineExceeded"


def test_a_deadline_wakes_a_job_that_waits() -> None:
    assert decided(job=DEADLINE.set("suspend", True), seconds=30).recheck_seconds == 70


def finished(ttl: int, **storage: Any) -> JobBuilder:
    job = a_job().set("ttlSecondsAfterFinished", ttl).storage(**storage)
    return job.with_status(decided(PREPARED, an_ended_pod(Stage.TRAIN, 0), job=job).status)


CHILDREN = [
    "delete Pod/demo-prepare-1 uid-demo-prepare-1",
    "delete Pod/demo-train-1 None",
    "delete ConfigMap/demo-config None",
    "delete PersistentVolumeClaim/demo None",
]


@pytest.mark.parametrize(
    ("storage", "kept", "told"),
    [
        ({}, 0, "Its Pods and volume were deleted after 60 s (spec.ttlSecondsAfterFinished)."),
        ({"retain": True}, 1, "Its Pods were deleted after 60 s (spec.ttlSecondsAfterFinished); the volume is kept."),
        ({"existingClaim": "shared"}, 1, "the volume is kept."),
    ],
)
def test_a_finished_job_is_cleaned_up_when_its_time_to_live_is_over(
    storage: dict[str, Any], kept: int, told: str
) -> None:
    job = finished(60, **storage)
    before = decided(PREPARED, job=job, seconds=59)
    assert (acts(before), before.recheck_seconds, before.status) == ([], 1, job.build().status)
    decision = decided(PREPARED, job=job, seconds=60)
    assert acts(decision) == CHILDREN[: len(CHILDREN) - kept]
    assert decision.status.cleanup_time == moment(60)
    assert decision.status.phase == "Succeeded"
    assert said(decision, "Succeeded") == ("True", "Completed")
    assert told in message(decision, "Succeeded")


def test_a_job_is_cleaned_up_once() -> None:
    job = finished(60)
    cleaned = decided(PREPARED, job=job, seconds=60).status
    again = decided(PREPARED, job=job.with_status(cleaned), seconds=9999)
    assert (acts(again), again.status, again.recheck_seconds, again.events) == ([], cleaned, None, ())


def test_a_failed_job_is_cleaned_up_too() -> None:
    job = a_job().set("ttlSecondsAfterFinished", 0)
    job = job.with_status(decided(an_ended_pod(Stage.PREPARE, 65), job=job).status)
    decision = decided(job=job, seconds=1)
    assert decision.status.phase == "Failed"
    assert acts(decision)[0] == "delete Pod/demo-prepare-1 None"


def test_pods_of_another_job_of_the_same_name_are_left_alone() -> None:
    stranger = PodView(
        name="demo-prepare-9", uid="x", owner_uid="another", stage=Stage.PREPARE, attempt=9, phase=PodPhase.FAILED
    )
    assert "demo-prepare-9" not in " ".join(acts(decided(stranger, job=finished(0), seconds=1)))


@pytest.mark.parametrize(
    ("job", "expected"),
    [
        (a_job().set("ttlSecondsAfterFinished", 5), False),
        (finished(5), True),
        (finished(5).set("ttlSecondsAfterFinished", None), False),
        (finished(5).with_status(replace(finished(5).build().status, cleanup_time=moment(9))), False),
    ],
    ids=["not finished", "finished", "without a time to live", "cleaned up"],
)
def test_only_a_finished_job_that_was_not_cleaned_up_is_still_looked_at(job: JobBuilder, expected: bool) -> None:
    assert awaits_cleanup(job.body()) is expected


def test_a_change_after_the_end_is_seen_once_and_does_nothing_else() -> None:
    job = finished(5).set("ttlSecondsAfterFinished", None).meta(generation=2)
    assert awaits_cleanup(job.body())
    decision = decided(job=job, seconds=9999)
    assert decision.status == replace(job.build().status, observed_generation=2)
    assert (decision.actions, decision.events, decision.recheck_seconds) == ((), (), None)
    assert not awaits_cleanup(job.with_status(decision.status).body())
