"""One real run for each reason of the taxonomy: how it ends, and what docs/failures.md shows of it."""

import json
from collections.abc import Iterator

import pytest

from sftjob_contract.reasons import Reason
from sftjob_operator.reconcile.policy import POLICIES
from support.failing import (
    BAD_ROWS,
    GATED,
    IMPATIENT_SECONDS,
    LONG_BACKOFF_SECONDS,
    LONG_SECONDS,
    MEMORY_LIMIT,
    MORE_BYTES,
    STEP,
    Case,
    a_failing_job,
    a_held_job,
    delete,
    delete_by_force,
    disrupted,
    kill,
    let_it_go,
    lose_the_node,
    miss_the_deadline,
    stands,
)
from support.failure_page import PAGE, attempt_line, condition_line, seen, with_runs
from support.faults import bug, faulty, full, greedy, hang, held, impatient, nan, no_gpu, oom
from support.golden import check_golden_text
from support.hub import Hub
from support.jobs import Status, condition, reach, sentences, write_rows
from support.lab import Lab

pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]  # the first test waits for every job
FAILED = "Running False Failed"
SUCCEEDED = ("Running False Completed", "Succeeded True Completed")
BACKS_OFF = ("Running False BackingOff", "Succeeded Unknown BackingOff")
AT_THE_END = "train-2 Completed 0 at 12"


def refused_by_prepare(reason: Reason, code: int) -> dict[str, tuple[str, ...]]:
    said = (f"Prepared False {reason}", FAILED, f"Succeeded False {reason}")
    return {"attempts": (f"prepare-1 {reason} {code}",), "conditions": said}


CASES = [
    Case(
        reason=Reason.DATA_INVALID,
        told="A row of the data set does not have the column that all others have.",
        job=a_failing_job("data-invalid", data=BAD_ROWS),
        **refused_by_prepare(Reason.DATA_INVALID, 65),
    ),
    Case(
        reason=Reason.CONFIG_INVALID,
        told="An option of TRL is misspelt.",
        job=a_failing_job("config-invalid").training(extra={"weight_decai": 0.1}),
        **refused_by_prepare(Reason.CONFIG_INVALID, 65),
    ),
    Case(
        reason=Reason.MODEL_NOT_FOUND,
        told="There is no such directory on the claim.",
        job=a_failing_job("model-not-found").model("pvc://input/no-such-model"),
        **refused_by_prepare(Reason.MODEL_NOT_FOUND, 66),
    ),
    Case(
        reason=Reason.DATASET_NOT_FOUND,
        told="There is no such file on the claim.",
        job=a_failing_job("dataset-not-found", data="no-such-file.jsonl"),
        **refused_by_prepare(Reason.DATASET_NOT_FOUND, 66),
    ),
    Case(
        reason=Reason.ACCESS_DENIED,
        told="The model is gated, and its licence was not accepted.",
        job=a_failing_job("access-denied").model(f"hf://{GATED}"),
        **refused_by_prepare(Reason.ACCESS_DENIED, 66),
    ),
    Case(
        reason=Reason.UNREACHABLE,
        told="Nothing listens at the address of the hub.",
        job=a_failing_job("unreachable")
        .model("hf://team/model")
        .failure_policy(max_retries=0)
        .env(HF_ENDPOINT="http://127.0.0.1:9", NO_PROXY="127.0.0.1"),
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
        job=a_failing_job("gpu-unavailable").env(**faulty(no_gpu(attempt=1))),
        phase="Succeeded",
        attempts=("train-1 GpuUnavailable 70 at 0, 0 lost", AT_THE_END),
        conditions=SUCCEEDED,
    ),
    Case(
        reason=Reason.HOST_OUT_OF_MEMORY,
        told="The trainer takes more memory than its limit, and failurePolicy.backoffSeconds is an hour.",
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
        job=a_held_job("interrupted"),
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
        job=a_held_job("pod-lost"),
        done=delete_by_force,
        phase="Succeeded",
        attempts=("train-1 PodLost - at 7, 2 lost", AT_THE_END),
        conditions=SUCCEEDED,
    ),
    Case(
        reason=Reason.NODE_LOST,
        told="The node does not answer any more. Kubernetes marks the Pod and, at last, takes it away.",
        job=a_held_job("node-lost"),
        done=lose_the_node,
        phase="Succeeded",
        attempts=("train-1 NodeLost - at 7, 2 lost", AT_THE_END),
        conditions=SUCCEEDED,
    ),
    Case(
        reason=Reason.PREEMPTED,
        told="The scheduler gives the place to another Pod.",
        job=a_held_job("preempted"),
        done=disrupted("PreemptionByScheduler", "default-scheduler: preempting to accommodate a higher priority pod"),
        phase="Succeeded",
        attempts=("train-1 Preempted 75 at 8, 0 lost", AT_THE_END),
        conditions=SUCCEEDED,
    ),
    Case(
        reason=Reason.EVICTED,
        told="The node is drained.",
        job=a_held_job("evicted"),
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
        job=a_held_job("deadline-exceeded"),
        done=miss_the_deadline,
        attempts=("train-1 DeadlineExceeded 75 at 8",),
        conditions=(FAILED, "Succeeded False DeadlineExceeded"),
    ),
    Case(
        reason=Reason.INTERNAL_ERROR,
        told="A library raises what nobody expects of it, and failurePolicy.maxRetries is 0.",
        job=a_failing_job("internal-error").failure_policy(max_retries=0).env(**faulty(bug(STEP))),
        attempts=("train-1 InternalError 70 at 7",),
        conditions=(FAILED, "Succeeded False InternalError"),
    ),
]
TOO_SMALL = next(case for case in CASES if case.name == "gpu-too-small")
BY_NAME = {case.name: case for case in CASES}


@pytest.fixture(scope="module")
def hub() -> Iterator[Hub]:
    """A hub with a gated model."""
    with Hub() as hub:
        hub.commit("model", GATED, {"config.json": b"{}"}, gated=True)
        yield hub


@pytest.fixture(scope="module")
def statuses(lab: Lab, hub: Hub) -> Iterator[dict[str, Status]]:
    """How each job stands at last; all run at the same time."""
    rows: list[dict[str, object]] = [{"text": text} for text in sentences(20)]
    rows[16] = {"txt": "a typing error"}
    write_rows(lab.input / BAD_ROWS, rows)
    for case in CASES:
        on_hub = case.reason is Reason.ACCESS_DENIED
        lab.apply(case.job.env(HF_ENDPOINT=hub.url) if on_hub else case.job)
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
    assert "Sequences go through the model one at a time already" in message
    assert "This would need about " in message


def test_a_smaller_micro_batch_is_told(statuses: dict[str, Status]) -> None:
    adjusted = statuses["gpu-out-of-memory"]["adjustments"]
    assert [entry["perDeviceBatchSize"] for entry in adjusted] == [{"from": 4, "to": 2}]


@pytest.mark.parametrize("reason", Reason)
def test_the_page_shows_what_was_seen(statuses: dict[str, Status], lab: Lab, hub: Hub, reason: Reason) -> None:
    cases = [case for case in CASES if case.reason is reason]
    rows = {case.name: lab.kubectl("get", "sft", case.name) for case in cases}
    runs = [(case, rows[case.name], statuses[case.name]) for case in cases]
    text = PAGE.read_text(encoding="utf-8")
    check_golden_text(PAGE, with_runs(text, reason, runs))
