from dataclasses import replace
from typing import Any

import pytest

from sftjob_sandbox.node.status import (
    ContainerView,
    PodView,
    Running,
    State,
    Terminated,
    Waiting,
    ended_containers,
    pod_phase,
    pod_status,
)
from support.fakes.node_api import container, pod

NOW = "2026-01-01T00:00:10Z"
WAITING = Waiting("ContainerCreating")
RUNNING = Running("2026-01-01T00:00:05Z")
DONE = Terminated(exit_code=0, reason="Completed")
FAILED = Terminated(exit_code=3, reason="Error")


def view(*states: State, **fields: Any) -> PodView:
    containers = tuple(
        ContainerView(spec={"name": f"c{index}", "image": "shell"}, state=state) for index, state in enumerate(states)
    )
    defaults: dict[str, Any] = {"start_time": "2026-01-01T00:00:00Z", "address": "127.0.0.1", "set_up": True}
    return PodView(pod=pod(container()), containers=containers, **defaults | fields)


@pytest.mark.parametrize(
    ("states", "phase"),
    [
        ([WAITING], "Pending"),
        ([RUNNING, WAITING], "Pending"),
        ([RUNNING, RUNNING], "Running"),
        ([RUNNING, DONE], "Running"),
        ([DONE, DONE], "Succeeded"),
        ([DONE, FAILED], "Failed"),
    ],
)
def test_the_phase_follows_the_containers(states: list[State], phase: str) -> None:
    assert pod_phase(view(*states)) == phase


def conditions(status: dict[str, Any]) -> dict[str, tuple[str, str | None]]:
    return {condition["type"]: (condition["status"], condition.get("reason")) for condition in status["conditions"]}


@pytest.mark.parametrize(
    ("pod_view", "expected"),
    [
        (
            view(WAITING),
            {
                "PodReadyToStartContainers": ("True", None),
                "Initialized": ("True", None),
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
    ids=["waiting", "running", "succeeded", "failed"],
)
def test_conditions(pod_view: PodView, expected: dict[str, Any]) -> None:
    assert conditions(pod_status(pod_view, NOW)) == expected


def test_unready_containers_are_named() -> None:
    messages = [c.get("message") for c in pod_status(view(RUNNING, WAITING, WAITING), NOW)["conditions"]]
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
        state=ended,
        container_id="sandbox://abc",
        image_id="sandbox:///images",
    )
    status = pod_status(replace(view(), containers=(one,)), NOW)
    del status["conditions"]
    assert status == {
        "phase": "Failed",
        "hostIP": "127.0.0.1",
        "hostIPs": [{"ip": "127.0.0.1"}],
        "podIP": "127.0.0.1",
        "podIPs": [{"ip": "127.0.0.1"}],
        "startTime": "2026-01-01T00:00:00Z",
        "containerStatuses": [
            {
                "name": "main",
                "image": "shell:1",
                "imageID": "sandbox:///images",
                "containerID": "sandbox://abc",
                "restartCount": 0,
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


def test_a_failure_of_the_node_is_shown() -> None:
    status = pod_status(view(FAILED, failure="see the log"), NOW)
    assert (status["phase"], status["reason"], status["message"]) == ("Failed", "NodeError", "see the log")


def test_at_the_end_a_container_that_never_ran_is_lost() -> None:
    done, never_ran = ended_containers(view(DONE, WAITING).containers)
    assert done.state == DONE
    assert isinstance(never_ran.state, Terminated)
    assert (never_ran.state.exit_code, never_ran.state.reason) == (137, "ContainerStatusUnknown")
