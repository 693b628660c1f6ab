"""What a node shows of a Pod after a reboot, without room, or with a wrong clock: interruptions, and bounded waits."""

from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftjob_contract.names import CONTAINER, LABEL_ATTEMPT, LABEL_STAGE, Stage
from sftjob_contract.reasons import Reason
from sftjob_operator.api import AttemptStatus, SFTJobStatus
from sftjob_operator.reconcile import Create, Decision, PodView, parse_time, pod_view
from sftjob_operator.reconcile.checks.retries import LONGEST_BACKOFF_SECONDS
from sftjob_operator.reconcile.observe.times import known_time
from support.fakes import decisions
from support.fakes.decisions import PREPARED, decided, message, said
from support.fakes.fake_cluster import START, an_outcome, ended, moment, running
from support.jobs.builders import UID, a_command, a_job

NODE = "node-7"
NO_SUCH_PROGRAM = (
    "failed to create containerd task: failed to create shim task: OCI runtime create failed: runc create failed: "
    'unable to start container process: exec: "no-such-program": executable file not found in $PATH: unknown'
)
HOOK = (
    "failed to create shim task: OCI runtime create failed: runc create failed: unable to start container process: "
    "error during container init: error running hook #0: nvidia-container-cli: initialization error: driver error"
)


def acts(decision: Decision) -> list[str]:
    """What is done to Pods."""
    return [act for act in decisions.acts(decision) if " Pod/" in act]


def train_pod(status: dict[str, Any], attempt: int = 1, *, deleting: bool = False, created: float = 0) -> PodView:
    """A train Pod as the API server has it."""
    name = f"demo-train-{attempt}"
    metadata: dict[str, Any] = {
        "name": name,
        "uid": name,
        "labels": {LABEL_STAGE: "train", LABEL_ATTEMPT: str(attempt)},
        "ownerReferences": [{"kind": "SFTJob", "uid": UID, "controller": True}],
        "creationTimestamp": moment(created),
    }
    if deleting:
        metadata["deletionTimestamp"] = moment(created)
    return pod_view({"metadata": metadata, "spec": {"nodeName": NODE}, "status": status})


def terminated(code: int, reason: str, **parts: Any) -> dict[str, Any]:
    """A Pod whose container ended, without a last word."""
    state = {"exitCode": code, "reason": reason, "startedAt": moment(0), "finishedAt": moment(0)} | parts
    return {"phase": "Failed", "containerStatuses": [{"name": CONTAINER, "state": {"terminated": state}}]}


def rejected(reason: str, words: str) -> dict[str, Any]:
    """A Pod that a kubelet did not admit."""
    return {"phase": "Failed", "reason": reason, "message": words, "startTime": moment(0)}


@pytest.mark.parametrize(
    ("status", "words"),
    [
        (terminated(255, "Unknown"), "disappeared from node node-7, as after a reboot: Unknown."),
        (terminated(255, "Unknown", startedAt=None, finishedAt=None), "disappeared from node node-7"),
        (
            terminated(137, "ContainerStatusUnknown", message="The container could not be located when the pod was"),
            "ContainerStatusUnknown: The container could not be located when the pod was.",
        ),
        (terminated(0, "Error") | {"phase": "Failed", "reason": "NodeLost"}, None),
        (terminated(137, "Error") | {"reason": "Terminated", "message": "Pod was terminated"}, "Pod was terminated."),
        (
            terminated(143, "Error") | {"reason": "NodeShutdown", "message": "node is shutting down"},
            "NodeShutdown: node",
        ),
        (terminated(255, "Error") | {"reason": "NodeShutdown"}, "lost its node node-7: NodeShutdown."),
        (terminated(137, "Error") | {"reason": "Shutdown"}, "Shutdown."),
        (terminated(137, "Error") | {"reason": "NodeNotReady", "message": "kubelet stopped"}, "kubelet stopped."),
        (rejected("NodeLost", "Node is gone"), "Node is gone."),
        (
            rejected("UnexpectedAdmissionError", "Allocate failed due to no healthy devices present: nvidia.com/gpu"),
            "was not admitted by node node-7: UnexpectedAdmissionError: Allocate failed due to no healthy devices",
        ),
        (rejected("OutOfcpu", "Node didn't have enough resource: cpu"), "OutOfcpu: Node didn't have enough resource"),
        (rejected("OutOfmemory", "no memory"), "OutOfmemory: no memory."),
        (rejected("OutOfpods", "no pods"), "OutOfpods: no pods."),
        (rejected("OutOfnvidia.com/gpu", "no gpu"), "OutOfnvidia.com/gpu: no gpu."),
        (rejected("OutOfephemeral-storage", "no disk"), "OutOfephemeral-storage: no disk."),
        (rejected("NodeAffinity", "Pod was rejected: node(s) didn't match"), "NodeAffinity: Pod was rejected"),
    ],
)
@pytest.mark.parametrize("deleting", [False, True])
def test_what_a_node_does_is_an_interruption_reported_in_its_words(
    status: dict[str, Any], words: str | None, deleting: bool
) -> None:
    decision = decided(PREPARED, train_pod(status, deleting=deleting))
    attempt = next(a for a in decision.status.attempts if a.stage == Stage.TRAIN)
    if words is None:  # the trainer had done its work before the node went
        assert decision.status.phase == "Succeeded"
        return
    assert attempt.reason == Reason.NODE_LOST
    assert words in (attempt.message or "")
    assert (acts(decision), decision.status.interruptions) == (["create Pod/demo-train-2"], 1)


