"""One table per check: what is observed, and the phase, conditions and actions that follow."""

import math
import re
from dataclasses import replace as replace_stats
from typing import Any

import pytest

from sftjob_contract.layout import OUTPUT_ADAPTER
from sftjob_contract.names import Stage
from sftjob_contract.reports.outcome import Output
from sftjob_contract.reports.progress import SkippedCheckpoint
from sftjob_operator.api import AttemptStatus, PlanStatus, SFTJobStatus, replace, to_dict
from sftjob_operator.reconcile import Create, CreateError, PodPhase, PodView
from sftjob_operator.reconcile.status.events import events_between
from support.fakes.decisions import PREPARED, STATS, a_pod, a_report, an_ended_pod, created, decided, message, said
from support.fakes.fake_cluster import an_outcome, moment
from support.jobs.builders import a_job
from support.jobs.model_shapes import LLAMA_8B

PREPARE_CHILDREN = ["PersistentVolumeClaim/demo", "ConfigMap/demo-config", "Pod/demo-prepare-1"]


@pytest.mark.parametrize(
    ("pods", "phase", "actions"),
    [
        ((), "Pending", PREPARE_CHILDREN),
        ((a_pod(Stage.PREPARE, PodPhase.PENDING),), "Pending", []),
        ((a_pod(Stage.PREPARE),), "Preparing", []),
        ((a_pod(Stage.PREPARE, PodPhase.UNKNOWN),), "Preparing", []),
        ((PREPARED,), "Preparing", ["ConfigMap/demo-config", "Pod/demo-train-1"]),
        ((PREPARED, a_pod(Stage.TRAIN, PodPhase.PENDING)), "Preparing", []),
        ((PREPARED, a_pod(Stage.TRAIN, PodPhase.PENDING, unschedulable="0/1 nodes")), "Queued", []),
        ((PREPARED, a_pod(Stage.TRAIN)), "Running", []),
        ((PREPARED, a_pod(Stage.TRAIN, PodPhase.UNKNOWN)), "Running", []),
        ((PREPARED, an_ended_pod(Stage.TRAIN, 0)), "Succeeded", []),
        ((an_ended_pod(Stage.TRAIN, 0),), "Succeeded", []),
        ((PREPARED, an_ended_pod(Stage.TRAIN, 137)), "Restarting", []),
        ((an_ended_pod(Stage.PREPARE, 70),), "Restarting", []),
        ((PREPARED, an_ended_pod(Stage.TRAIN, 137), a_pod(Stage.TRAIN, PodPhase.PENDING, 2)), "Restarting", []),
        ((PREPARED, an_ended_pod(Stage.TRAIN, 137), a_pod(Stage.TRAIN, attempt=2)), "Running", []),
    ],
)
def test_the_phase_and_the_actions_follow_from_the_pods(
    pods: tuple[PodView, ...], phase: str, actions: list[str]
) -> None:
    decision = decided(*pods)
    assert (decision.status.phase, created(decision)) == (phase, actions)


@pytest.mark.parametrize(
    ("exit_code", "outcome", "pod_reason", "reason", "text"),
    [
        (65, ("DataInvalid", "train.jsonl:17: no column 'text'"), None, "DataInvalid", "train.jsonl:17: no column"),
        (65, None, None, "ConfigInvalid", "exit code 65"),
        (66, ("AccessDenied", "the hub refuses the token"), None, "AccessDenied", "the hub refuses the token"),
        (66, None, None, "ModelNotFound", "exit code 66"),
        (70, ("DiskFull", "the volume has no room"), None, "DiskFull", "larger storage.size"),
        (77, ("Diverged", "loss is NaN at step 3"), None, "Diverged", "loss is NaN at step 3"),
    ],
)
@pytest.mark.parametrize("stage", list(Stage))
def test_some_ends_are_final_and_say_why_and_where_to_look(
    stage: Stage, exit_code: int | None, outcome: Any, pod_reason: str | None, reason: str, text: str
) -> None:
    left = an_outcome(stage, exit_code, reason=outcome[0], message=outcome[1]) if outcome else None
    pods = () if stage == Stage.PREPARE else (PREPARED,)
    decision = decided(*pods, an_ended_pod(stage, exit_code, outcome=left, reason=pod_reason), seconds=9999)
    assert decision.status.phase == "Failed"
    assert created(decision) == []
    assert said(decision, "Succeeded") == ("False", reason)
    assert text in message(decision, "Succeeded")
    assert f"kubectl logs -n team demo-{stage}-1" in message(decision, "Succeeded")
    assert decision.events[0].type == "Warning"
    assert decision.recheck_seconds is None


