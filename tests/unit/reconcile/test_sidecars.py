"""The trainer's container decides what an attempt is; other containers of its Pod are told and never wait for."""

from typing import Any

import pytest

from sftjob_contract.names import CONTAINER, LABEL_ATTEMPT, LABEL_STAGE, Stage
from sftjob_operator.api import SFTJobStatus
from sftjob_operator.reconcile import Decision, PodView, pod_view
from sftjob_operator.reconcile.observe.sidecar_pods import SIDECAR_EXIT_SECONDS
from support.fakes import decisions
from support.fakes.decisions import PREPARED, decided, message, said
from support.fakes.fake_cluster import an_outcome, ended, moment, running
from support.jobs.builders import UID, JobBuilder, a_job

MESH = {"name": "istio-proxy", "ready": True, "state": {"running": {"startedAt": moment(0)}}}
CRASHING = {
    "name": "istio-proxy",
    "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 40s restarting failed container"}},
    "lastState": {"terminated": {"exitCode": 1, "reason": "Error"}},
}


def acts(decision: Decision) -> list[str]:
    """What is done to Pods."""
    return [act for act in decisions.acts(decision) if " Pod/" in act]


def a_pod(status: dict[str, Any], stage: Stage = Stage.TRAIN, attempt: int = 1, **spec: Any) -> PodView:
    """A Pod as the API server has it."""
    name = f"demo-{stage}-{attempt}"
    owner = {"kind": "SFTJob", "uid": UID, "controller": True}
    labels = {LABEL_STAGE: str(stage), LABEL_ATTEMPT: str(attempt)}
    metadata = {"name": name, "uid": name, "labels": labels, "ownerReferences": [owner]}
    return pod_view({"metadata": metadata, "spec": {"nodeName": "node-7", **spec}, "status": status})


def beside(status: dict[str, Any], *others: dict[str, Any], native: bool = False) -> dict[str, Any]:
    """The status of a Pod that other containers keep running."""
    if native:
        return status | {"phase": "Running", "initContainerStatuses": list(others)}
    return status | {"phase": "Running", "containerStatuses": [*others, *status["containerStatuses"]]}


def recorded(job: JobBuilder, decision: Decision) -> JobBuilder:
    return job.with_status(decision.status)


@pytest.mark.parametrize("native", [False, True])
@pytest.mark.parametrize(
    ("code", "phase", "follows"),
    [(0, "Succeeded", []), (65, "Failed", []), (75, "Preparing", ["create Pod/demo-train-2"])],
)
def test_an_attempt_is_over_with_its_trainer_and_its_pod_is_deleted_once_that_is_recorded(
    native: bool, code: int, phase: str, follows: list[str]
) -> None:
    pod = a_pod(beside(ended(code, an_outcome(Stage.TRAIN, code), seconds=5), MESH, native=native))
    first = decided(PREPARED, pod, seconds=5)
    assert first.status.attempts[1].exit_code == code
    assert acts(first) == follows
    if follows:
        assert first.status.phase == "Restarting"
    else:
        assert first.status.phase == phase
    job = recorded(a_job(), first)
    soon = decided(PREPARED, pod, job=job, seconds=6)
    assert "delete Pod/demo-train-1" not in acts(soon)
    assert soon.recheck_seconds is not None
    late = decided(PREPARED, pod, job=job, seconds=5 + SIDECAR_EXIT_SECONDS)
    assert acts(late)[-1:] == ["delete Pod/demo-train-1"]


def test_prepare_goes_on_to_train_while_its_sidecar_lingers() -> None:
    pod = a_pod(beside(ended(0, an_outcome(Stage.PREPARE)), MESH), Stage.PREPARE)
    assert acts(decided(pod)) == ["create Pod/demo-train-1"]


def test_a_sidecar_that_fails_is_told_while_the_trainer_runs_on() -> None:
    decision = decided(PREPARED, a_pod(beside(running(), CRASHING)))
    assert (decision.status.phase, acts(decision)) == ("Running", [])
    assert said(decision, "Running") == ("True", "Training")
    words = "Container istio-proxy waits with CrashLoopBackOff: back-off 40s restarting failed container; it last ended"
    assert f"{words} with exit code 1 (Error)." in message(decision, "Running")


def test_a_trainer_that_did_its_work_succeeds_though_its_sidecar_failed() -> None:
    failed = {"name": "istio-proxy", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}
    status = beside(ended(0, an_outcome(Stage.TRAIN)), failed) | {"phase": "Failed"}
    assert decided(PREPARED, a_pod(status)).status.phase == "Succeeded"