def test_exit_code_255_of_a_trainer_itself_is_no_signal_and_no_interruption() -> None:
    decision = decided(PREPARED, train_pod(terminated(255, "Error", message="SystemExit: -1")))
    assert decision.status.attempts[-1].reason == Reason.INTERNAL_ERROR
    assert "exit code 255" in (decision.status.attempts[-1].message or "")


@pytest.mark.parametrize(
    ("code", "reason", "words"),
    [
        (128, "StartError", NO_SUCH_PROGRAM),
        (127, "ContainerCannotRun", 'exec: "no-such-program": executable file not found in $PATH'),
        (126, "ContainerCannotRun", 'exec: "./train.sh": permission denied: unknown'),
        (128, "StartError", 'exec: "/train": stat /train: no such file or directory: unknown'),
        (128, "StartError", 'exec: "/opt": is a directory: unknown'),
        (127, "StartError", "executable file `no-such-program` not found in $PATH: No such file or directory"),
        (255, "Error", "exec /train.sh: no such file or directory"),
        (1, "Error", "exec /train.sh: exec format error"),
    ],
)
@pytest.mark.parametrize("zero", ["1970-01-01T00:00:00Z", "0001-01-01T00:00:00Z", None])
def test_a_program_that_the_image_does_not_have_ends_the_job_at_once_and_names_the_field(
    code: int, reason: str, words: str, zero: str | None
) -> None:
    started = zero if reason != "Error" else moment(0)
    pod = train_pod(terminated(code, reason, message=words, startedAt=started))
    decision = decided(pod, job=a_command("no-such-program", "--fast"))
    assert (decision.status.phase, said(decision, "Succeeded")[1]) == ("Failed", "ConfigInvalid")
    assert words[-60:] in message(decision, "Succeeded")
    assert "Correct spec.command, whose first word is 'no-such-program'" in message(decision, "Succeeded")
    if reason != "Error":
        assert decision.status.attempts[-1].start_time is None


def test_a_trainer_image_without_python_is_named() -> None:
    status = terminated(128, "StartError", message='exec: "python": executable file not found in $PATH: unknown')
    named = decided(PREPARED, train_pod(status), job=a_job().set("image", "busybox:1"))
    assert acts(named) == ["create Pod/demo-train-2"]  # Prepare ran, so that this is the node's trouble
    pod = train_pod(status)
    prepare = replace(pod, stage=Stage.PREPARE, name="demo-prepare-1")
    decision = decided(prepare, job=a_job().set("image", "busybox:1"))
    assert (decision.status.phase, said(decision, "Succeeded")[1]) == ("Failed", "ConfigInvalid")
    assert "Correct spec.image: busybox:1" in message(decision, "Succeeded")


@pytest.mark.parametrize("words", [HOOK, 'error mounting "/x" to rootfs: no such file or directory'])
def test_a_start_that_fails_for_the_node_is_tried_again(words: str) -> None:
    decision = decided(train_pod(terminated(128, "StartError", message=words)), job=a_command("python"))
    assert decision.status.attempts[-1].reason == Reason.INTERNAL_ERROR
    assert decision.status.phase == "Restarting"


def without_gpu(attempt: int, node: str) -> PodView:
    """A train Pod that saw no CUDA device."""
    outcome = an_outcome(Stage.TRAIN, 70, reason=Reason.GPU_UNAVAILABLE, message="no CUDA device is visible")
    return replace(train_pod(ended(70, outcome), attempt), node=node)


def preferred(decision: Decision) -> Any:
    (pod,) = [action.body for action in decision.actions if isinstance(action, Create) and action.body["kind"] == "Pod"]
    affinity = (pod["spec"].get("affinity") or {}).get("nodeAffinity") or {}
    return affinity.get("preferredDuringSchedulingIgnoredDuringExecution")


