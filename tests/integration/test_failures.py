"""One run for each reason of the taxonomy: how it ends, and what docs/failures.md shows of it.

Trainers run out of memory, diverge, hang, are killed and fill the disk in earnest. The others are scripted: that they
end with this reason and message is tested in tests/trainer.
"""

import json
from collections.abc import Iterator

import pytest

from sftjob_contract.reasons import Reason
from sftjob_operator.reconcile.attempts.failure_reasons import POLICIES
from support.checks.golden import check_golden_text
from support.faults import faulty, full, greedy, hang, held, impatient, nan, oom
from support.jobs.failing import (
    IMPATIENT_SECONDS,
    LONG_BACKOFF_SECONDS,
    LONG_SECONDS,
    MEMORY_LIMIT,
    MORE_BYTES,
    STEP,
    Case,
    a_failing_job,
    a_held_job,
    a_refused_job,
    a_scripted_job,
    a_waiting_job,
    delete,
    delete_by_force,
    disrupted,
    kill,
    let_it_go,
    lose_the_node,
    miss_the_deadline,
    stands,
)
from support.jobs.failure_page import PAGE, attempt_line, condition_line, seen, with_runs
from support.jobs.small_jobs import Status, condition, reach
from support.stacks.running_stack import Lab

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first test waits for every job
FAILED = "Running False Failed"
SUCCEEDED = ("Running False Completed", "Succeeded True Completed")
BACKS_OFF = ("Running False BackingOff", "Succeeded Unknown BackingOff")
NO_GPU = (
    "resources.gpus: 1 was requested, but no CUDA device is visible in the container; write 0 to train on the CPU, or "
    "check the node's GPU driver and device plugin"
)
A_BUG = "train ended by an unexpected ZeroDivisionError: division by zero"
AT_THE_END = "train-2 Completed 0 at 12"


def refused_by_prepare(reason: Reason, code: int) -> dict[str, tuple[str, ...]]:
    said = (f"Prepared False {reason}", FAILED, f"Succeeded False {reason}")
    return {"attempts": (f"prepare-1 {reason} {code}",), "conditions": said}