INIT = {"containerStatuses": [{"name": CONTAINER, "state": {"waiting": {"reason": "PodInitializing"}}}]}


@pytest.mark.parametrize(
    ("state", "reason", "words"),
    [
        (
            {"waiting": {"reason": "ImagePullBackOff", "message": 'Back-off pulling image "mesh:9"'}},
            "ImagePullBackOff",
            'Init container init waits with ImagePullBackOff: Back-off pulling image "mesh:9"',
        ),
        (
            {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
            "CrashLoopBackOff",
            "Init container init waits with CrashLoopBackOff: back-off 10s",
        ),
        (
            {"terminated": {"exitCode": 2, "reason": "Error", "message": "no vault"}},
            "InitContainerFailed",
            "Init container init ended with exit code 2 (Error): no vault",
        ),
        (
            {"waiting": {"reason": "CreateContainerConfigError", "message": 'secret "vault" not found'}},
            "CreateContainerConfigError",
            'secret "vault" not found',
        ),
    ],
)
@pytest.mark.parametrize("stage", list(Stage))
def test_an_init_container_that_fails_is_told_and_waited_for(
    state: dict[str, Any], reason: str, words: str, stage: Stage
) -> None:
    status = {"phase": "Pending", "initContainerStatuses": [{"name": "init", "state": state}], **INIT}
    pods = () if stage is Stage.PREPARE else (PREPARED,)
    decision = decided(*pods, a_pod(status, stage), seconds=10_000)
    type_ = "Prepared" if stage is Stage.PREPARE else "Running"
    assert said(decision, type_)[1] == said(decision, "Succeeded")[1] == reason
    assert words in message(decision, type_)
    assert acts(decision) == []


def test_a_pod_that_failed_in_an_init_container_is_an_interruption_in_its_words() -> None:
    state = {"terminated": {"exitCode": 2, "reason": "Error", "message": "no vault"}}
    status = {"phase": "Failed", "initContainerStatuses": [{"name": "init", "state": state}], **INIT}
    attempt = decided(PREPARED, a_pod(status)).status.attempts[-2]
    assert attempt.reason == "PodLost"
    assert "Init container init ended with exit code 2 (Error): no vault" in (attempt.message or "")


def test_a_native_sidecar_that_has_not_started_is_no_failed_init_container() -> None:
    native = {"name": "mesh", "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off"}}}
    status = {"phase": "Pending", "initContainerStatuses": [native], **INIT}
    pod = a_pod(status, initContainers=[{"name": "mesh", "restartPolicy": "Always"}])
    assert "Sidecar mesh waits with CrashLoopBackOff" in message(decided(PREPARED, pod), "Running")


NOT_READY = [
    {"type": "Ready", "status": "False"},
    {"type": "ContainersReady", "status": "True"},
]


@pytest.mark.parametrize("status", [running() | {"conditions": NOT_READY}, running() | {"phase": "Unknown"}])
def test_missing_reports_of_a_node_that_does_not_answer_are_not_blamed_on_the_network(status: dict[str, Any]) -> None:
    decision = decided(PREPARED, a_pod(status), seconds=91)
    assert said(decision, "ProgressReporting") == ("False", "ReportsMissing")
    assert "Node node-7 of Pod demo-train-1 is not ready (NotReady)" in message(decision, "ProgressReporting")
    assert "NetworkPolicy" not in message(decision, "ProgressReporting")
    assert "is not ready" in message(decision, "Running")


def test_a_pod_that_its_kubelet_calls_not_ready_is_on_a_node_that_answers() -> None:
    not_ready = [
        {"type": "Ready", "status": "False", "reason": "ContainersNotReady"},
        {"type": "ContainersReady", "status": "False", "reason": "ContainersNotReady"},
    ]
    decision = decided(PREPARED, a_pod(running() | {"conditions": not_ready}), seconds=91)
    assert "NetworkPolicy" in message(decision, "ProgressReporting")


def test_the_end_of_a_job_is_recorded_before_its_pod_goes() -> None:
    """A crash between the two changes nothing: the next look finds the Pod, and the end in the status."""
    pod = a_pod(beside(ended(0, an_outcome(Stage.TRAIN)), MESH))
    unwritten = decided(PREPARED, pod, job=a_job().with_status(SFTJobStatus()), seconds=3600)
    assert acts(unwritten) == []
