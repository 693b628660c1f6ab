"""From what Kubernetes shows of a Pod to the reason of an attempt, and from the reason to what follows."""

import subprocess
import sys
from dataclasses import replace as replace_stats
from typing import Any

import pytest

from sftjob_contract.names import LABEL_ATTEMPT, LABEL_STAGE, Stage
from sftjob_contract.reasons import Reason
from sftjob_contract.reports.progress import Checkpoint, Progress
from sftjob_operator.api import AttemptStatus, ConditionReason, SFTJobStatus
from sftjob_operator.reconcile import Decision, Observed, PodView, decide, pod_view
from sftjob_operator.reconcile.attempts.failure_reasons import POLICIES, STOPPED, Retry
from sftjob_operator.reconcile.checks.retries import LONGEST_BACKOFF_SECONDS
from support.fakes import decisions
from support.fakes.decisions import PREPARED, STATS, an_ended_pod, condition
from support.fakes.fake_cluster import SETTINGS, START, an_outcome, ended, moment
from support.fakes.progress import a_progress
from support.jobs.builders import UID, JobBuilder, a_job
from support.jobs.model_shapes import LLAMA_8B

NODE = "node-7"
STACK = (
    '  File "/usr/lib/python3.11/site-packages/torch/autograd/graph.py", line 841 in _engine_run_backward\n' * 40
    + '  File "/app/sftjob_trainer/__main__.py", line 122 in <module>\n'
    + '  File "<frozen runpy>", line 88 in _run_code\n'
)
"""What Python's faulthandler writes. The kubelet takes the last 2048 bytes of a log, which may begin within it."""
SAVED = an_outcome(Stage.TRAIN, 75, reason="Interrupted", message="Saved checkpoint-40.")


def train_pod(status: dict[str, Any], attempt: int = 1, *, deleting: bool = False) -> PodView:
    """A train Pod as the API server has it."""
    name = f"demo-train-{attempt}"
    labels = {LABEL_STAGE: "train", LABEL_ATTEMPT: str(attempt)}
    owner = {"kind": "SFTJob", "uid": UID, "controller": True}
    metadata = {"name": name, "uid": name, "labels": labels, "ownerReferences": [owner]}
    if deleting:
        metadata["deletionTimestamp"] = moment(0)
    return pod_view({"metadata": metadata, "spec": {"nodeName": NODE}, "status": status})


def disrupted(status: dict[str, Any], reason: str, message: str = "") -> dict[str, Any]:
    condition = {"type": "DisruptionTarget", "status": "True", "reason": reason, "message": message}
    return {**status, "conditions": [condition]}


def by_kubelet(status: dict[str, Any], reason: str, message: str = "") -> dict[str, Any]:
    return {**status, "reason": reason, "message": message}


def with_log(exit_code: int, text: str, reason: str = "Error") -> dict[str, Any]:
    """A container that left no outcome: the kubelet shows the end of its log instead."""
    status = ended(exit_code, reason=reason)
    status["containerStatuses"][0]["state"]["terminated"]["message"] = text
    return status


def decided(*pods: PodView, prepared: PodView = PREPARED, **given: Any) -> Decision:
    return decisions.decided(prepared, *pods, **given)


def last(decision: Decision, number: int = 1) -> AttemptStatus:
    (found,) = [a for a in decision.status.attempts if (a.stage, a.number) == (Stage.TRAIN, number)]
    return found


def succeeded(decision: Decision) -> tuple[str, str]:
    return condition(decision, "Succeeded")[1:]