@pytest.mark.parametrize(
    ("exit_code", "pod_reason", "reason", "text"),
    [
        (1, "Error", "InternalError", "exit code 1 and no message"),
        (70, "Error", "InternalError", "exit code 70"),
        (137, "Error", "Killed", "Signal 9"),
        (137, "OOMKilled", "HostOutOfMemory", "it exceeded its memory limit"),
        (143, "Error", "Killed", "Signal 15"),
    ],
)
@pytest.mark.parametrize("stage", list(Stage))
def test_other_ends_are_followed_by_another_attempt_after_the_backoff(
    stage: Stage, exit_code: int | None, pod_reason: str | None, reason: str, text: str
) -> None:
    pods = () if stage == Stage.PREPARE else (PREPARED,)
    ended = an_ended_pod(stage, exit_code, reason=pod_reason)
    job = a_job().failure_policy(backoff_seconds=10)
    waiting = decided(*pods, ended, job=job, seconds=4)
    assert waiting.status.phase == "Restarting"
    assert created(waiting) == []
    assert 3.5 <= waiting.recheck_seconds <= 6
    type_ = "Prepared" if stage == Stage.PREPARE else "Running"
    assert said(waiting, type_) == ("False", "BackingOff")
    assert text in message(waiting, type_)
    assert re.search("Attempt 2 starts at 2026-03-01T12:00:(07|08|09|10)Z", message(waiting, type_))
    told = [(event.type, event.reason) for event in waiting.events]
    assert told == [("Normal", "Prepared")] * (stage is not Stage.PREPARE) + [("Warning", reason)]
    assert created(decided(*pods, ended, job=job, seconds=10))[-1] == f"Pod/demo-{stage}-2"


@pytest.mark.parametrize(("failed", "wait"), [(1, 10), (2, 20), (3, 40), (7, 600), (20, 600)])
def test_the_backoff_doubles_up_to_ten_minutes_and_is_up_to_a_quarter_shorter(failed: int, wait: float) -> None:
    job = a_job().failure_policy(max_retries=20, backoff_seconds=10)
    pods = [an_ended_pod(Stage.TRAIN, 137, attempt) for attempt in range(1, failed + 1)]
    assert 0.75 * wait <= decided(PREPARED, *pods, job=job).recheck_seconds <= wait


@pytest.mark.parametrize("backoff_seconds", [0, 1])
@pytest.mark.parametrize("exit_code", [75, 137])
def test_no_crash_loop_spins_whatever_the_backoff(backoff_seconds: int, exit_code: int) -> None:
    job = a_job().failure_policy(max_retries=20, backoff_seconds=backoff_seconds)
    ends = [an_ended_pod(Stage.TRAIN, exit_code, attempt) for attempt in range(1, 21)]
    for attempt in range(3, 21):
        late_in_the_second = decided(PREPARED, *ends[:attempt], job=job, seconds=0.999)
        assert created(late_in_the_second) == []
        assert late_in_the_second.recheck_seconds >= 0.5
    assert late_in_the_second.recheck_seconds > 400


def test_without_a_backoff_the_first_retry_starts_at_once() -> None:
    job = a_job().failure_policy(backoff_seconds=0)
    assert created(decided(PREPARED, an_ended_pod(Stage.TRAIN, 137), job=job)) == [
        "ConfigMap/demo-config",
        "Pod/demo-train-2",
    ]


def test_a_backoff_longer_than_ten_minutes_is_kept_as_asked() -> None:
    job = a_job().failure_policy(backoff_seconds=3600)
    assert 2700 <= decided(PREPARED, an_ended_pod(Stage.TRAIN, 137), job=job).recheck_seconds <= 3600


def test_the_retry_budget_is_spent_and_the_last_failure_told() -> None:
    job = a_job().failure_policy(max_retries=2, backoff_seconds=0)
    pods = [an_ended_pod(Stage.TRAIN, 137, attempt) for attempt in (1, 2, 3)]
    decision = decided(PREPARED, *pods, job=job)
    assert decision.status.phase == "Failed"
    assert said(decision, "Succeeded") == ("False", "RetriesExhausted")
    assert "All 3 attempts of stage train failed, the last one with Killed" in message(decision, "Succeeded")
    assert created(decision) == []


