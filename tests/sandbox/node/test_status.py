from dataclasses import replace
from typing import Any

import pytest

from sftjob_sandbox.node.status import (
    ContainerView,
    Failure,
    PodView,
    Running,
    State,
    Terminated,
    Waiting,
    ended_containers,
    pod_phase,
    pod_status,
)
from support.node_api import container, pod

NOW = "2026-01-01T00:00:10Z"
WAITING = Waiting("ContainerCreating")
RUNNING = Running("2026-01-01T00:00:05Z")
DONE = Terminated(exit_code=0, reason="Completed")
FAILED = Terminated(exit_code=3, reason="Error")
BACKING_OFF = Waiting("CrashLoopBackOff", "back-off 10s")


def view(
    *states: State, init: tuple[State, ...] = (), policy: str = "Never", last: Terminated | None = None, **fields: Any
) -> PodView:
    kinds = [(state, True) for state in init] + [(state, False) for state in states]
    containers = tuple(
        ContainerView(
            spec={"name": f"c{index}", "image": "shell"},
            init=is_init,
            state=state,
            last=last if isinstance(state, Waiting) and state is BACKING_OFF else None,
            ready=isinstance(state, Running),
            started=isinstance(state, Running),
        )
        for index, (state, is_init) in enumerate(kinds)
    )
    defaults: dict[str, Any] = {"start_time": "2026-01-01T00:00:00Z", "address": "127.0.0.1"}
    defaults |= {"set_up": True, "ended": False}
    obj = {**pod(container(), restartPolicy=policy), "status": {"qosClass": "Burstable"}}
    return PodView(pod=obj, containers=containers, **defaults | fields)


@pytest.mark.parametrize(
    ("states", "init", "policy", "ended", "phase"),
    [
        ([WAITING], [], "Never", False, "Pending"),
        ([RUNNING, WAITING], [], "Never", False, "Pending"),
        ([RUNNING, RUNNING], [], "Never", False, "Running"),
        ([RUNNING, DONE], [], "Never", False, "Running"),
        ([DONE, DONE], [], "Never", False, "Succeeded"),
        ([DONE, FAILED], [], "Never", False, "Failed"),
        ([FAILED], [], "OnFailure", False, "Running"),
        ([DONE], [], "OnFailure", False, "Succeeded"),
        ([DONE], [], "Always", False, "Running"),
        ([BACKING_OFF], [], "Always", False, "Running"),
        ([DONE], [], "Always", True, "Succeeded"),
        ([FAILED], [], "OnFailure", True, "Failed"),
        ([WAITING], [RUNNING], "Never", False, "Pending"),
        ([WAITING], [FAILED], "Never", False, "Failed"),
        ([WAITING], [FAILED], "Always", False, "Pending"),
        ([WAITING], [BACKING_OFF], "OnFailure", False, "Pending"),
        ([RUNNING], [DONE], "Never", False, "Running"),
    ],
)
def test_the_phase_follows_the_containers(
    states: list[State], init: list[State], policy: str, ended: bool, phase: str
) -> None:
    assert pod_phase(view(*states, init=tuple(init), policy=policy, ended=ended, last=FAILED)) == phase


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    return {condition["type"]: (condition["status"], condition.get("reason")) for condition in status["conditions"]}


@pytest.mark.parametrize(
    ("pod_view", "expected"),
    [
        (
            view(WAITING, init=(RUNNING,)),
            {
                "PodReadyToStartContainers": ("True", None),
                "Initialized": ("False", "ContainersNotInitialized"),
                "Ready": ("False", "ContainersNotReady"),
                "ContainersReady": ("False", "ContainersNotReady"),
                "PodScheduled": ("True", None),
            },
        ),
        (
            view(RUNNING),
            {
                "PodReadyToStartContainers": ("True", None),
                "Initialized": ("True", None),
                "Ready": ("True", None),
                "ContainersReady": ("True", None),
                "PodScheduled": ("True", None),
            },
        ),
        (
            view(DONE),
            {
                "PodReadyToStartContainers": ("False", None),
                "Initialized": ("True", "PodCompleted"),
                "Ready": ("False", "PodCompleted"),
                "ContainersReady": ("False", "PodCompleted"),
                "PodScheduled": ("True", None),
            },
        ),
        (
            view(FAILED),
            {
                "PodReadyToStartContainers": ("False", None),
                "Initialized": ("True", None),
                "Ready": ("False", "PodFailed"),
                "ContainersReady": ("False", "PodFailed"),
                "PodScheduled": ("True", None),
            },
        ),
    ],
    ids=["initializing", "running", "succeeded", "failed"],
)
def test_conditions(pod_view: PodView, expected: dict[str, Any]) -> None:
    assert conditions(pod_status(pod_view, NOW)) == expected


