"""An in-memory Cluster and a clock that stands still, with the controller between them: `World`.

The cluster keeps what the API server promises (names taken, resourceVersions that guard, uids) and records every
request. Watch events are delivered when the test says so.
"""

import copy
import itertools
from collections.abc import AsyncIterator, Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sftjob_contract.codec import to_json
from sftjob_contract.exit_codes import ExitCode
from sftjob_contract.names import CONTAINER, KIND, Stage
from sftjob_contract.reports.outcome import OUTCOME_VERSION, Outcome
from sftjob_operator.controller import Controller
from sftjob_operator.effects.cluster import (
    AlreadyExistsError,
    ClusterError,
    ConflictError,
    NotFoundError,
    Object,
    Wanted,
)
from sftjob_operator.metrics.operator import OperatorMetrics
from sftjob_operator.reconcile import Settings, rfc3339
from sftjob_operator.render import RenderSettings
from sftjob_operator.runtime.workqueue import Key
from support.jobs.builders import JobBuilder

START = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)
RENDER = RenderSettings(trainer_image="sftjob-trainer:0.1.0", progress_url="https://operator:8443", progress_ca="CA")
SETTINGS = Settings(render=RENDER, silence_seconds=90)
INTERVAL_SECONDS = 10.0
NODE = "node-1"


@dataclass(eq=False)
class FakeTimer:
    due: float
    callback: Callable[[], None]
    cancelled: bool = False

    def cancel(self) -> None:
        self.cancelled = True


@dataclass
class FakeClock:
    """Time passes when `advance` says so; timers that come due are called in order."""

    elapsed: float = 0.0
    timers: list[FakeTimer] = field(default_factory=list)

    def now(self) -> datetime:
        return START + timedelta(seconds=self.elapsed)

    def monotonic(self) -> float:
        return self.elapsed

    def call_later(self, seconds: float, callback: Callable[[], None]) -> FakeTimer:
        timer = FakeTimer(self.elapsed + seconds, callback)
        self.timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        end = self.elapsed + seconds
        while due := [timer for timer in self.timers if not timer.cancelled and timer.due <= end]:
            timer = min(due, key=lambda timer: timer.due)
            self.timers.remove(timer)
            self.elapsed = max(self.elapsed, timer.due)
            timer.callback()
        self.elapsed = end


@dataclass(frozen=True)
class Request:
    verb: str
    kind: str
    name: str
    body: Any = None