def test_a_first_attempt_without_a_gpu_tries_one_other_node_and_then_ends_the_job() -> None:
    once = decided(PREPARED, without_gpu(1, "broken"))
    assert acts(once) == ["create Pod/demo-train-2"]
    (term,) = preferred(once)
    assert term["preference"]["matchExpressions"] == [
        {"key": "kubernetes.io/hostname", "operator": "NotIn", "values": ["broken"]}
    ]
    twice = decided(PREPARED, without_gpu(1, "broken"), without_gpu(2, "other"))
    assert (twice.status.phase, said(twice, "Succeeded")[1]) == ("Failed", "GpuUnavailable")
    assert "resources.gpus: 0" in message(twice, "Succeeded")


def test_a_run_that_made_steps_survives_any_number_of_nodes_without_a_gpu() -> None:
    trained = AttemptStatus(
        stage=Stage.TRAIN, number=1, pod="demo-train-1", end_time=moment(0), reached_step=40, reason="PodLost"
    )
    status = SFTJobStatus(attempts=(trained,), interruptions=1)
    pods = [without_gpu(attempt, f"node-{attempt}") for attempt in range(2, 6)]
    decision = decided(PREPARED, *pods, job=a_job().with_status(status), seconds=LONGEST_BACKOFF_SECONDS)
    assert acts(decision) == ["create Pod/demo-train-6"]
    (term,) = preferred(decision)
    assert term["preference"]["matchExpressions"][0]["values"] == ["node-5", "node-4", "node-3", "node-2"]


TIMES = st.one_of(
    st.integers(-(10**9), 10**9).map(moment),
    st.integers(-(10**5), 10**5).map(moment),
    st.sampled_from(
        (
            "0001-01-01T00:00:00Z",
            "1970-01-01T00:00:00Z",
            "0001-01-01T00:00:00+14:00",
            "9999-12-31T23:59:59-14:00",
            "9999-12-31T23:59:59Z",
            "2026-03-01 12:00:00+00:00",
            "2026-03-01T12:00:00",
            "2026-03-01",
            "tomorrow",
            "",
        )
    ),
)


@given(started=TIMES, finished=TIMES, created=TIMES, code=st.sampled_from([70, 75, 137]), attempt=st.integers(1, 4))
def test_whatever_a_clock_says_a_wait_is_within_the_policy_and_no_time_in_the_future(
    started: str, finished: str, created: str, code: int, attempt: int
) -> None:
    now = START + timedelta(seconds=50)
    pods = []
    for number in range(1, attempt + 1):
        view = train_pod(terminated(code, "Error", startedAt=started, finishedAt=finished), number)
        pods.append(replace(view, created=known_time(created)))
    job = a_job().failure_policy(backoff_seconds=10).meta(creation_timestamp=moment(0))
    decision = decided(PREPARED, *pods, job=job, seconds=50)
    assert decision.recheck_seconds is None or 0 <= decision.recheck_seconds <= LONGEST_BACKOFF_SECONDS
    for entry in decision.status.attempts:
        if entry.stage is Stage.PREPARE:
            continue
        end = parse_time(entry.end_time or moment(0))
        assert START <= end <= now
        if entry.start_time is not None:
            assert START <= parse_time(entry.start_time) <= end


@pytest.mark.parametrize("ahead", [timedelta(hours=1), timedelta(hours=-1), timedelta(days=-20_000)])
def test_a_node_clock_that_is_wrong_changes_no_wait(ahead: timedelta) -> None:
    """Neither longer, nor so short that a crash loop spins."""

    def by_node(seconds: float) -> str:
        return (START + timedelta(seconds=seconds) + ahead).isoformat()

    status = terminated(137, "Error", startedAt=by_node(2), finishedAt=by_node(30))
    job = a_job().failure_policy(backoff_seconds=20)
    decision = decided(PREPARED, train_pod(status), job=job, seconds=30)
    assert 12 <= (decision.recheck_seconds or 0) <= 20


def test_an_end_in_the_future_that_was_recorded_delays_no_retry_beyond_its_wait() -> None:
    recorded = AttemptStatus(
        stage=Stage.TRAIN, number=1, pod="demo-train-1", end_time=moment(3600), exit_code=137, reason="Killed"
    )
    job = a_job().failure_policy(backoff_seconds=10).with_status(SFTJobStatus(attempts=(recorded,)))
    assert 7 <= (decided(PREPARED, job=job).recheck_seconds or 0) <= 10


def test_a_start_before_a_container_ran_is_not_shown() -> None:
    status = running()
    status["containerStatuses"][0]["state"]["running"]["startedAt"] = "1970-01-01T00:00:00Z"
    assert decided(PREPARED, train_pod(status)).status.attempts[-1].start_time is None