CASES = [
    Case(
        reason=Reason.DATA_INVALID,
        told="A row of the data set does not have the column that all others have.",
        job=a_refused_job(
            "data-invalid",
            Reason.DATA_INVALID,
            'typing-error.jsonl:17: no column "text", there is "txt"; dataset.onInvalidRow: Skip leaves such rows out',
        ),
        **refused_by_prepare(Reason.DATA_INVALID, 65),
    ),
    Case(
        reason=Reason.CONFIG_INVALID,
        told="An option of TRL is misspelt.",
        job=a_refused_job(
            "config-invalid",
            Reason.CONFIG_INVALID,
            "run config: training.extra.weight_decai is not a field of the installed trl.SFTConfig; similar ones are "
            "weight_decay",
        ),
        **refused_by_prepare(Reason.CONFIG_INVALID, 65),
    ),
    Case(
        reason=Reason.MODEL_NOT_FOUND,
        told="There is no such directory on the claim.",
        job=a_refused_job(
            "model-not-found",
            Reason.MODEL_NOT_FOUND,
            "pvc://input/no-such-model does not exist; pvc://input has model, train.jsonl",
        ),
        **refused_by_prepare(Reason.MODEL_NOT_FOUND, 66),
    ),
    Case(
        reason=Reason.DATASET_NOT_FOUND,
        told="There is no such file on the claim.",
        job=a_refused_job(
            "dataset-not-found",
            Reason.DATASET_NOT_FOUND,
            "pvc://input/no-such-file.jsonl does not exist; pvc://input has model, train.jsonl",
        ),
        **refused_by_prepare(Reason.DATASET_NOT_FOUND, 66),
    ),
    Case(
        reason=Reason.ACCESS_DENIED,
        told="The model is gated, and its licence was not accepted.",
        job=a_refused_job(
            "access-denied",
            Reason.ACCESS_DENIED,
            "hf://team/gated-model is gated: set model.tokenSecretRef to a token with access",
        ),
        **refused_by_prepare(Reason.ACCESS_DENIED, 66),
    ),
    Case(
        reason=Reason.UNREACHABLE,
        told="Nothing listens at the address of the hub.",
        job=a_refused_job(
            "unreachable",
            Reason.UNREACHABLE,
            "hf://team/model: http://127.0.0.1:9 cannot be reached: it refuses the connection",
        ).failure_policy(max_retries=0),
        **refused_by_prepare(Reason.UNREACHABLE, 70),
    ),
    Case(
        reason=Reason.GPU_OUT_OF_MEMORY,
        told="Four sequences at once are too many.",
        job=a_failing_job("gpu-out-of-memory").training(per_device_batch_size=4).env(**faulty(oom(STEP, above=2))),
        phase="Succeeded",
        attempts=("train-1 GpuOutOfMemory 76 at 7, 2 lost", AT_THE_END),
        conditions=SUCCEEDED,
    ),
    Case(
        reason=Reason.GPU_OUT_OF_MEMORY,
        told="One sequence at a time is too much already.",
        job=a_failing_job("gpu-too-small").training(per_device_batch_size=1).env(**faulty(oom(STEP, above=0))),
        attempts=("train-1 GpuOutOfMemory 76 at 7",),
        conditions=(FAILED, "Succeeded False GpuOutOfMemory"),
    ),
    Case(
        reason=Reason.GPU_UNAVAILABLE,
        told="The driver of the first node is broken.",
        job=a_scripted_job("gpu-unavailable", attempt=1, step=0, reason=Reason.GPU_UNAVAILABLE, message=NO_GPU),
        phase="Succeeded",
        attempts=("train-1 GpuUnavailable 70 at 0, 0 lost", AT_THE_END),
        conditions=SUCCEEDED,
    ),
    Case(
        reason=Reason.HOST_OUT_OF_MEMORY,
        told="The trainer takes it exceeded its memory limit, and failurePolicy.backoffSeconds is an hour.",
        job=a_failing_job("host-out-of-memory")
        .resources(memory=MEMORY_LIMIT)
        .failure_policy(backoff_seconds=LONG_BACKOFF_SECONDS)
        .env(**faulty(held(STEP), greedy(STEP, takes=MORE_BYTES))),
        done=let_it_go,
        settled=stands("Running", "BackingOff"),
        phase="Restarting",
        attempts=("train-1 HostOutOfMemory 137 at 7",),
        conditions=BACKS_OFF,
    ),
    Case(
        reason=Reason.DISK_FULL,
        told="The second checkpoint finds no room on the volume.",
        job=a_failing_job("disk-full").env(**faulty(full(10))),
        attempts=("train-1 DiskFull 70 at 10",),
        conditions=(FAILED, "Succeeded False DiskFull"),
    ),
    Case(
        reason=Reason.DIVERGED,
        told="The loss of step 8 is NaN.",
        job=a_failing_job("diverged").env(**faulty(nan(STEP))),
        attempts=("train-1 Diverged 77 at 8",),
        conditions=(FAILED, "Succeeded False Diverged"),
    ),
    Case(
        reason=Reason.HUNG,
        told="The trainer stands still after step 7. (Here it waits for seconds before it gives up, not for minutes.)",
        job=a_failing_job("hung").env(**faulty(hang(STEP, attempt=1), impatient(IMPATIENT_SECONDS, attempt=1))),
        phase="Succeeded",
        attempts=("train-1 Hung 70 at 7, 2 lost", AT_THE_END),
        conditions=SUCCEEDED,
    ),
    Case(
        reason=Reason.INTERRUPTED,
        told="Somebody deletes the Pod while it computes step 8.",
        job=a_waiting_job("interrupted"),
        done=delete,
        phase="Succeeded",
        attempts=("train-1 Interrupted 75 at 8, 0 lost", AT_THE_END),
        conditions=SUCCEEDED,
    ),
    Case(
        reason=Reason.KILLED,
        told="Somebody kills the trainer with SIGKILL, and failurePolicy.backoffSeconds is an hour.",
        job=a_held_job("killed").failure_policy(backoff_seconds=LONG_BACKOFF_SECONDS),
        done=kill,
        settled=stands("Running", "BackingOff"),
        phase="Restarting",
        attempts=("train-1 Killed 137 at 7",),
        conditions=BACKS_OFF,
    ),
    Case(
        reason=Reason.POD_LOST,
        told="Somebody deletes the Pod by force, without a grace period.",
        job=a_waiting_job("pod-lost", stops=False),
        done=delete_by_force,
        phase="Succeeded",
        attempts=("train-1 PodLost - at 7, 2 lost", AT_THE_END),
        conditions=SUCCEEDED,
    ),
    Case(
        reason=Reason.NODE_LOST,
        told="The node does not answer any more. Kubernetes marks the Pod and, at last, takes it away.",
        job=a_waiting_job("node-lost"),
        done=lose_the_node,
        phase="Succeeded",
        attempts=("train-1 NodeLost - at 7, 2 lost", AT_THE_END),
        conditions=SUCCEEDED,
    ),
    Case(
        reason=Reason.PREEMPTED,
        told="The scheduler gives the place to another Pod.",
        job=a_waiting_job("preempted"),
        done=disrupted("PreemptionByScheduler", "default-scheduler: preempting to accommodate a higher priority pod"),
        phase="Succeeded",
        attempts=("train-1 Preempted 75 at 8, 0 lost", AT_THE_END),
        conditions=SUCCEEDED,
    ),
    Case(
        reason=Reason.EVICTED,
        told="The node is drained.",
        job=a_waiting_job("evicted"),
        done=disrupted("EvictionByEvictionAPI", "Eviction API: evicting"),
        phase="Succeeded",
        attempts=("train-1 Evicted 75 at 8, 0 lost", AT_THE_END),
        conditions=SUCCEEDED,
    ),
    Case(
        reason=Reason.IMAGE_PULL_FAILED,
        told="There is no such image. The job waits for it.",
        job=a_failing_job("image-pull-failed").set("image", "registry.example/no-such-trainer:1"),
        settled=lambda status: "ImagePullBackOff" in json.dumps(status),
        phase="Pending",
        attempts=("prepare-1 - -",),
        conditions=("Prepared Unknown ImagePullFailed", "Running Unknown Waiting", "Succeeded Unknown ImagePullFailed"),
    ),
    Case(
        reason=Reason.UNSCHEDULABLE,
        told="The job asks for a GPU, and no node has one. It waits.",
        job=a_failing_job("unschedulable").resources(gpus=1),
        settled=stands("Running", "Unschedulable"),
        phase="Queued",
        attempts=("train-1 - -",),
        conditions=("Running False Unschedulable", "Succeeded Unknown Unschedulable"),
    ),
    Case(
        reason=Reason.DEADLINE_EXCEEDED,
        told="The deadline passes while step 8 is computed.",
        job=a_waiting_job("deadline-exceeded"),
        done=miss_the_deadline,
        attempts=("train-1 DeadlineExceeded 75 at 8",),
        conditions=(FAILED, "Succeeded False DeadlineExceeded"),
    ),
    Case(
        reason=Reason.INTERNAL_ERROR,
        told="A library raises what nobody expects of it, and failurePolicy.maxRetries is 0.",
        job=a_scripted_job("internal-error", step=STEP, reason=Reason.INTERNAL_ERROR, message=A_BUG).failure_policy(
            max_retries=0
        ),
        attempts=("train-1 InternalError 70 at 7",),
        conditions=(FAILED, "Succeeded False InternalError"),
    ),
]
TOO_SMALL = next(case for case in CASES if case.name == "gpu-too-small")
BY_NAME = {case.name: case for case in CASES}


