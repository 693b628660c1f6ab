"""An API for the node that keeps its objects in memory, and Pods to put into it."""

import asyncio
import copy
import itertools
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from sftjob_sandbox.apimachinery.errors import ApiError, not_found

Object = dict[str, Any]
Key = tuple[str, str, str]
DEADLINE_SECONDS = 20.0


@dataclass(frozen=True)
class RecordedEvent:
    """One event, as far as the node decides it."""

    name: str
    type: str
    reason: str
    message: str
    component: str


@dataclass
class FakeNodeApi:
    """Satisfies NodeApi; `create`, `change` and `delete` are what users do."""

    objects: dict[Key, Object] = field(default_factory=dict)
    events: list[RecordedEvent] = field(default_factory=list)
    tokens: list[Mapping[str, Any]] = field(default_factory=list)
    statuses: list[Object] = field(default_factory=list)
    """Every status ever written for a Pod, oldest first."""
    _watchers: list[tuple[str, asyncio.Queue[tuple[str, Object]]]] = field(default_factory=list)
    _changed: asyncio.Event = field(default_factory=asyncio.Event)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def create(self, resource: str, obj: Object) -> Object:
        metadata = {"namespace": "default", **obj["metadata"], "uid": f"uid-{next(self._numbers)}"}
        obj = copy.deepcopy({**obj, "metadata": metadata})
        if resource == "pods":
            obj["status"] = {"phase": "Pending", "qosClass": "BestEffort"}
        self._store(resource, obj, "ADDED")
        return copy.deepcopy(obj)

    def change(self, resource: str, name: str, **fields: Any) -> None:
        obj = self.get(resource, "default", name)
        self._store(resource, {**obj, **fields}, "MODIFIED")

    def delete(self, resource: str, name: str) -> None:
        obj = self.objects.pop((resource, "default", name))
        self._tell(resource, "DELETED", obj)

    def delete_pod(self, name: str, *, grace_seconds: int | None = None) -> None:
        """As the API server does: at once without node or grace, else by asking the node."""
        pod = self.get("pods", "default", name)
        given = pod["spec"].get("terminationGracePeriodSeconds", 30) if grace_seconds is None else grace_seconds
        if not given or "nodeName" not in pod["spec"]:
            self.delete("pods", name)
            return
        pod["metadata"] |= {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": given}
        self._store("pods", pod, "MODIFIED")

    def pod(self, name: str) -> Object:
        return self.get("pods", "default", name)

    def has(self, resource: str, name: str) -> bool:
        return (resource, "default", name) in self.objects

    def reasons(self, name: str) -> list[str]:
        return [event.reason for event in self.events if event.name == name]

    def messages(self, name: str) -> list[str]:
        return [event.message for event in self.events if event.name == name]

    async def until(self, condition: Callable[[], Any]) -> Any:
        """Wait until `condition` holds, looking again after each change; its value."""
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not (value := _or_nothing(condition)):
                self._changed.clear()
                await self._changed.wait()
        return value

    async def phase(self, name: str, phase: str) -> Object:
        """Wait until the Pod has this phase; its status."""
        await self.until(lambda: self.pod(name).get("status", {}).get("phase") == phase)
        status: Object = self.pod(name)["status"]
        return status

    async def running(self, name: str) -> Object:
        """Wait until every container of the Pod runs; its status."""
        await self.until(
            lambda: all("running" in status["state"] for status in self.pod(name)["status"]["containerStatuses"])
        )
        status: Object = self.pod(name)["status"]
        return status

    async def waiting(self, name: str, reason: str) -> Object:
        """Wait until the Pod's first container waits for this reason; its status."""
        path = lambda: self.pod(name)["status"]["containerStatuses"][0]["state"]["waiting"]["reason"] == reason  # noqa: E731
        await self.until(path)
        status: Object = self.pod(name)["status"]
        return status

    # What the node calls.

    def get(self, resource: str, namespace: str | None, name: str) -> Object:
        if (resource, namespace or "default", name) not in self.objects:
            raise not_found(resource, "", name)
        return copy.deepcopy(self.objects[resource, namespace or "default", name])

    async def watch_from_start(self, resource: str) -> AsyncIterator[tuple[str, Object]]:
        queue: asyncio.Queue[tuple[str, Object]] = asyncio.Queue()
        for (kind, _, _), obj in list(self.objects.items()):
            if kind == resource:
                queue.put_nowait(("ADDED", copy.deepcopy(obj)))
        self._watchers.append((resource, queue))
        while True:
            yield await queue.get()

    def update_status(self, resource: str, namespace: str | None, name: str, uid: str, status: Object) -> Object:
        obj = self._checked(resource, namespace, name, uid)
        if resource == "pods":
            self.statuses.append(copy.deepcopy(status))
        return self._store(resource, {**obj, "status": copy.deepcopy(status)}, "MODIFIED")

    def bind_pod(self, namespace: str, name: str, uid: str, node: str) -> Object:
        pod = self._checked("pods", namespace, name, uid)
        return self._store("pods", {**pod, "spec": {**pod["spec"], "nodeName": node}}, "MODIFIED")

    def finalize_pod(self, namespace: str, name: str, uid: str) -> None:
        self._checked("pods", namespace, name, uid)
        self._tell("pods", "DELETED", self.objects.pop(("pods", namespace, name)))

    def record_event(self, regarding: Object, *, type: str, reason: str, message: str, component: str) -> None:  # noqa: A002
        self.events.append(RecordedEvent(regarding["metadata"]["name"], type, reason, message, component))
        self._changed.set()

    def issue_token(
        self,
        namespace: str,
        service_account: str,
        *,
        audiences: list[str],
        expiration_seconds: int,
        pod: Object | None,
    ) -> str:
        if service_account == "missing":
            raise not_found("serviceaccounts", "", service_account)
        request = {"account": f"{namespace}/{service_account}", "audiences": audiences, "seconds": expiration_seconds}
        self.tokens.append(request | {"pod": pod["metadata"]["uid"] if pod else None})
        return f"token-{len(self.tokens)}"

    def register_node(self, node: Object) -> None:
        self._store("nodes", {**node, "metadata": {**node["metadata"], "namespace": "default"}}, "ADDED")

    def _checked(self, resource: str, namespace: str | None, name: str, uid: str) -> Object:
        obj = self.get(resource, namespace, name)
        if obj["metadata"]["uid"] != uid:
            raise ApiError(409, "Conflict", f"{name} has another uid")
        return obj

    def _store(self, resource: str, obj: Object, change: str) -> Object:
        self.objects[resource, obj["metadata"]["namespace"], obj["metadata"]["name"]] = obj
        self._tell(resource, change, obj)
        return copy.deepcopy(obj)

    def _tell(self, resource: str, change: str, obj: Object) -> None:
        for wanted, queue in self._watchers:
            if wanted == resource:
                queue.put_nowait((change, copy.deepcopy(obj)))
        self._changed.set()


def _or_nothing(condition: Callable[[], Any]) -> Any:
    try:
        return condition()
    except (ApiError, KeyError, IndexError):
        return None


def container(script: str = "true", **fields: Any) -> Object:
    """A container that runs a shell script."""
    return {"name": "main", "image": "shell", "command": ["sh", "-c", script], **fields}


def pod(*containers: Object, name: str = "p", **spec: Any) -> Object:
    """A Pod that runs once."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name},
        "spec": {"restartPolicy": "Never", "containers": list(containers) or [container()], **spec},
    }


def config_map(name: str, **data: str) -> Object:
    """A ConfigMap."""
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data}


def claim(name: str) -> Object:
    """A PersistentVolumeClaim."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    return {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": name}, "spec": spec}