def test_without_retries_the_reason_is_the_failure_itself() -> None:
    decision = decided(PREPARED, an_ended_pod(Stage.TRAIN, 137), job=a_job().failure_policy(max_retries=0))
    assert said(decision, "Succeeded") == ("False", "Killed")


def test_interruptions_cost_no_retry_and_are_followed_at_once_while_the_run_gets_further() -> None:
    job = a_job().failure_policy(max_retries=0, backoff_seconds=10)
    pods = []
    for attempt in range(1, 6):
        progress = a_report(step=10 * attempt, attempt=attempt, resumed_from_step=10 * (attempt - 1)).progress
        outcome = an_outcome(Stage.TRAIN, 75, reason="Interrupted", message="Stopped on request.", progress=progress)
        pods.append(an_ended_pod(Stage.TRAIN, 75, attempt, outcome=outcome))
    decision = decided(PREPARED, *pods, job=job)
    assert created(decision) == ["ConfigMap/demo-config", "Pod/demo-train-6"]
    assert decision.status.interruptions == 5
    assert [attempt.lost_steps for attempt in decision.status.attempts[1:]] == [0, 0, 0, 0, None, None]


@pytest.mark.parametrize(("fruitless", "wait"), [(1, 0), (2, 10), (3, 20), (4, 40), (12, 600)])
def test_interruptions_before_a_step_was_done_are_followed_later_and_later(fruitless: int, wait: float) -> None:
    job = a_job().failure_policy(max_retries=0, backoff_seconds=10)
    pods = [an_ended_pod(Stage.TRAIN, 75, attempt) for attempt in range(1, fruitless + 1)]
    decision = decided(PREPARED, *pods, job=job)
    if wait == 0:
        assert created(decision) == ["ConfigMap/demo-config", "Pod/demo-train-2"]
    else:
        assert 0.75 * wait <= decision.recheck_seconds <= wait
        assert "does not count as a failure" in message(decision, "Running")


def test_the_budget_stays_exact_however_many_interruptions_there_were() -> None:
    job = a_job().failure_policy(max_retries=3, backoff_seconds=0)
    failed = [an_ended_pod(Stage.TRAIN, 137, attempt) for attempt in (1, 2, 3)]
    interrupted = [an_ended_pod(Stage.TRAIN, 75, attempt) for attempt in range(4, 100)]
    status = decided(PREPARED, *failed, *interrupted, job=job).status
    assert len(status.attempts) <= 48
    later = decided(an_ended_pod(Stage.TRAIN, 137, 100), job=job.with_status(status))
    assert said(later, "Succeeded") == ("False", "RetriesExhausted")


def test_a_pod_that_is_gone_without_a_verdict_is_a_lost_attempt() -> None:
    attempt = AttemptStatus(stage=Stage.TRAIN, number=1, pod="demo-train-1", reached_step=30)
    decision = decided(job=a_job().with_status(SFTJobStatus(attempts=(attempt,))), seconds=5)
    assert decision.status.phase == "Restarting"
    assert created(decision) == ["ConfigMap/demo-config", "Pod/demo-train-2"]
    lost, _ = decision.status.attempts
    assert (lost.reason, lost.end_time, lost.reached_step) == ("PodLost", moment(5), 30)


def test_pods_of_an_earlier_job_of_the_same_name_do_not_count() -> None:
    stranger = PodView(
        name="demo-train-1", uid="x", owner_uid="another", stage=Stage.TRAIN, attempt=1, phase=PodPhase.RUNNING
    )
    decision = decided(stranger)
    assert created(decision) == PREPARE_CHILDREN
    assert [attempt.pod for attempt in decision.status.attempts] == ["demo-prepare-1"]


