"""The status of a Pod as a kubelet writes it, from the states of its containers. Pure; the caller passes the time.

Sources: k8s.io/kubernetes pkg/kubelet/kubelet_pods.go (getPhase, convertToAPIContainerStatuses) and
pkg/kubelet/status/generate.go. Containers run once: the API server refuses every restartPolicy but Never.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from sftjob_sandbox.apimachinery.objects import Object

KUBELET_CONDITIONS: Final = ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled")
TERMINAL_PHASES: Final = ("Succeeded", "Failed")


@dataclass(frozen=True)
class Waiting:
    """Not started, and why."""

    reason: str
    message: str = ""


@dataclass(frozen=True)
class Running:
    """Started at `started_at` (RFC 3339)."""

    started_at: str


@dataclass(frozen=True, kw_only=True)
class Terminated:
    """Ended. A container that could not be located has no times and no id."""

    exit_code: int
    reason: str
    message: str = ""
    started_at: str | None = None
    finished_at: str | None = None
    container_id: str = ""


State = Waiting | Running | Terminated


_LOST: Final = Terminated(
    exit_code=137,
    reason="ContainerStatusUnknown",
    message="The container could not be located when the pod was terminated",
)


@dataclass(frozen=True, kw_only=True)
class ContainerView:
    """The current state of one container."""

    spec: Mapping[str, Any]
    state: State
    container_id: str = ""
    image_id: str = ""


@dataclass(frozen=True, kw_only=True)
class PodView:
    """The current state of one Pod. `pod` is the object with its previous status.

    `set_up`: volumes are mounted and containers may start. `failure` is shown when no container is running.
    """

    pod: Object
    containers: tuple[ContainerView, ...]
    address: str
    start_time: str
    set_up: bool
    failure: str | None = None


def pod_status(view: PodView, now: str) -> Object:
    """The whole status."""
    phase = pod_phase(view)
    status: Object = {
        "phase": phase,
        "conditions": _conditions(view, phase, now),
        "hostIP": view.address,
        "hostIPs": [{"ip": view.address}],
        "startTime": view.start_time,
        "containerStatuses": [
            _container_status(container) for container in sorted(view.containers, key=lambda c: str(c.spec["name"]))
        ],
    }
    if view.set_up:
        status |= {"podIP": view.address, "podIPs": [{"ip": view.address}]}
    if view.failure and phase == "Failed":
        status |= {"reason": "NodeError", "message": view.failure}
    return status


def rejected_status(pod: Object, reason: str, message: str, start_time: str) -> Object:
    """Status of a Pod that the node does not even try to start."""
    return {
        "phase": "Failed",
        "reason": reason,
        "message": f"Pod was rejected: {message}",
        "startTime": start_time,
        "conditions": list(_before(pod).get("conditions") or ()),
    }


def pod_phase(view: PodView) -> str:
    """Pending, Running, Succeeded or Failed."""
    states = [container.state for container in view.containers]
    running = any(isinstance(state, Running) for state in states)
    if view.failure and not running:
        return "Failed"
    if any(isinstance(state, Waiting) for state in states):
        return "Pending"
    if running:
        return "Running"
    failed = any(isinstance(state, Terminated) and state.exit_code != 0 for state in states)
    return "Failed" if failed else "Succeeded"


def ended_containers(containers: tuple[ContainerView, ...]) -> tuple[ContainerView, ...]:
    """The containers of a Pod that has ended: one that did not run is lost."""
    return tuple(replace(c, state=_LOST) if isinstance(c.state, Waiting) else c for c in containers)


def _before(pod: Object) -> Object:
    status: Object = pod.get("status") or {}
    return status


def _container_status(container: ContainerView) -> Object:
    running = isinstance(container.state, Running)
    status: Object = {
        "name": container.spec["name"],
        "state": _state(container.state),
        "lastState": {},
        "ready": running,
        "restartCount": 0,
        "image": container.spec.get("image", ""),
        "imageID": container.image_id,
        "started": running,
    }
    if container.container_id:
        status["containerID"] = container.container_id
    if mounts := container.spec.get("volumeMounts"):
        status["volumeMounts"] = [_mount_status(mount) for mount in mounts]
    return status


def _mount_status(mount: Mapping[str, Any]) -> Object:
    status = {"name": mount["name"], "mountPath": mount["mountPath"]}
    return status | ({"readOnly": True, "recursiveReadOnly": "Disabled"} if mount.get("readOnly") else {})


def _state(state: State) -> Object:
    if isinstance(state, Waiting):
        return {"waiting": {"reason": state.reason} | ({"message": state.message} if state.message else {})}
    if isinstance(state, Running):
        return {"running": {"startedAt": state.started_at}}
    shown: Object = {"exitCode": state.exit_code, "reason": state.reason}
    shown |= {"startedAt": state.started_at, "finishedAt": state.finished_at}
    optional = {"message": state.message, "containerID": state.container_id}
    return {"terminated": shown | {key: value for key, value in optional.items() if value}}


def _conditions(view: PodView, phase: str, now: str) -> list[Object]:
    before = list(_before(view.pod).get("conditions") or ())
    times = {(c["type"], c["status"]): c.get("lastTransitionTime") for c in before}
    ready = _ready(view, phase)
    completed = {"reason": "PodCompleted"} if phase == "Succeeded" else {}
    fresh = [
        _condition("PodReadyToStartContainers", view.set_up and phase not in TERMINAL_PHASES),
        _condition("Initialized", True) | completed,
        {"type": "Ready", **ready},
        {"type": "ContainersReady", **ready},
        _condition("PodScheduled", True),
    ]
    for condition in fresh:
        condition["lastProbeTime"] = None
        condition["lastTransitionTime"] = times.get((condition["type"], condition["status"])) or now
    return [condition for condition in before if condition["type"] not in KUBELET_CONDITIONS] + fresh


def _condition(kind: str, holds: bool) -> Object:
    return {"type": kind, "status": "True" if holds else "False"}


def _ready(view: PodView, phase: str) -> Object:
    if phase in TERMINAL_PHASES:
        return {"status": "False", "reason": "PodCompleted" if phase == "Succeeded" else "PodFailed"}
    names = [c.spec["name"] for c in view.containers if not isinstance(c.state, Running)]
    if not names:
        return {"status": "True"}
    message = f"containers with unready status: [{' '.join(names)}]"
    return {"status": "False", "reason": "ContainersNotReady", "message": message}