@pytest.mark.parametrize(
    ("pod", "reason", "told"),
    [
        (
            train_pod(
                disrupted(ended(75, SAVED), "PreemptionByScheduler", "default-scheduler: preempting"), deleting=True
            ),
            Reason.PREEMPTED,
            "higher priority: default-scheduler: preempting. Saved checkpoint-40.",
        ),
        (
            train_pod(disrupted(ended(75, SAVED), "EvictionByEvictionAPI", "Eviction API: evicting"), deleting=True),
            Reason.EVICTED,
            f"on node {NODE} was evicted: Eviction API: evicting. Saved checkpoint-40.",
        ),
        (
            train_pod(disrupted(ended(137), "DeletionByTaintManager", "Taint manager: deleting"), deleting=True),
            Reason.NODE_LOST,
            f"lost its node {NODE}: Taint manager: deleting.",
        ),
        (
            train_pod(disrupted({"phase": "Failed"}, "DeletionByPodGC", "PodGC: node no longer exists")),
            Reason.NODE_LOST,
            "PodGC: node no longer exists",
        ),
        (
            train_pod(by_kubelet(disrupted(ended(137), "TerminationByKubelet"), "Evicted", "low on memory")),
            Reason.EVICTED,
            "low on memory",
        ),
        (train_pod(disrupted(ended(137), "TerminationByKubelet")), Reason.EVICTED, "was evicted."),
        (train_pod(by_kubelet({"phase": "Failed"}, "Evicted", "low on disk")), Reason.EVICTED, "low on disk"),
        (train_pod(by_kubelet(ended(143), "NodeShutdown", "node is going down")), Reason.NODE_LOST, "going down"),
        (train_pod(by_kubelet(ended(143), "Shutdown")), Reason.NODE_LOST, NODE),
        (train_pod(by_kubelet(ended(75, SAVED), "Terminated", "node shutdown")), Reason.NODE_LOST, "Saved"),
        (train_pod(by_kubelet({"phase": "Failed"}, "NodeLost")), Reason.NODE_LOST, NODE),
        (train_pod(by_kubelet({"phase": "Failed"}, "Preempting", "critical Pod")), Reason.PREEMPTED, "critical Pod"),
        (train_pod(by_kubelet({"phase": "Failed"}, "OutOfcpu", "no cpu")), Reason.NODE_LOST, "OutOfcpu: no cpu"),
        (train_pod(ended(75, SAVED), deleting=True), Reason.INTERRUPTED, "Saved checkpoint-40."),
        (train_pod(ended(75)), Reason.INTERRUPTED, "exit code 75"),
        (train_pod(ended(137), deleting=True), Reason.POD_LOST, "was deleted, and signal 9 ended it"),
        (train_pod(ended(137)), Reason.KILLED, "Signal 9 ended the trainer."),
        (train_pod(ended(137, reason="OOMKilled")), Reason.HOST_OUT_OF_MEMORY, "it exceeded its memory limit"),
        (
            train_pod(with_log(137, "loading the model\n", "OOMKilled")),
            Reason.HOST_OUT_OF_MEMORY,
            "its memory limit. Its log ends with: loading the model",
        ),
        (train_pod(disrupted(ended(65), "EvictionByEvictionAPI")), Reason.CONFIG_INVALID, "exit code 65"),
        (
            train_pod(ended(70, an_outcome(Stage.TRAIN, 70, reason="Hung", message="No step for 90 s."))),
            Reason.HUNG,
            "No step for 90 s.",
        ),
        (
            train_pod(with_log(1, "a\n\n b\nKeyError: 'x'\n")),
            Reason.INTERNAL_ERROR,
            "Its log ends with: a | b | KeyError",
        ),
        (
            train_pod(with_log(1, f"Timeout (0:05:10)!\nThread 0x0001 (most recent call first):\n{STACK}")),
            Reason.HUNG,
            "Training hung, and none of the trainer's threads",
        ),
        (train_pod(with_log(1, STACK[-2048:])), Reason.HUNG, "threads could run to report it"),
        (train_pod(with_log(70, STACK)), Reason.INTERNAL_ERROR, "exit code 70"),
        (train_pod(with_log(1, f"{STACK}ValueError: x\n")), Reason.INTERNAL_ERROR, "ends with"),
        (
            train_pod(with_log(1, 'Traceback (most recent call last):\n  File "a.py", line 7, in <module>\n')),
            Reason.INTERNAL_ERROR,
            "ends with",
        ),
        (
            train_pod(with_log(139, "Fatal Python error")),
            Reason.KILLED,
            "Signal 11 ended the trainer. Its log ends with",
        ),
        (
            train_pod(with_log(128, 'exec: "python": not found', "StartError")),
            Reason.INTERNAL_ERROR,
            'could not be started: exec: "python": not found',
        ),
    ],
)
def test_the_reason_of_an_end_follows_from_the_pod(pod: PodView, reason: Reason, told: str) -> None:
    attempt = last(decided(pod))
    assert attempt.reason == reason
    assert told in attempt.message