@pytest.fixture(scope="module")
def statuses(lab: Lab) -> Iterator[dict[str, Status]]:
    """How each job stands at last; all run at the same time."""
    for case in CASES:
        lab.apply(case.job)
    for case in CASES:
        if case.done is not None:
            case.done(lab, case.name)
    yield {case.name: reach(lab.cluster, case.name, case.settled, seconds=LONG_SECONDS) for case in CASES}
    lab.kubectl("delete", "sft", *BY_NAME, "--wait=false")


def test_every_reason_has_a_run() -> None:
    assert [reason for reason in Reason if not any(case.reason is reason for case in CASES)] == []


@pytest.mark.parametrize("name", BY_NAME)
def test_the_attempts_have_their_reasons(statuses: dict[str, Status], name: str) -> None:
    status, case = statuses[name], BY_NAME[name]
    attempts = [attempt_line(attempt) for attempt in status["attempts"]]
    good = [line for line in attempts if line == "prepare-1 Completed 0"]
    assert tuple(line for line in attempts if line not in good) == case.attempts
    assert bool(good) is case.attempts[0].startswith("train-")


@pytest.mark.parametrize("name", BY_NAME)
def test_phase_and_conditions_tell_how_it_stands(statuses: dict[str, Status], name: str) -> None:
    status, case = statuses[name], BY_NAME[name]
    assert status["phase"] == case.phase
    assert tuple(condition_line(entry) for entry in seen(status["conditions"])) == case.conditions


@pytest.mark.parametrize("name", [case.name for case in CASES if case.phase == "Failed" and case is not TOO_SMALL])
def test_a_job_that_has_failed_says_what_to_change(statuses: dict[str, Status], name: str) -> None:
    assert POLICIES[BY_NAME[name].reason].hint in condition(statuses[name], "Succeeded")["message"]


def test_a_gpu_that_is_too_small_for_one_sequence_is_told_with_what_would_fit(statuses: dict[str, Status]) -> None:
    message = condition(statuses[TOO_SMALL.name], "Succeeded")["message"]
    assert "The micro-batch is already one sequence" in message
    assert "This would need about " in message


def test_a_smaller_micro_batch_is_told(statuses: dict[str, Status]) -> None:
    adjusted = statuses["gpu-out-of-memory"]["adjustments"]
    assert [entry["perDeviceBatchSize"] for entry in adjusted] == [{"from": 4, "to": 2}]


@pytest.mark.parametrize("reason", Reason)
def test_the_page_shows_what_was_seen(statuses: dict[str, Status], lab: Lab, reason: Reason) -> None:
    cases = [case for case in CASES if case.reason is reason]
    rows = {case.name: lab.kubectl("get", "sft", case.name) for case in cases}
    runs = [(case, rows[case.name], statuses[case.name]) for case in cases]
    text = PAGE.read_text(encoding="utf-8")
    check_golden_text(PAGE, with_runs(text, reason, runs))
