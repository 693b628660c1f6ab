"""What the operator does so that a run goes on: smaller micro-batches, longer grace, an end for what hangs."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import pytest

from sftjob_contract.names import ENV_GRACE_SECONDS, ENV_GRADIENT_CHECKPOINTING, ENV_MICRO_BATCH, Stage
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.progress import Activity
from sftjob_operator.api import ChangeStatus, SFTJobStatus, replace, to_dict
from sftjob_operator.reconcile import (
    Create,
    Decision,
    Observed,
    PodPhase,
    PodView,
    Report,
    Settings,
    decide,
    usable_progress,
)
from sftjob_operator.reconcile.attempts.adjustments import smaller_batch
from sftjob_operator.reconcile.attempts.failure_reasons import POLICIES
from support.fakes import decisions
from support.fakes.decisions import PREPARED, condition
from support.fakes.fake_cluster import RENDER, SETTINGS, START, an_outcome, moment
from support.jobs.builders import JobBuilder, a_job
from support.jobs.model_shapes import QWEN_05B, stats_with

HOUR = 3600


def a_pod(stage: Stage = Stage.TRAIN, attempt: int = 1, **parts: Any) -> PodView:
    given = {"phase": PodPhase.RUNNING, "started": moment(0)} | parts
    return decisions.a_pod(stage, attempt=attempt, **given)


def waiting(reason: str, stage: Stage = Stage.TRAIN, attempt: int = 1, **parts: Any) -> PodView:
    given = {"phase": PodPhase.PENDING, "started": None, "reason": reason, "message": "pull access denied"} | parts
    return a_pod(stage, attempt, **given)


def ended(exit_code: int | None, attempt: int = 1, **parts: Any) -> PodView:
    return a_pod(attempt=attempt, phase=PodPhase.FAILED, exit_code=exit_code, finished=moment(0), **parts)


def a_report(seconds: float = 0, activity: Activity = Activity.TRAINING, attempt: int = 1, **parts: Any) -> Report:
    return decisions.a_report(parts.pop("step", 7), attempt, seconds, activity=activity, **parts)


def decided(*pods: PodView, **given: Any) -> Decision:
    return decisions.decided(PREPARED, *pods, **given)


def prepares(*pods: PodView, before: Decision | None = None, **given: Any) -> Decision:
    """The decision about a job of which nothing has run yet, after `before`."""
    job = a_job() if before is None else a_job().with_status(before.status)
    return decisions.decided(*pods, job=job, **given)


def blocked_since(decision: Decision) -> str | None:
    return decision.status.attempts[-1].blocked_since


def acts(decision: Decision) -> list[str]:
    return [act.replace("Pod/", "") for act in decisions.acts(decision)]


def pods_created(decision: Decision) -> list[Mapping[str, Any]]:
    bodies = [action.body for action in decision.actions if isinstance(action, Create)]
    return [body for body in bodies if body["kind"] == "Pod"]


def variables(decision: Decision) -> dict[str, str]:
    (pod,) = pods_created(decision)
    (container,) = pod["spec"]["containers"]
    return {entry["name"]: entry.get("value", "") for entry in container["env"]}


class TestOutOfGpuMemory:
    @pytest.mark.parametrize(
        ("size", "smaller"),
        [(1, None), (2, 1), (3, 1), (4, 2), (5, 1), (6, 3), (8, 4), (9, 3), (12, 6), (35, 7), (49, 7)],
    )
    def test_a_micro_batch_becomes_its_largest_divisor_below_half(self, size: int, smaller: int | None) -> None:
        assert smaller_batch(size) == smaller

    def test_the_next_attempt_takes_half_at_once_and_costs_no_retry(self) -> None:
        job = a_job().training(per_device_batch_size=8, gradient_accumulation_steps=2).failure_policy(max_retries=0)
        decision = decided(ended(76), job=job)
        assert acts(decision) == ["create ConfigMap/demo-config", "create demo-train-2"]
        assert variables(decision)[ENV_MICRO_BATCH] == "4"
        (adjustment,) = to_dict(decision.status)["adjustments"]
        message = adjustment.pop("message")
        assert adjustment == {
            "attempt": 2,
            "reason": "GpuOutOfMemory",
            "perDeviceBatchSize": {"from": 8, "to": 4},
            "gradientAccumulationSteps": {"from": 2, "to": 4},
            "time": moment(0),
        }
        assert "attempt 2 uses perDeviceBatchSize 4 instead of 8" in message
        assert [(event.type, event.reason) for event in decision.events] == [
            ("Normal", "Prepared"),
            ("Warning", "GpuOutOfMemory"),
            ("Normal", "Adjusted"),
        ]

    def test_the_global_batch_size_is_kept_where_the_spec_says_that_instead(self) -> None:
        job = a_job().training(per_device_batch_size=6, global_batch_size=12).resources(gpus=2)
        (adjustment,) = decided(ended(76), job=job).status.adjustments
        assert (adjustment.per_device_batch_size.to, adjustment.gradient_accumulation_steps.to) == (3, 2)

    def test_it_is_halved_until_it_is_one_and_then_the_job_fails(self) -> None:
        job = a_job().training(per_device_batch_size=4, gradient_accumulation_steps=1)
        status, pods, sizes = SFTJobStatus(), [], []
        for attempt in (1, 2):
            pods.append(ended(76, attempt))
            decision = decided(*pods, job=job.with_status(status))
            sizes.append(variables(decision)[ENV_MICRO_BATCH])
            status = decision.status
        assert sizes == ["2", "1"]
        final = decided(*pods, ended(76, 3), job=job.with_status(status))
        assert (final.status.phase, condition(final, "Succeeded")[1]) == ("Failed", "GpuOutOfMemory")
        assert "The micro-batch is already one sequence" in condition(final, "Succeeded")[2]
        assert len(final.status.adjustments) == 2

    def test_what_was_adjusted_holds_for_every_later_attempt(self) -> None:
        job = a_job().training(per_device_batch_size=8)
        adjusted = decided(ended(76), job=job).status
        later = decided(ended(76), ended(75, 2), job=job.with_status(adjusted))
        assert acts(later) == ["create ConfigMap/demo-config", "create demo-train-3"]
        assert variables(later)[ENV_MICRO_BATCH] == "4"
        assert later.status.adjustments == adjusted.adjustments

    def test_an_operator_that_died_after_it_made_the_pod_says_the_same(self) -> None:
        job = a_job().training(per_device_batch_size=8)
        known = decided(ended(76), job=job).status.adjustments
        assert decided(ended(76), a_pod(attempt=2), job=job).status.adjustments == known

    @pytest.mark.parametrize(
        ("strategy", "attention", "evaluation", "phase"),
        [
            ("bfd", "sdpa", {}, "Failed"),
            ("bfd", "sdpa", {"sample_prompts": ["Hello"]}, "Restarting"),
            ("bfd", "auto", {}, "Restarting"),
            ("wrapped", "sdpa", {}, "Restarting"),
        ],
    )
    def test_packed_sequences_that_go_one_at_a_time_have_nothing_to_make_smaller(
        self, strategy: str, attention: str, evaluation: dict[str, Any], phase: str
    ) -> None:
        job = a_job().training(per_device_batch_size=8, packing=True, packing_strategy=strategy)
        job = job.set("model.attention", attention)
        assert decided(ended(76), job=job.evaluation(**evaluation)).status.phase == phase

    def test_prepare_has_nothing_to_make_smaller(self) -> None:
        pod = a_pod(Stage.PREPARE, phase=PodPhase.FAILED, exit_code=76, finished=moment(0))
        decision = decide(Observed(job=a_job().build(), pods=(pod,)), SETTINGS, START)
        assert condition(decision, "Succeeded")[1] == "GpuOutOfMemory"
        assert decision.status.adjustments == ()

    def test_a_run_that_did_not_run_out_has_the_specs_micro_batch(self) -> None:
        assert ENV_MICRO_BATCH not in variables(decided(ended(137), seconds=99))


class TestGradientCheckpointing:
    """A job whose GPUs have room for all activations, by the plan."""

    ROOMY = a_job().resources(gpus=1, gpu_memory="80Gi").training(per_device_batch_size=4)
    COUNTED = dataclasses.replace(PREPARED, outcome=an_outcome(Stage.PREPARE, prepared=stats_with(QWEN_05B)))

    def decided(self, *pods: PodView, job: JobBuilder = ROOMY) -> Decision:
        return decide(Observed(job=job.build(), pods=(self.COUNTED, *pods)), SETTINGS, START)

    def test_an_attempt_is_told_what_the_plan_says(self) -> None:
        decision = self.decided()
        assert decision.status.plan is not None
        assert decision.status.plan.gradient_checkpointing is False
        assert variables(decision)[ENV_GRADIENT_CHECKPOINTING] == "false"
        unknown = self.decided(job=self.ROOMY.resources(gpu_memory=None))
        assert variables(unknown)[ENV_GRADIENT_CHECKPOINTING] == "true"

    @pytest.mark.parametrize("asked", [True, False])
    def test_what_the_spec_says_is_in_the_run_config_alone(self, asked: bool) -> None:
        decision = self.decided(job=self.ROOMY.training(gradient_checkpointing=asked))
        assert decision.status.plan is not None
        assert decision.status.plan.gradient_checkpointing is asked
        assert ENV_GRADIENT_CHECKPOINTING not in variables(decision)

    def test_out_of_memory_it_is_switched_on_at_once_and_costs_no_retry(self) -> None:
        decision = self.decided(ended(76), job=self.ROOMY.failure_policy(max_retries=0))
        told = variables(decision)
        assert (told[ENV_GRADIENT_CHECKPOINTING], told.get(ENV_MICRO_BATCH)) == ("true", None)
        (adjustment,) = to_dict(decision.status)["adjustments"]
        assert "attempt 2 recomputes activations" in adjustment.pop("message")
        assert adjustment == {
            "attempt": 2,
            "reason": "GpuOutOfMemory",
            "gradientCheckpointing": True,
            "time": moment(0),
        }

    def test_only_then_micro_batches_become_smaller(self) -> None:
        first = self.decided(ended(76)).status
        second = self.decided(ended(76), ended(76, 2), job=self.ROOMY.with_status(first))
        told = variables(second)
        assert (told[ENV_GRADIENT_CHECKPOINTING], told[ENV_MICRO_BATCH]) == ("true", "2")
        pods = (ended(76), ended(76, 2), ended(76, 3))
        third = self.decided(*pods, job=self.ROOMY.with_status(second.status))
        told = variables(third)
        assert (told[ENV_GRADIENT_CHECKPOINTING], told[ENV_MICRO_BATCH]) == ("true", "1")
        changes = [(a.gradient_checkpointing, a.per_device_batch_size) for a in third.status.adjustments]
        assert changes == [(True, None), (None, ChangeStatus(before=4, to=2)), (None, ChangeStatus(before=2, to=1))]

    def test_it_stays_on_after_other_ends_and_without_prepares_pod(self) -> None:
        first = self.decided(ended(76)).status
        later = decided(ended(76), ended(75, 2), job=self.ROOMY.with_status(first))
        assert variables(later)[ENV_GRADIENT_CHECKPOINTING] == "true"

    def test_sequences_that_go_one_at_a_time_get_it_too(self) -> None:
        job = self.ROOMY.training(packing=True).set("model.attention", "sdpa")
        first = self.decided(ended(76), job=job)
        assert variables(first)[ENV_GRADIENT_CHECKPOINTING] == "true"
        second = self.decided(ended(76), ended(76, 2), job=job.with_status(first.status))
        assert (second.status.phase, len(second.status.adjustments)) == ("Failed", 1)

    def test_where_the_spec_says_false_micro_batches_become_smaller_at_once(self) -> None:
        decision = self.decided(ended(76), job=self.ROOMY.training(gradient_checkpointing=False))
        assert variables(decision)[ENV_MICRO_BATCH] == "2"
        assert [adjustment.gradient_checkpointing for adjustment in decision.status.adjustments] == [None]


class TestGrace:
    @pytest.mark.parametrize(
        ("save", "step", "grace"),
        [(None, None, 120), (10, 1, 120), (100, None, 200), (100.2, 20.1, 241), (10_000, 1, 3600)],
    )
    def test_the_next_attempt_gets_twice_what_a_stop_was_measured_to_take(
        self, save: float | None, step: float | None, grace: int
    ) -> None:
        report = a_report(longest_save_seconds=save, step_seconds=step)
        decision = decided(ended(137), report=report, seconds=60)
        (pod,) = pods_created(decision)
        assert pod["spec"]["terminationGracePeriodSeconds"] == grace
        assert variables(decision)[ENV_GRACE_SECONDS] == str(grace)

    def test_the_longest_measurement_of_all_attempts_is_kept(self) -> None:
        slow = decided(a_pod(), report=a_report(longest_save_seconds=100, step_seconds=5)).status
        assert slow.stop_seconds == 105
        fast = decided(
            ended(137),
            a_pod(attempt=2),
            job=a_job().with_status(slow),
            report=a_report(attempt=2, longest_save_seconds=1),
        )
        assert fast.status.stop_seconds == 105

    @pytest.mark.parametrize(
        ("save", "grace", "told"),
        [
            (119, 120, None),
            (
                121,
                120,
                "period of 120 s: a stop now loses the steps since the last checkpoint. The next Pod gets 242 s",
            ),
            (2000, 3600, None),
            (4000, 3600, "has a grace period of 3600 s, of at most 3600 s"),
        ],
    )
    def test_a_running_pod_that_could_not_save_in_time_is_told(self, save: float, grace: int, told: str | None) -> None:
        decision = decided(a_pod(grace_seconds=grace), report=a_report(longest_save_seconds=save))
        message = condition(decision, "Running")[2]
        assert ("A stop with its checkpoint takes about" in message) is (told is not None)
        assert (told or "") in message

    def test_a_run_that_saves_nothing_on_termination_needs_no_grace(self) -> None:
        job = a_job().checkpoints(on_termination=False)
        decision = decided(a_pod(grace_seconds=30), job=job, report=a_report(longest_save_seconds=500))
        assert "A stop takes" not in condition(decision, "Running")[2]

    @pytest.mark.parametrize("name", ["longest_save_seconds", "step_seconds"])
    @pytest.mark.parametrize("seconds", [-1.0, 1e30, float("nan")])
    def test_a_time_that_can_not_be_is_refused(self, name: str, seconds: float) -> None:
        with pytest.raises(ValueError, match="Seconds must be between 0 and"):
            usable_progress(a_report(**{name: seconds}).progress)


class TestPodsThatCanNotStart:
    @pytest.mark.parametrize(
        ("reason", "expected"),
        [
            ("ErrImagePull", "ImagePullFailed"),
            ("ImagePullBackOff", "ImagePullFailed"),
            ("CreateContainerConfigError", "ConfigInvalid"),
            ("CreateContainerError", "ConfigInvalid"),
        ],
    )
    def test_before_anything_ran_it_has_a_quarter_of_an_hour_from_its_first_failure_and_the_job_fails(
        self, reason: str, expected: str
    ) -> None:
        slow = prepares(waiting("ContainerCreating", Stage.PREPARE), seconds=899)
        assert (acts(slow), blocked_since(slow)) == ([], None)
        first = prepares(waiting(reason, Stage.PREPARE), before=slow, seconds=900)
        assert (acts(first), blocked_since(first), first.recheck_seconds) == ([], moment(900), 900)
        assert "pull access denied" in condition(first, "Prepared")[2]
        hopes = prepares(waiting("ImagePullBackOff", Stage.PREPARE), before=first, seconds=1799)
        assert (acts(hopes), blocked_since(hopes), hopes.recheck_seconds) == ([], moment(900), 1)
        ends = prepares(waiting(reason, Stage.PREPARE), before=hopes, seconds=1800)
        assert acts(ends) == ["delete demo-prepare-1"]
        assert condition(ends, "Prepared")[1] == "Stopping"
        failed = prepares(before=ends, seconds=1801)
        assert (failed.status.phase, condition(failed, "Succeeded")[1]) == ("Failed", expected)
        assert f"did not start within 15m00s ({reason}: pull access denied)" in condition(failed, "Succeeded")[2]
        assert acts(failed) == []

    def test_a_gap_between_two_failures_starts_the_count_again(self) -> None:
        first = prepares(waiting("ErrImagePull", Stage.PREPARE))
        gap = prepares(waiting("ContainerCreating", Stage.PREPARE), before=first, seconds=600)
        assert blocked_since(gap) is None
        again = prepares(waiting("CreateContainerError", Stage.PREPARE), before=gap, seconds=1200)
        assert (acts(again), blocked_since(again)) == ([], moment(1200))

    def test_a_count_from_the_future_starts_now(self) -> None:
        first = prepares(waiting("ErrImagePull", Stage.PREPARE), seconds=10**6)
        assert blocked_since(prepares(waiting("ErrImagePull", Stage.PREPARE), before=first)) == moment(0)

    @pytest.mark.parametrize("reason", ["ErrImagePull", "CreateContainerError", "InvalidImageName"])
    @pytest.mark.parametrize("ran", ["prepared", "trained", "steps"])
    def test_once_anything_of_the_job_ran_it_is_an_interruption_and_never_final(self, reason: str, ran: str) -> None:
        attempt = 1 if ran == "prepared" else 2
        before = {"prepared": [], "trained": [ended(137)], "steps": [ended(137, started=None)]}[ran]
        report = a_report(step=7) if ran == "steps" else None
        job = a_job().failure_policy(max_retries=1, backoff_seconds=10)
        pod = waiting(reason, attempt=attempt)
        first = decided(*before, pod, job=job, report=report, seconds=100)
        ends = decided(*before, pod, job=job.with_status(first.status), seconds=1000)
        assert acts(ends) == [f"delete demo-train-{attempt}"]
        gone = decided(*before, job=job.with_status(ends.status), seconds=1001)
        assert acts(gone)[-1] == f"create demo-train-{attempt + 1}"
        assert gone.status.interruptions == 1
        again = decided(*before, waiting(reason, attempt=attempt + 1), job=job.with_status(gone.status), seconds=1002)
        ends = decided(*before, waiting(reason, attempt=attempt + 1), job=job.with_status(again.status), seconds=1902)
        backs_off = decided(*before, job=job.with_status(ends.status), seconds=1903)
        assert (acts(backs_off), backs_off.status.phase) == ([], "Restarting")
        assert "does not count as a failure" in condition(backs_off, "Running")[2]

    def test_a_name_that_is_none_is_not_waited_for(self) -> None:
        ends = prepares(waiting("InvalidImageName", Stage.PREPARE))
        assert acts(ends) == ["delete demo-prepare-1"]
        failed = prepares(before=ends)
        assert condition(failed, "Succeeded")[1] == "ImagePullFailed"

    def test_a_pod_that_started_at_the_last_moment_counts_as_deleted(self) -> None:
        first = decided(waiting("ErrImagePull"))
        ends = decided(waiting("ErrImagePull"), job=a_job().with_status(first.status), seconds=900)
        resumed = decided(ended(137, deleting=True), job=a_job().with_status(ends.status), seconds=900)
        assert acts(resumed) == ["create ConfigMap/demo-config", "create demo-train-2"]
        assert resumed.status.attempts[-2].reason == "PodLost"

    def test_a_pod_that_no_node_takes_waits_for_ever(self) -> None:
        decision = decided(a_pod(phase=PodPhase.PENDING, started=None, unschedulable="0/3 nodes"), seconds=10**6)
        assert (acts(decision), decision.status.phase) == ([], "Queued")
        message = f"Pod demo-train-1 cannot be scheduled: 0/3 nodes. {POLICIES[Reason.UNSCHEDULABLE].hint}"
        assert condition(decision, "Running")[1:] == ("Unschedulable", message)

    def test_a_prepare_pod_that_no_node_takes_says_so_too(self) -> None:
        pod = a_pod(Stage.PREPARE, phase=PodPhase.PENDING, started=None, unschedulable="0/3 nodes")
        decision = decide(Observed(job=a_job().build(), pods=(pod,)), SETTINGS, START)
        message = f"Pod demo-prepare-1 cannot be scheduled: 0/3 nodes. {POLICIES[Reason.UNSCHEDULABLE].hint}"
        assert condition(decision, "Prepared")[1:] == ("Unschedulable", message)

    def test_an_image_that_is_not_there_yet_is_told_with_what_to_change(self) -> None:
        message = f"waits with ErrImagePull: pull access denied. {POLICIES[Reason.IMAGE_PULL_FAILED].hint}"
        assert condition(decided(waiting("ErrImagePull")), "Running")[2] == f"Pod demo-train-1 {message}"


class TestATrainerThatIsSilent:
    def test_one_that_reported_and_then_did_not_for_an_hour_is_ended_as_hung(self) -> None:
        report = a_report(seconds=10)
        assert acts(decided(a_pod(), report=report, seconds=9 + HOUR)) == []
        ends = decided(a_pod(), report=report, seconds=10 + HOUR)
        assert acts(ends) == ["delete demo-train-1"]
        assert "the last activity reported was Training at step 7" in condition(ends, "Running")[2]
        killed = decided(ended(137, deleting=True), job=a_job().with_status(ends.status), seconds=HOUR)
        attempt = killed.status.attempts[1]
        assert (attempt.reason, killed.status.interruptions) == ("Hung", None)
        assert "No report from the trainer for 1h00m" in attempt.message

    def test_the_operator_looks_again_when_the_hour_is_over(self) -> None:
        assert decided(a_pod(), report=a_report(), seconds=HOUR - 5).recheck_seconds == 5

    def test_a_longer_silence_than_usual_makes_the_hour_longer(self) -> None:
        patient = Settings(render=RENDER, silence_seconds=300)
        assert acts(decided(a_pod(), report=a_report(), seconds=40 * 300 - 1, settings=patient)) == []
        assert acts(decided(a_pod(), report=a_report(), seconds=40 * 300, settings=patient)) == ["delete demo-train-1"]

    @pytest.mark.parametrize(
        ("pod", "report"),
        [
            (a_pod(), None),
            (a_pod(), a_report(activity=Activity.LOADING)),
            (a_pod(attempt=2), a_report(attempt=1)),
            (a_pod(phase=PodPhase.UNKNOWN), a_report()),
        ],
        ids=["this operator heard nothing", "it is loading", "another attempt reported", "the node does not answer"],
    )
    def test_one_of_which_nothing_is_known_is_left_alone(self, pod: PodView, report: Report | None) -> None:
        stored = replace(decided(a_pod(), report=a_report()).status)
        job = a_job().with_status(stored if pod.attempt == 1 else SFTJobStatus())
        assert acts(decided(pod, job=job, report=report, seconds=10 * HOUR)) == []

    def test_one_that_could_still_save_was_not_hung(self) -> None:
        ends = decided(a_pod(), report=a_report(), seconds=HOUR)
        saved = ended(75, deleting=True, outcome=an_outcome(Stage.TRAIN, 75, reason="Interrupted", message="Saved."))
        decision = decided(saved, job=a_job().with_status(ends.status), seconds=HOUR)
        assert decision.status.attempts[1].reason == "Interrupted"
        assert acts(decision) == ["create ConfigMap/demo-config", "create demo-train-2"]