HANGING = """
import ctypes, faulthandler, threading
threading.Thread(target=threading.Event().wait, daemon=True).start()
faulthandler.dump_traceback_later(0.01, exit=True)
def deep(depth):
    deep(depth - 1) if depth else ctypes.PyDLL(None).sleep(1000)
deep(60)
"""
"""A process that holds the GIL for ever, ended as the trainer's second line does it."""


def test_what_python_itself_leaves_of_a_process_that_hangs_is_recognized() -> None:
    done = subprocess.run([sys.executable, "-c", HANGING], capture_output=True, text=True, check=False, timeout=60)
    tail = done.stderr[-2048:]
    assert "Timeout" not in tail
    assert last(decided(train_pod(with_log(done.returncode, tail)))).reason == Reason.HUNG


def test_the_end_of_a_log_is_short_and_shows_no_token() -> None:
    token = "hf_" + "a" * 34
    view = train_pod(with_log(1, "\n".join(f"line {n}" for n in range(100)) + f"\ntoken {token} refused"))
    assert view.last_lines == "line 96 | line 97 | line 98 | line 99 | token *** refused"
    assert len(train_pod(with_log(1, "x" * 2000)).last_lines or "") == 400
    assert train_pod(ended(75, SAVED)).last_lines is None


def test_a_pod_that_is_taken_away_says_why_while_it_ends_and_after_it_is_gone() -> None:
    live = train_pod(disrupted({"phase": "Running"}, "DeletionByTaintManager", "node is unreachable"), deleting=True)
    ending = decided(live)
    (running,) = [c for c in ending.status.conditions if c.type == "Running"]
    assert (running.reason, last(ending).reason) == ("Stopping", "NodeLost")
    assert "node is unreachable" in running.message
    gone = last(decided(job=a_job().with_status(ending.status)))
    assert (gone.reason, gone.end_time) == ("NodeLost", moment(0))
    assert "node is unreachable" in gone.message


FREE = [
    reason
    for reason, policy in POLICIES.items()
    if policy.retry is Retry.FREE and reason is not Reason.GPU_UNAVAILABLE  # its own test
]
COUNTED = [reason for reason, policy in POLICIES.items() if policy.retry is Retry.COUNTED]
NEVER = [
    reason for reason, policy in POLICIES.items() if policy.retry is Retry.NEVER and reason not in STOPPED
]  # what the operator stops itself is judged by the clock


def after(reason: Reason, count: int, job: JobBuilder, steps: int | None = None) -> Decision:
    """What follows when the last `count` attempts ended for `reason`, `steps` further each time."""
    attempts = [
        AttemptStatus(
            stage=Stage.TRAIN,
            number=number,
            pod=f"demo-train-{number}",
            end_time=moment(0),
            exit_code=70,
            reason=reason,
            message="It ended.",
            from_step=None if steps is None else (number - 1) * steps,
            reached_step=None if steps is None else number * steps,
        )
        for number in range(1, count + 1)
    ]
    interruptions = sum(1 for attempt in attempts if attempt.reason in FREE)
    status = SFTJobStatus(attempts=tuple(attempts), interruptions=interruptions)
    return decided(job=job.with_status(status), seconds=10_000)


def starts(decision: Decision) -> list[str]:
    """Names of the Pods that are to be created."""
    bodies = [action.body for action in decision.actions if hasattr(action, "body")]
    return [body["metadata"]["name"] for body in bodies if body["kind"] == "Pod"]


def test_every_reason_has_a_policy_and_a_hint() -> None:
    assert set(POLICIES) == set(Reason)
    for policy in POLICIES.values():
        assert policy.detected_by
        assert policy.hint.endswith(".")


@pytest.mark.parametrize("reason", NEVER)
def test_what_can_not_get_better_is_not_tried_again(reason: Reason) -> None:
    decision = after(reason, 1, a_job())
    assert (decision.status.phase, succeeded(decision)[0], starts(decision)) == ("Failed", reason, [])
    assert POLICIES[reason].hint in succeeded(decision)[1]