@pytest.mark.parametrize(
    ("pod", "reason", "text"),
    [
        ({"reason": "ErrImagePull", "message": "not found"}, "ImagePullFailed", "waits with ErrImagePull: not found"),
        (
            {"reason": "CreateContainerConfigError", "message": "no secret"},
            "CreateContainerConfigError",
            "ConfigError: no secret",
        ),
        ({"reason": "ContainerCreating"}, "PodPending", "its container has not started"),
        ({"unschedulable": "0/3 nodes: insufficient nvidia.com/gpu"}, "Unschedulable", "insufficient nvidia.com/gpu"),
        ({"gated": True}, "Queued", "waits until its scheduling gates are removed"),
    ],
)
def test_a_train_pod_that_waits_says_what_for(pod: dict[str, str], reason: str, text: str) -> None:
    decision = decided(PREPARED, a_pod(Stage.TRAIN, PodPhase.PENDING, **pod))
    assert said(decision, "Running") == ("False", reason)
    assert text in message(decision, "Running")


def test_what_prepare_counted_becomes_the_plan() -> None:
    decision = decided(PREPARED)
    assert said(decision, "Prepared") == ("True", "Prepared")
    assert "training rows and 95 evaluation rows are prepared: " in message(decision, "Prepared")
    assert to_dict(decision.status)["plan"] == {
        "steps": 96,
        "stepsPerEpoch": 32,
        "rows": 1900,
        "trainRows": 1805,
        "evaluationRows": 95,
        "sequences": 340,
        "tokens": 120_000,
        "trainedTokens": 90_000,
        "gradientCheckpointing": True,
    }
    assert decision.status.provenance.dataset_fingerprint == "f00d"
    assert decision.status.provenance.model_revision == "abc123"


def test_a_finished_run_tells_output_metrics_and_libraries() -> None:
    output = Output(path=OUTPUT_ADAPTER, metrics={"initialEvalLoss": 3.0, "evalLoss": 1.25})
    outcome = an_outcome(Stage.TRAIN, output=output, libraries={"trl": "1.16.0"}, progress=a_report(96).progress)
    decision = decided(
        PREPARED, an_ended_pod(Stage.TRAIN, 0, outcome=outcome, image_id="img@sha256:1", seconds=60), seconds=61
    )
    status = decision.status
    assert said(decision, "Succeeded") == ("True", "Completed")
    assert "Evaluation loss went from 3 to 1.25" in message(decision, "Succeeded")
    assert status.output.uri == "pvc://demo/output/adapter"
    assert status.completion_time == moment(60)
    assert (status.progress.percent, status.progress.eta) == (100, None)
    assert (status.provenance.image, status.provenance.libraries) == ("img@sha256:1", {"trl": "1.16.0"})
    assert [event.reason for event in decision.events] == ["Completed", "Prepared"]


def test_where_the_output_was_copied_to_is_told_too() -> None:
    copies = ("hf://team/bot", "s3://models/bot")
    outcome = an_outcome(Stage.TRAIN, output=Output(path=OUTPUT_ADAPTER, metrics={}, uploaded=copies))
    decision = decided(PREPARED, an_ended_pod(Stage.TRAIN, 0, outcome=outcome, seconds=60))
    assert decision.status.output.uploaded == copies
    assert "the output is at pvc://demo/output/adapter and hf://team/bot and s3://models/bot." in (
        message(decision, "Succeeded")
    )


def test_a_run_that_stopped_early_is_complete_at_its_step() -> None:
    report = a_report(24, eta_seconds=100)
    outcome = an_outcome(Stage.TRAIN, progress=report.progress)
    progress = decided(PREPARED, an_ended_pod(Stage.TRAIN, 0, outcome=outcome), report=report).status.progress
    assert progress.step < progress.max_steps
    assert (progress.step, progress.percent, progress.eta, progress.eta_seconds) == (24, 100, None, None)


def test_a_finished_run_without_a_last_word_has_still_succeeded() -> None:
    decision = decided(PREPARED, an_ended_pod(Stage.TRAIN, 0))
    assert said(decision, "Succeeded") == ("True", "Completed")
    assert "Its final metrics are not known" in message(decision, "Succeeded")


def test_a_warning_of_the_data_is_told_in_the_plan_and_once_as_an_event() -> None:
    sentence = "pvc://data/d.jsonl: 2 of 3 rows are longer than training.maxLength 16 and lose their end: raise it."
    stats = replace_stats(STATS, warnings=(sentence,), truncated_rows=2, passed_over_files=3, rendered_rows=4)
    pod = an_ended_pod(Stage.PREPARE, 0, outcome=an_outcome(Stage.PREPARE, prepared=stats))
    decision = decided(pod)
    plan = decision.status.plan
    assert (plan.warnings, plan.truncated_rows, plan.passed_over_files) == ((sentence,), 2, 3)
    assert (plan.rendered_rows, plan.skipped_rows) == (4, None)
    assert [event.message for event in decision.events if event.reason == "DataWarning"] == [sentence]
    again = events_between(decision.status, decision.status)
    assert [event for event in again if event.reason == "DataWarning"] == []