@dataclass
class FakeCluster:
    """Objects by kind, namespace and name; `failures` are raised by the next requests that match."""

    objects: dict[tuple[str, str, str], Object] = field(default_factory=dict)
    requests: list[Request] = field(default_factory=list)
    listed_whole: list[str] = field(default_factory=list)
    """Names of objects that lists had more of than their outline."""
    undelivered: list[tuple[str, Object]] = field(default_factory=list)
    failures: list[tuple[str, str, ClusterError]] = field(default_factory=list)
    reviews: dict[str, Object] = field(default_factory=dict)
    now: Callable[[], str] = lambda: moment(0)
    _numbers: itertools.count = field(default_factory=lambda: itertools.count(1000))

    def fail(self, verb: str, kind: str, error: ClusterError) -> None:
        """Let the next request of this verb and kind fail."""
        self.failures.append((verb, kind, error))

    async def create(self, body: Object) -> Object:
        metadata = body["metadata"]
        self._record("create", body["kind"], metadata["name"], body)
        identity = (body["kind"], metadata["namespace"], metadata["name"])
        if identity in self.objects:
            raise AlreadyExistsError(f"{body['kind']} {metadata['name']} already exists")
        stored = copy.deepcopy(body)
        stored["metadata"] |= {"uid": f"uid-{next(self._numbers)}", "creationTimestamp": self.now()}
        return self.store(stored, "ADDED")

    async def get(self, kind: str, namespace: str, name: str) -> Object:
        self._record("get", kind, name)
        return copy.deepcopy(self._stored(kind, namespace, name))

    async def replace(self, body: Object) -> Object:
        metadata = body["metadata"]
        self._record("replace", body["kind"], metadata["name"], body)
        stored = self._stored(body["kind"], metadata["namespace"], metadata["name"])
        if metadata["resourceVersion"] != stored["metadata"]["resourceVersion"]:
            raise ConflictError("the object has been modified")
        return self.store(copy.deepcopy(body), "MODIFIED")

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        self._record("delete", kind, name, uid)
        stored = self._stored(kind, namespace, name)
        if stored["metadata"]["uid"] != uid:
            raise ConflictError(f"the UID in the precondition does not match that of {kind} {name}")
        status = stored.get("status") or {}
        if kind == "Pod" and status.get("phase") in ("Running", "Unknown"):  # its node ends it in its own time
            metadata = {"deletionTimestamp": moment(0)} | stored["metadata"]
            if metadata != stored["metadata"]:
                self.store({**stored, "metadata": metadata}, "MODIFIED")
        else:
            self.remove(kind, namespace, name)

    async def list(
        self, kind: str, namespace: str | None, label: str | None = None, wanted: Wanted | None = None
    ) -> AsyncIterator[Object]:
        self._record("list", kind, namespace or "")
        for (of_kind, of_namespace, _), stored in tuple(self.objects.items()):
            listed = of_kind == kind and namespace in (None, of_namespace)
            if listed and (label is None or label in (stored["metadata"].get("labels") or {})):
                whole = wanted is None or wanted(outline(stored))
                self.listed_whole += [stored["metadata"]["name"]] if whole else []
                yield copy.deepcopy(stored if whole else outline(stored))

    async def events_about(self, namespace: str, uid: str) -> tuple[Object, ...]:
        self._record("list", "Event", uid)
        events = [body for (kind, place, _), body in self.objects.items() if (kind, place) == ("Event", namespace)]
        return tuple(copy.deepcopy(event) for event in events if event["involvedObject"].get("uid") == uid)

    async def patch_status(self, namespace: str, name: str, patch: Mapping[str, Any]) -> Object:
        self._record("patch", KIND, name, patch)
        stored = self._stored(KIND, namespace, name)
        guard = (patch.get("metadata") or {}).get("resourceVersion")
        if guard not in (None, stored["metadata"]["resourceVersion"]):
            raise ConflictError("the object has been modified")
        changed = {**stored, "status": merged(stored.get("status") or {}, patch["status"])}
        return self.store(changed, "MODIFIED") if changed != stored else copy.deepcopy(stored)

    async def review_token(self, token: str, audience: str) -> Object:
        self._record("review", "TokenReview", audience)
        return self.reviews.get(token, {"authenticated": False})

    def store(self, body: Object, event: str) -> Object:
        """Store a version as the API server would, and tell the watches."""
        metadata = body["metadata"] | {"resourceVersion": str(next(self._numbers))}
        stored = body | {"metadata": metadata}
        self.objects[body["kind"], metadata["namespace"], metadata["name"]] = stored
        self.undelivered.append((event, copy.deepcopy(stored)))
        return copy.deepcopy(stored)

    def remove(self, kind: str, namespace: str, name: str) -> None:
        """Let an object vanish."""
        stored = self.objects.pop((kind, namespace, name))
        metadata = stored["metadata"] | {"resourceVersion": str(next(self._numbers))}
        self.undelivered.append(("DELETED", stored | {"metadata": metadata}))

    def _stored(self, kind: str, namespace: str, name: str) -> Object:
        try:
            return self.objects[kind, namespace, name]
        except KeyError:
            raise NotFoundError(f"{kind} {name} not found") from None

    def _record(self, verb: str, kind: str, name: str, body: Any = None) -> None:
        self.requests.append(Request(verb, kind, name, copy.deepcopy(body)))
        for failure in self.failures:
            if failure[:2] == (verb, kind):
                self.failures.remove(failure)
                raise failure[2]


def outline(body: Object) -> Object:
    """What a list has of an object that is not wanted."""
    kept = ("name", "namespace", "uid", "resourceVersion", "labels")
    metadata = {name: body["metadata"][name] for name in kept if name in body["metadata"]}
    status = {name: value for name, value in (body.get("status") or {}).items() if name == "phase"}
    return {"apiVersion": body["apiVersion"], "kind": body["kind"], "metadata": metadata, "status": status}


def merged(old: Any, patch: Any) -> Any:
    """`old` with a JSON merge patch applied (RFC 7396)."""
    if not isinstance(patch, Mapping):
        return patch
    result = dict(old) if isinstance(old, Mapping) else {}
    for key, value in patch.items():
        if value is None:
            result.pop(key, None)
        else:
            result[key] = merged(result.get(key), value)
    return result