@pytest.mark.parametrize("reason", COUNTED)
def test_a_failure_costs_a_retry(reason: Reason) -> None:
    job = a_job().failure_policy(max_retries=2, max_interruptions=0)
    assert starts(after(reason, 2, job, steps=10)) == ["demo-train-3"]
    spent = after(reason, 3, job, steps=10)
    assert succeeded(spent)[0] == ConditionReason.RETRIES_EXHAUSTED
    assert f"All 3 attempts of stage train failed, the last one with {reason}: It ended." in succeeded(spent)[1]
    assert POLICIES[reason].hint in succeeded(spent)[1]


@pytest.mark.parametrize("reason", FREE)
def test_an_interruption_costs_no_retry_and_has_a_budget_of_its_own(reason: Reason) -> None:
    job = a_job().failure_policy(max_retries=0, max_interruptions=2)
    assert starts(after(reason, 2, job)) == ["demo-train-3"]
    spent = after(reason, 3, job)
    assert succeeded(spent)[0] == ConditionReason.INTERRUPTIONS_EXHAUSTED
    assert "interrupted 3 times (failurePolicy.maxInterruptions)" in succeeded(spent)[1]
    none = after(reason, 1, job.failure_policy(max_interruptions=0))
    assert succeeded(none)[0] == reason


def test_the_budget_of_interruptions_outlives_the_ledger() -> None:
    job = a_job().failure_policy(max_interruptions=100, backoff_seconds=0)
    status, pods = SFTJobStatus(), []
    for attempt in range(1, 101):
        pods.append(train_pod(ended(75, SAVED), attempt))
        decision = decided(*pods, job=job.with_status(status), seconds=LONGEST_BACKOFF_SECONDS + attempt)
        assert starts(decision) == [f"demo-train-{attempt + 1}"]
        assert decision.status.interruptions == attempt
        status = decision.status
    assert len(status.attempts) <= 48
    over = decided(
        *pods, train_pod(ended(75, SAVED), 101), job=job.with_status(status), seconds=LONGEST_BACKOFF_SECONDS + 101
    )
    assert succeeded(over)[0] == ConditionReason.INTERRUPTIONS_EXHAUSTED


def test_host_memory_that_runs_out_twice_at_the_same_step_will_a_third_time() -> None:
    assert starts(after(Reason.HOST_OUT_OF_MEMORY, 1, a_job())) == ["demo-train-2"]
    twice = after(Reason.HOST_OUT_OF_MEMORY, 2, a_job())
    assert succeeded(twice)[0] == Reason.HOST_OUT_OF_MEMORY
    assert "Raise spec.resources.memory." in succeeded(twice)[1]
    assert starts(after(Reason.HOST_OUT_OF_MEMORY, 2, a_job(), steps=5)) == ["demo-train-3"]


FAULT = "ValueError at model.py:7 in load"


@pytest.mark.parametrize(
    ("stage", "faults", "step", "ends"),
    [
        pytest.param(Stage.TRAIN, (FAULT,), None, False, id="once"),
        pytest.param(Stage.TRAIN, (FAULT, FAULT), None, True, id="twice"),
        pytest.param(Stage.PREPARE, (FAULT, FAULT), None, True, id="in Prepare"),
        pytest.param(Stage.TRAIN, (FAULT, "ValueError at model.py:8 in load"), None, False, id="at another place"),
        pytest.param(Stage.TRAIN, (FAULT, "KeyError at model.py:7 in load", FAULT), None, False, id="not in a row"),
        pytest.param(Stage.TRAIN, (None, None), None, False, id="of an image that names no place"),
        pytest.param(Stage.TRAIN, (FAULT, FAULT), 3, False, id="after a step"),
    ],
)
def test_the_same_unexpected_error_twice_before_a_step_ends_the_job(
    stage: Stage, faults: tuple[str | None, ...], step: int | None, ends: bool
) -> None:
    pods = [] if stage is Stage.PREPARE else [PREPARED]
    for number, fault in enumerate(faults, start=1):
        said = an_outcome(stage, 70, reason=Reason.INTERNAL_ERROR, message="It ended.", fault=fault)
        if step is not None:
            said = replace_stats(said, progress=a_progress(step, number))
        pods.append(an_ended_pod(stage, 70, number, outcome=said))
    decision = decisions.decided(*pods, seconds=10_000)
    assert [a.fault for a in decision.status.attempts if a.stage == stage][: len(faults)] == list(faults)
    assert (decision.status.phase == "Failed") is ends
    assert (starts(decision) == []) is ends
    if ends:
        assert succeeded(decision)[0] == Reason.INTERNAL_ERROR


