"""A job that an image of the user's own trains: nothing is prepared, and nothing is claimed to be known of its run."""

from typing import Any

import pytest

from sftjob_contract.names import Stage
from sftjob_contract.reports.progress import Activity
from sftjob_operator.api import SFTJobStatus
from sftjob_operator.reconcile import Decision, PodPhase, PodView, Report
from support.fakes import decisions
from support.fakes.decisions import condition, created
from support.fakes.fake_cluster import an_outcome, moment
from support.jobs.builders import JobBuilder, a_command

DAY = 24 * 3600
CHILDREN = ["PersistentVolumeClaim/demo", "ConfigMap/demo-config", "Pod/demo-train-1"]


def a_pod(phase: PodPhase = PodPhase.RUNNING, attempt: int = 1, **parts: Any) -> PodView:
    return decisions.a_pod(Stage.TRAIN, phase, attempt, **parts)


def an_ended_pod(exit_code: int, attempt: int = 1, **parts: Any) -> PodView:
    return decisions.an_ended_pod(Stage.TRAIN, exit_code, attempt, **parts)


def a_report(step: int, activity: Activity = Activity.TRAINING) -> Report:
    unknown = {"resumed_from_step": None, "tokens": None}
    return decisions.a_report(step, activity=activity, max_steps=100, loss=2.5, eta_seconds=90, **unknown)


def decided(*pods: PodView, job: JobBuilder | None = None, **observed: Any) -> Decision:
    return decisions.decided(*pods, job=job or a_command(), **observed)


@pytest.mark.parametrize(
    ("pods", "phase", "actions"),
    [
        ((), "Pending", CHILDREN),
        ((a_pod(PodPhase.PENDING),), "Pending", []),
        ((a_pod(PodPhase.PENDING, unschedulable="0/1 nodes"),), "Queued", []),
        ((a_pod(),), "Running", []),
        ((an_ended_pod(0),), "Succeeded", []),
        ((an_ended_pod(1),), "Restarting", []),
        ((an_ended_pod(75), a_pod(attempt=2)), "Running", []),
    ],
    ids=["nothing", "created", "unschedulable", "running", "done", "failed", "second attempt"],
)
def test_it_trains_at_once(pods: tuple[PodView, ...], phase: str, actions: list[str]) -> None:
    decision = decided(*pods)
    assert (decision.status.phase, created(decision)) == (phase, actions)
    assert condition(decision, "Prepared") == (
        *("True", "Prepared"),
        "Nothing to prepare: spec.command loads model and data itself.",
    )


@pytest.mark.parametrize(
    ("exit_code", "seconds", "phase", "actions"),
    [
        (75, 1, "Restarting", [*CHILDREN[:2], "Pod/demo-train-2"]),
        (1, 2, "Restarting", [*CHILDREN[:2], "Pod/demo-train-2"]),
        (137, 2, "Restarting", [*CHILDREN[:2], "Pod/demo-train-2"]),
        (65, 2, "Failed", []),
        (66, 2, "Failed", []),
        (76, 2, "Failed", []),
        (77, 2, "Failed", []),
    ],
)
def test_what_follows_from_its_exit_code(exit_code: int, seconds: float, phase: str, actions: list[str]) -> None:
    decision = decided(an_ended_pod(exit_code), seconds=seconds)
    assert (decision.status.phase, created(decision)) == (phase, actions)


def test_its_failure_is_told_with_the_last_lines_of_its_log_and_without_advice_about_our_trainer() -> None:
    job = a_command().failure_policy(max_retries=0)
    decision = decided(an_ended_pod(1, last_lines="Traceback | ValueError: no such column: text"), job=job)
    assert condition(decision, "Succeeded") == (
        *("False", "InternalError"),
        (
            "The trainer ended with exit code 1 and no message. Its log ends with: Traceback | ValueError: no "
            "such column: text. spec.command names the program: correct it or its arguments, and create a new "
            "SFTJob. Log: kubectl logs -n team demo-train-1"
        ),
    )


@pytest.mark.parametrize(
    ("pod", "hint"),
    [
        (an_ended_pod(137, reason="OOMKilled"), "Raise spec.resources.memory."),
        (an_ended_pod(139), "Check the node's log for the sender of the signal."),
    ],
    ids=["out of memory", "a signal"],
)
def test_what_is_not_its_own_doing_has_the_usual_advice(pod: PodView, hint: str) -> None:
    decision = decided(pod, job=a_command().failure_policy(max_retries=0))
    assert hint in condition(decision, "Succeeded")[2]


def test_its_report_is_told_but_never_as_complete_before_it_has_succeeded() -> None:
    last_step = a_report(100)
    running = decided(a_pod(started=moment(0)), report=last_step).status
    assert running.progress is not None
    assert (running.progress.step, running.progress.percent, running.progress.loss) == (100, 99, 2.5)
    ended = decided(an_ended_pod(0), report=last_step).status
    assert ended.progress is not None
    assert (ended.progress.percent, ended.progress.eta) == (100, None)


def test_an_early_stop_is_not_complete_before_it_has_succeeded() -> None:
    running = decided(a_pod(started=moment(0)), report=a_report(30, Activity.FINISHED)).status
    assert running.progress is not None
    assert running.progress.percent == 30


def test_a_step_that_it_resumed_from_is_not_made_up() -> None:
    (attempt,) = decided(a_pod(started=moment(0)), report=a_report(30)).status.attempts
    assert (attempt.from_step, attempt.reached_step) == (None, 30)


def test_it_may_be_silent_for_as_long_as_it_likes() -> None:
    never = decided(a_pod(started=moment(0)), seconds=DAY)
    assert condition(never, "ProgressReporting")[:2] == ("Unknown", "Waiting")
    since = decided(a_pod(started=moment(0)), report=a_report(30), seconds=DAY)
    assert condition(since, "ProgressReporting")[:2] == ("False", "ReportsMissing")
    assert [decision.status.phase for decision in (never, since)] == ["Running", "Running"]
    assert never.actions == since.actions == ()


def test_it_is_suspended_and_what_it_saved_is_left_to_it() -> None:
    report, job = a_report(30), a_command().set("suspend", value=True)
    (deletion,) = decided(a_pod(started=moment(0)), job=job, report=report).actions
    assert getattr(deletion, "name", None) == "demo-train-1"
    rests = decided(an_ended_pod(143, deleting=True), job=job, report=report)
    assert rests.status.phase == "Suspended"
    assert "step 30 of 100; only the command knows what it saved." in condition(rests, "Running")[2]


def test_what_it_claims_to_have_prepared_makes_no_plan() -> None:
    job = a_command().with_status(SFTJobStatus())
    outcome = an_outcome(Stage.TRAIN, exit_code=76)
    status = decided(an_ended_pod(76, outcome=outcome), job=job).status
    assert (status.plan, status.method, status.adjustments) == (None, None, ())


def test_its_end_names_the_volume() -> None:
    assert condition(decided(an_ended_pod(0)), "Succeeded") == (
        *("True", "Completed"),
        "The command ended with exit code 0; its files on the job's volume are at pvc://demo.",
    )


@pytest.mark.parametrize(("step", "percent"), [(100, 100), (52, 52), (0, 0)])
def test_step_and_percent_of_one_that_succeeded_are_what_its_last_report_says(step: int, percent: int) -> None:
    status = decided(a_pod(), report=a_report(30)).status
    ended = decided(an_ended_pod(0), job=a_command().with_status(status), report=a_report(step, Activity.FINISHED))
    assert ended.status.phase == "Succeeded"
    assert (ended.status.progress.step, ended.status.progress.percent) == (step, percent)