def test_a_skipped_checkpoint_is_told_in_attempt_condition_and_event() -> None:
    skipped = SkippedCheckpoint(path="checkpoints/checkpoint-60", why="model.safetensors has the wrong size")
    report = a_report(41, attempt=2, resumed_from_step=40, skipped_checkpoints=(skipped,))
    pods = (PREPARED, an_ended_pod(Stage.TRAIN, 137), a_pod(Stage.TRAIN, attempt=2))
    decision = decided(*pods, report=report)
    (attempt,) = [a for a in decision.status.attempts if (a.stage, a.number) == (Stage.TRAIN, 2)]
    assert attempt.from_step == 40
    text = "checkpoints/checkpoint-60 was skipped: model.safetensors has the wrong size"
    assert text in attempt.message
    assert text in message(decision, "Running")
    assert "resumed from step 40" in message(decision, "Running")
    assert "CheckpointSkipped" in [event.reason for event in decision.events]


@pytest.mark.parametrize(
    ("heard_after", "now", "expected", "recheck"),
    [
        (None, 0, ("Unknown", "Waiting"), 90),
        (None, 89, ("Unknown", "Waiting"), 1),
        (None, 90, ("False", "ReportsMissing"), None),
        (30, 30, ("True", "Reporting"), 90),
        (30, 119, ("True", "Reporting"), 1),
        (30, 120, ("False", "ReportsMissing"), 3510),
    ],
)
def test_a_trainer_that_falls_silent_is_said_to_be(
    heard_after: float | None, now: float, expected: Any, recheck: float | None
) -> None:
    report = None if heard_after is None else a_report(1, seconds=heard_after)
    decision = decided(PREPARED, a_pod(Stage.TRAIN, started=moment(0)), report=report, seconds=now)
    assert said(decision, "ProgressReporting") == expected
    assert decision.recheck_seconds == recheck
    assert decision.status.phase == "Running"
    if expected[0] == "False":
        assert "https://operator:8443" in message(decision, "ProgressReporting")


def test_silence_is_counted_from_the_stored_report_after_a_restart_of_the_operator() -> None:
    pods = (PREPARED, a_pod(Stage.TRAIN, started=moment(0)))
    status = decided(*pods, report=a_report(1, seconds=50), seconds=50).status
    after = decided(*pods, job=a_job().with_status(status), seconds=60)
    assert said(after, "ProgressReporting") == ("True", "Reporting")
    assert after.recheck_seconds == 80


def test_a_report_of_an_earlier_attempt_is_not_taken_for_the_running_one() -> None:
    pods = (PREPARED, an_ended_pod(Stage.TRAIN, 137), a_pod(Stage.TRAIN, attempt=2, started=moment(0)))
    decision = decided(*pods, report=a_report(50, attempt=1))
    assert said(decision, "ProgressReporting") == ("Unknown", "Waiting")
    assert [a.reached_step for a in decision.status.attempts if a.number == 2] == [None]


def test_progress_of_a_dead_attempt_keeps_its_steps_and_loses_its_eta() -> None:
    report = a_report(30, eta_seconds=100, tokens_per_second=5.0)
    progress = decided(PREPARED, an_ended_pod(Stage.TRAIN, 137), report=report).status.progress
    assert (progress.step, progress.eta, progress.activity, progress.tokens_per_second) == (30, None, None, None)
    assert progress.percent == 31


@pytest.mark.parametrize(
    ("create_error", "phase", "reason", "recheck"),
    [
        (CreateError(kind="Pod", name="demo-prepare-1", message="exceeded quota"), "Pending", "CreationRefused", 5),
        (
            CreateError(kind="ConfigMap", name="c", message="it is another's", conflict=True),
            "Pending",
            "NameConflict",
            5,
        ),
    ],
)
def test_a_refused_child_is_told_and_asked_for_again_later(
    create_error: CreateError, phase: str, reason: str, recheck: float | None
) -> None:
    decision = decided(create_error=create_error)
    assert (decision.status.phase, said(decision, "Prepared")) == (phase, ("False", reason))
    assert create_error.message in message(decision, "Prepared")
    assert created(decision) == []
    assert decision.recheck_seconds == recheck
    later = decided(job=a_job().with_status(decision.status), create_error=create_error, seconds=100)
    assert later.recheck_seconds == 100
    much_later = decided(job=a_job().with_status(decision.status), create_error=create_error, seconds=100_000)
    assert much_later.recheck_seconds == 300