def test_two_jobs_that_failed_together_do_not_come_back_together() -> None:
    waits = set()
    for uid in range(20):
        pods = [
            PodView(**{**{name: getattr(pod, name) for name in PodView.__slots__}, "owner_uid": str(uid)})
            for pod in (PREPARED, train_pod(ended(137)))
        ]
        job = a_job().failure_policy(backoff_seconds=600).meta(uid=str(uid)).build()
        waits.add(decide(Observed(job=job, pods=tuple(pods)), SETTINGS, START).recheck_seconds)
    assert len(waits) == 20
    assert all(450 <= wait <= 600 for wait in waits)


def test_the_default_backoff_lets_a_dead_trainer_be_followed_within_a_second() -> None:
    assert decided(train_pod(ended(137))).recheck_seconds <= 1


@pytest.mark.parametrize(("resumed_from", "lost"), [(40, 2), (42, 0), (50, 0)])
def test_an_attempt_tells_the_steps_that_have_to_be_done_again(resumed_from: int, lost: int) -> None:
    def reached(step: int, attempt: int, start: int) -> Progress:
        return a_progress(step, attempt, resumed_from_step=start)

    first = train_pod(ended(70, an_outcome(Stage.TRAIN, 70, progress=reached(42, 1, 0))))
    known = decided(first, job=a_job().failure_policy(backoff_seconds=0))
    assert last(known).lost_steps is None
    second = train_pod(ended(70, an_outcome(Stage.TRAIN, 70, progress=reached(60, 2, resumed_from))), 2)
    following = last(decided(first, second))
    assert (following.reached_step, following.lost_steps) == (max(42, resumed_from), lost)


def failed(reason: Reason, exit_code: int, job: JobBuilder, **parts: Any) -> str:
    """The job's last sentence when its first train attempt ends so, with a model that is known."""
    known = an_outcome(Stage.PREPARE, prepared=replace_stats(STATS, model_shape=LLAMA_8B))
    prepared = an_ended_pod(Stage.PREPARE, 0, outcome=known)
    outcome = an_outcome(Stage.TRAIN, exit_code, reason=reason, message="It ended", **parts)
    return succeeded(decided(train_pod(ended(exit_code, outcome)), job=job, prepared=prepared))[1]


def test_a_full_disk_tells_what_the_run_needs() -> None:
    message = failed(Reason.DISK_FULL, 70, a_job().full().storage(size="50Gi"))
    assert "The run is predicted to need" in message
    assert "storage.size is 50Gi" in message


def test_a_full_claim_of_the_users_is_not_answered_with_a_size_that_the_job_does_not_set() -> None:
    message = failed(Reason.DISK_FULL, 70, a_job().full().storage(existing_claim="team"))
    assert "The run is predicted to need" in message
    assert "Free space on claim team or enlarge it" in message
    assert "under another name" in message
    assert "storage.size" not in message


def test_a_divergence_names_the_newest_checkpoint() -> None:
    checkpoint = Checkpoint(step=40, path="checkpoints/checkpoint-40", bytes=7, time=moment(0))
    progress = a_progress(42, checkpoints=(checkpoint,))
    assert "is pvc://demo/checkpoints/checkpoint-40." in failed(Reason.DIVERGED, 77, a_job(), progress=progress)
    assert "There is no checkpoint yet." in failed(Reason.DIVERGED, 77, a_job())


def test_memory_that_can_not_be_halved_any_more_is_answered_with_the_plan() -> None:
    job = a_job().full().training(per_device_batch_size=1, gradient_checkpointing=False)
    message = failed(Reason.GPU_OUT_OF_MEMORY, 76, job)
    assert "so it cannot be smaller. This would need about" in message
    assert "training.optimizer: paged_adamw_8bit" in message
    assert "Lower training.maxLength" in failed(
        Reason.GPU_OUT_OF_MEMORY, 76, job.training(extra={"use_cache": False}).lora()
    )