def test_unready_containers_are_named() -> None:
    messages = [c.get("message") for c in pod_status(view(WAITING, WAITING, init=(RUNNING,)), NOW)["conditions"]]
    assert "containers with incomplete status: [c0]" in messages
    assert "containers with unready status: [c1 c2]" in messages


def test_a_condition_keeps_its_time_until_its_status_changes_and_foreign_ones_stay() -> None:
    before = view(RUNNING)
    old = pod_status(before, "2026-01-01T00:00:01Z")
    old["conditions"].insert(0, {"type": "example.com/mine", "status": "True"})
    after = view(DONE)
    after.pod["status"] = old
    times = {c["type"]: c.get("lastTransitionTime") for c in pod_status(after, NOW)["conditions"]}
    assert times == {
        "example.com/mine": None,
        "PodReadyToStartContainers": NOW,
        "Initialized": "2026-01-01T00:00:01Z",
        "Ready": NOW,
        "ContainersReady": NOW,
        "PodScheduled": "2026-01-01T00:00:01Z",
    }


def test_the_whole_status_of_a_finished_pod() -> None:
    ended = Terminated(
        exit_code=137,
        reason="OOMKilled",
        message="why",
        started_at="2026-01-01T00:00:05Z",
        finished_at="2026-01-01T00:00:09Z",
        container_id="sandbox://abc",
    )
    one = ContainerView(
        spec={
            "name": "main",
            "image": "shell:1",
            "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": True}],
        },
        init=False,
        state=ended,
        restart_count=2,
        container_id="sandbox://abc",
        image_id="sandbox:///images",
    )
    status = pod_status(replace(view(ended=True), containers=(one,)), NOW)
    del status["conditions"]
    assert status == {
        "phase": "Failed",
        "hostIP": "127.0.0.1",
        "hostIPs": [{"ip": "127.0.0.1"}],
        "podIP": "127.0.0.1",
        "podIPs": [{"ip": "127.0.0.1"}],
        "startTime": "2026-01-01T00:00:00Z",
        "qosClass": "Burstable",
        "containerStatuses": [
            {
                "name": "main",
                "image": "shell:1",
                "imageID": "sandbox:///images",
                "containerID": "sandbox://abc",
                "restartCount": 2,
                "ready": False,
                "started": False,
                "lastState": {},
                "state": {
                    "terminated": {
                        "exitCode": 137,
                        "reason": "OOMKilled",
                        "message": "why",
                        "startedAt": "2026-01-01T00:00:05Z",
                        "finishedAt": "2026-01-01T00:00:09Z",
                        "containerID": "sandbox://abc",
                    }
                },
                "volumeMounts": [{"name": "v", "mountPath": "/v", "readOnly": True, "recursiveReadOnly": "Disabled"}],
            }
        ],
    }


def test_a_failure_of_the_whole_pod_is_told() -> None:
    status = pod_status(view(FAILED, failure=Failure(reason="DeadlineExceeded", message="too long")), NOW)
    assert (status["phase"], status["reason"], status["message"]) == ("Failed", "DeadlineExceeded", "too long")


def test_at_the_end_a_container_that_waited_shows_how_it_ended_or_that_it_is_lost() -> None:
    backing_off, never_ran = ended_containers(view(BACKING_OFF, WAITING, last=FAILED).containers)
    assert backing_off.state == FAILED
    assert isinstance(never_ran.state, Terminated)
    assert (never_ran.state.exit_code, never_ran.state.reason) == (137, "ContainerStatusUnknown")


def test_at_the_end_of_a_failed_initialization_the_others_still_wait() -> None:
    _, main = ended_containers(view(WAITING, init=(FAILED,)).containers)
    assert main.state == WAITING
