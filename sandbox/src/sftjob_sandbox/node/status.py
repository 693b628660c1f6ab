"""The status of a Pod as a kubelet would write it, from what its containers are doing. Pure; the time is given.

Sources: k8s.io/kubernetes pkg/kubelet/kubelet_pods.go (getPhase, convertToAPIContainerStatuses) and
pkg/kubelet/status/generate.go. Restartable init containers and readiness gates are refused before (`admission`).
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from sftjob_sandbox.objects import Object

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
    """One container as it stands. `ready` is the readiness probe's verdict, `started` the startup probe's."""

    spec: Mapping[str, Any]
    init: bool
    state: State
    last: Terminated | None = None
    restart_count: int = 0
    container_id: str = ""
    image_id: str = ""
    ready: bool = False
    started: bool = False


@dataclass(frozen=True, kw_only=True)
class Failure:
    """Why the Pod as a whole has failed."""

    reason: str
    message: str


@dataclass(frozen=True, kw_only=True)
class PodView:
    """One Pod as it stands. `pod` is the object with its status before; `containers` holds the init containers first.

    `set_up`: volumes are mounted and containers may start. `ended`: no container will be started any more. `failure`
    shows when no container runs any more.
    """

    pod: Object
    containers: tuple[ContainerView, ...]
    address: str
    start_time: str
    set_up: bool
    ended: bool
    failure: Failure | None = None


def pod_status(view: PodView, now: str) -> Object:
    """The whole status."""
    phase = pod_phase(view)
    failure = view.failure if phase == "Failed" else None
    main = sorted((c for c in view.containers if not c.init), key=lambda c: str(c.spec["name"]))
    init = [c for c in view.containers if c.init]
    status: Object = {
        "phase": phase,
        "conditions": _conditions(view, phase, now),
        "hostIP": view.address,
        "hostIPs": [{"ip": view.address}],
        "startTime": view.start_time,
        "qosClass": _before(view.pod).get("qosClass"),
        "containerStatuses": [_container_status(container) for container in main],
    }
    if init:
        status["initContainerStatuses"] = [_container_status(container) for container in init]
    if view.set_up:
        status |= {"podIP": view.address, "podIPs": [{"ip": view.address}]}
    if failure:
        status |= {"reason": failure.reason, "message": failure.message}
    return status


def rejected_status(pod: Object, failure: Failure, start_time: str) -> Object:
    """Status of a Pod that the node does not even try to start."""
    return {
        "phase": "Failed",
        "reason": failure.reason,
        "message": f"Pod was rejected: {failure.message}",
        "startTime": start_time,
        "qosClass": _before(pod).get("qosClass"),
        "conditions": list(_before(pod).get("conditions") or ()),
    }


def pod_phase(view: PodView) -> str:
    """Pending, Running, Succeeded or Failed."""
    policy = view.pod["spec"].get("restartPolicy", "Always")
    init = [container for container in view.containers if container.init]
    main = [container for container in view.containers if not container.init]
    running = any(isinstance(container.state, Running) for container in view.containers)
    if (view.failure and not running) or (policy == "Never" and any(_failed(container) for container in init)):
        return "Failed"
    pending_init = any(c.last is None if isinstance(c.state, Waiting) else isinstance(c.state, Running) for c in init)
    if pending_init or any(isinstance(c.state, Waiting) and c.last is None for c in main):
        return "Pending"
    if running:
        return "Running"
    if policy == "Always" and not view.ended:
        return "Running"
    if not any(_failed(container) for container in main):
        return "Succeeded"
    return "Failed" if policy == "Never" or view.ended else "Running"


def ended_containers(containers: tuple[ContainerView, ...]) -> tuple[ContainerView, ...]:
    """The containers as they are shown once their Pod has ended: one that should have run, and did not, is lost."""
    initialized = all(_is_ready(container) for container in containers if container.init)
    return tuple(
        replace(c, state=c.last or _LOST, last=None)
        if isinstance(c.state, Waiting) and (c.last or (initialized and not c.init))
        else c
        for c in containers
    )


def _before(pod: Object) -> Object:
    status: Object = pod.get("status") or {}
    return status


def _failed(container: ContainerView) -> bool:
    ended = container.state if isinstance(container.state, Terminated) else container.last
    return not isinstance(container.state, Running) and ended is not None and ended.exit_code != 0


def _is_ready(container: ContainerView) -> bool:
    if container.init:
        return isinstance(container.state, Terminated) and container.state.exit_code == 0
    return isinstance(container.state, Running) and container.ready


def _container_status(container: ContainerView) -> Object:
    status: Object = {
        "name": container.spec["name"],
        "state": _state(container.state),
        "lastState": _state(container.last) if container.last else {},
        "ready": _is_ready(container),
        "restartCount": container.restart_count,
        "image": container.spec.get("image", ""),
        "imageID": container.image_id,
        "started": isinstance(container.state, Running) and container.started,
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
    fresh = [
        _condition("PodReadyToStartContainers", view.set_up and phase not in TERMINAL_PHASES),
        _initialized(view, phase),
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


def _initialized(view: PodView, phase: str) -> Object:
    if phase == "Succeeded":
        return _condition("Initialized", True) | {"reason": "PodCompleted"}
    names = [c.spec["name"] for c in view.containers if c.init and not _is_ready(c)]
    if not names or any(not c.init and not isinstance(c.state, Waiting) for c in view.containers):
        return _condition("Initialized", True)
    message = f"containers with incomplete status: [{' '.join(names)}]"
    return _condition("Initialized", False) | {"reason": "ContainersNotInitialized", "message": message}


def _ready(view: PodView, phase: str) -> Object:
    if phase in TERMINAL_PHASES:
        return {"status": "False", "reason": "PodCompleted" if phase == "Succeeded" else "PodFailed"}
    names = [c.spec["name"] for c in view.containers if not c.init and not _is_ready(c)]
    if not names:
        return {"status": "True"}
    message = f"containers with unready status: [{' '.join(names)}]"
    return {"status": "False", "reason": "ContainersNotReady", "message": message}