class World:
    """A cluster, a clock and a controller; a test moves Pods and time."""

    def __init__(self, cluster: FakeCluster | None = None) -> None:
        self.clock = FakeClock()
        self.metrics = OperatorMetrics()
        self.cluster = cluster or FakeCluster()
        self.cluster.now = lambda: rfc3339(self.clock.now())
        self.controller = self._new_controller()

    def _new_controller(self) -> Controller:
        return Controller(self.cluster, SETTINGS, INTERVAL_SECONDS, self.clock, self.metrics)

    async def restart_operator(self) -> None:
        """kill -9 and a new start: memory is gone, and so are events on their way."""
        self.cluster.undelivered.clear()
        self.clock.timers.clear()
        self.controller = self._new_controller()
        await self.controller.first_listing()
        await self.settle()

    async def apply(self, job: JobBuilder) -> Key:
        """Create a job and let the operator react."""
        body = job.body()
        self.cluster.store(body, "ADDED")
        await self.settle()
        return body["metadata"]["namespace"], body["metadata"]["name"]

    async def settle(self) -> None:
        """Deliver watch events and work until nothing is left to do at this moment."""
        while self.cluster.undelivered or len(self.controller.queue):
            self.deliver()
            while len(self.controller.queue):
                await self.controller.work()

    def deliver(self) -> None:
        """Deliver the watch events that have not been."""
        while self.cluster.undelivered:
            event, body = self.cluster.undelivered.pop(0)
            deleted = event == "DELETED"
            if body["kind"] == KIND:
                (self.controller.job_gone if deleted else self.controller.job_changed)(body)
            elif body["kind"] == "Pod":
                (self.controller.pod_gone if deleted else self.controller.pod_changed)(body)

    async def pass_time(self, seconds: float) -> None:
        """Let time pass, then settle."""
        self.clock.advance(seconds)
        await self.settle()

    async def pod(self, name: str, status: Mapping[str, Any]) -> None:
        """Give a Pod this status, then settle."""
        self.set_pod(name, status)
        await self.settle()

    def set_pod(self, name: str, status: Mapping[str, Any]) -> None:
        """Give a Pod this status without letting the operator react."""
        (stored,) = [o for (kind, _, n), o in self.cluster.objects.items() if (kind, n) == ("Pod", name)]
        spec = stored.get("spec") or {}
        self.cluster.store({**stored, "spec": {**spec, "nodeName": NODE}, "status": dict(status)}, "MODIFIED")

    async def pod_leaves(self, name: str, status: Mapping[str, Any]) -> None:
        """A Pod ends and its object goes at once, so that only the last event tells how it ended."""
        self.set_pod(name, status)
        self.cluster.undelivered.pop()
        self.cluster.remove("Pod", *self._place(name))
        await self.settle()

    async def change(self, key: Key, **spec: Any) -> None:
        """Patch top-level fields of a job's spec (camelCase), as its user does; then settle."""
        stored = self.cluster.objects[KIND, *key]
        metadata = stored["metadata"] | {"generation": stored["metadata"]["generation"] + 1}
        self.cluster.store({**stored, "metadata": metadata, "spec": {**stored["spec"], **spec}}, "MODIFIED")
        await self.settle()

    def kinds(self) -> list[str]:
        """Which kinds of objects there are, but for SFTJobs and Events."""
        return sorted(kind for kind, _, _ in self.cluster.objects if kind not in (KIND, "Event"))

    def _place(self, pod: str) -> tuple[str, str]:
        (place,) = [(space, name) for kind, space, name in self.cluster.objects if (kind, name) == ("Pod", pod)]
        return place

    def status(self, key: Key) -> dict[str, Any]:
        """The stored status of a job."""
        return self.cluster.objects[KIND, *key].get("status") or {}

    def pods(self) -> list[str]:
        """Names of all Pods."""
        return sorted(name for kind, _, name in self.cluster.objects if kind == "Pod")

    def live_train_pods(self) -> list[str]:
        """Names of train Pods that have not ended."""
        ended = ("Succeeded", "Failed")
        bodies = [o for (kind, _, _), o in self.cluster.objects.items() if kind == "Pod"]
        return [
            body["metadata"]["name"]
            for body in bodies
            if "-train-" in body["metadata"]["name"] and (body.get("status") or {}).get("phase") not in ended
        ]

    def requests(self, verb: str, kind: str | None = None) -> list[Request]:
        """What was asked of the API server."""
        return [r for r in self.cluster.requests if r.verb == verb and kind in (None, r.kind)]


def running(seconds: float = 0) -> Object:
    """Status of a Pod whose container has run since START + seconds."""
    state = {"running": {"startedAt": moment(seconds)}}
    return {"phase": "Running", "containerStatuses": [{"name": CONTAINER, "imageID": "sha256:abc", "state": state}]}


def ended(exit_code: int, outcome: Outcome | None = None, seconds: float = 0, reason: str | None = None) -> Object:
    """Status of a Pod whose container ended at START + seconds."""
    terminated = {
        "exitCode": exit_code,
        "startedAt": moment(0),
        "finishedAt": moment(seconds),
        "reason": reason or ("Completed" if exit_code == 0 else "Error"),
        "message": to_json(outcome) if outcome is not None else "",
    }
    return {
        "phase": "Succeeded" if exit_code == 0 else "Failed",
        "containerStatuses": [{"name": CONTAINER, "imageID": "sha256:abc", "state": {"terminated": terminated}}],
    }


def waiting(reason: str, message: str = "") -> Object:
    """Status of a Pod whose container cannot start."""
    state = {"waiting": {"reason": reason, "message": message}}
    return {"phase": "Pending", "containerStatuses": [{"name": CONTAINER, "state": state}]}


def unschedulable(message: str) -> Object:
    """Status of a Pod that no node takes."""
    condition = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": message}
    return {"phase": "Pending", "conditions": [condition]}


def gated() -> Object:
    """Status of a Pod that the scheduler may not look at yet."""
    message = "Scheduling is blocked due to non-empty scheduling gates"
    condition = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": message}
    return {"phase": "Pending", "conditions": [condition]}


def an_outcome(stage: Stage, exit_code: int = 0, **parts: Any) -> Outcome:
    """A termination message."""
    return Outcome(version=OUTCOME_VERSION, stage=stage, exit_code=ExitCode(exit_code), **parts)


def moment(seconds: float) -> str:
    """RFC 3339 of START + seconds."""
    return (START + timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