def test_a_refused_train_pod_leaves_the_job_prepared() -> None:
    decision = decided(PREPARED, create_error=CreateError(kind="Pod", name="demo-train-1", message="exceeded quota"))
    assert said(decision, "Prepared") == ("True", "Prepared")
    assert said(decision, "Running") == ("False", "CreationRefused")


def test_a_spec_that_can_not_be_carried_out_ends_before_anything_is_created() -> None:
    job = a_job().training(extra={"output_dir": "/elsewhere"})
    decision = decided(job=job)
    assert (decision.status.phase, created(decision)) == ("Failed", [])
    assert said(decision, "Prepared") == said(decision, "Succeeded") == ("False", "ConfigInvalid")
    assert "spec.training.extra.output_dir" in message(decision, "Succeeded")
    assert decided(a_pod(Stage.PREPARE), job=job).status.phase == "Preparing"


def test_a_run_that_can_not_fit_ends_before_a_train_pod_is_created() -> None:
    plan = PlanStatus(
        steps=1,
        steps_per_epoch=1,
        rows=1,
        train_rows=1,
        evaluation_rows=0,
        sequences=1,
        tokens=1,
        trained_tokens=1,
        misfit="The run cannot fit into resources.gpus.",
    )
    job = a_job().with_status(replace(decided(PREPARED).status, plan=plan, attempts=()))
    decision = decided(job=job)
    assert (decision.status.phase, created(decision)) == ("Failed", [])
    assert said(decision, "Prepared") == ("True", "Prepared")
    assert said(decision, "Succeeded") == ("False", "ConfigInvalid")
    assert "cannot fit" in message(decision, "Succeeded")
    assert decided(a_pod(Stage.TRAIN), job=job).status.phase == "Running"


def test_the_first_train_pod_has_the_time_to_save_a_checkpoint_of_the_planned_size() -> None:
    outcome = an_outcome(Stage.PREPARE, prepared=replace_stats(STATS, model_shape=LLAMA_8B))
    decision = decided(an_ended_pod(Stage.PREPARE, 0, outcome=outcome), job=a_job().full())
    assert decision.status.plan is not None
    assert decision.status.plan.checkpoint_bytes == 12 * LLAMA_8B.parameters
    pod = [action.body for action in decision.actions if isinstance(action, Create)][-1]
    assert pod["spec"]["terminationGracePeriodSeconds"] == 60 + math.ceil(12 * LLAMA_8B.parameters / 50e6)


def test_a_child_that_is_called_invalid_ends_the_job() -> None:
    create_error = CreateError(
        kind="Pod", name="demo-prepare-1", message="spec.nodeSelector: Invalid value", final=True
    )
    decision = decided(create_error=create_error)
    assert decision.status.phase == "Failed"
    assert said(decision, "Succeeded") == ("False", "ConfigInvalid")
    assert "rejected the Pod demo-prepare-1: spec.nodeSelector" in message(decision, "Succeeded")


@pytest.mark.parametrize("how", ["Succeeded", "Failed", "deleting"])
def test_a_job_that_has_ended_or_is_being_deleted_is_left_alone(how: str) -> None:
    ended = decided(PREPARED, an_ended_pod(Stage.TRAIN, 0 if how == "Succeeded" else 65)).status
    job = a_job().meta(deletion_timestamp=moment(0)) if how == "deleting" else a_job().with_status(ended)
    decision = decided(job=job, seconds=9999)
    assert created(decision) == []
    assert decision.events == ()
    assert decision.status == job.build().status


def test_times_of_conditions_change_only_with_their_status() -> None:
    first = decided().status
    later = decided(a_pod(Stage.PREPARE), job=a_job().with_status(first), seconds=30).status
    assert {c.last_transition_time for c in later.conditions} == {moment(0)}
    assert later.start_time == moment(0)
