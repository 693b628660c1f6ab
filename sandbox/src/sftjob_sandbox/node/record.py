"""The state of one Pod on the node, written as its status and events."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.apimachinery.objects import Object, name_of, namespace_of, timestamp, uid_of
from sftjob_sandbox.node.api import NodeApi
from sftjob_sandbox.node.containers.volumes import token_seconds
from sftjob_sandbox.node.settings import NodeSettings
from sftjob_sandbox.node.status import (
    KUBELET_CONDITIONS,
    ContainerView,
    PodView,
    Waiting,
    ended_containers,
    pod_status,
    rejected_status,
)


class PodRecord:
    """One Pod as it stands. A change is written at once, and only if the status differs by it."""

    def __init__(self, api: NodeApi, settings: NodeSettings, pod: Object) -> None:
        self.pod = pod
        self.lost = False
        """The object no longer exists."""
        self._api = api
        self._settings = settings
        self._start_time = self.now()
        self._set_up = False
        self._failure: str | None = None
        self._status: Object = {}
        waiting = Waiting("ContainerCreating")
        self._views = {
            container["name"]: ContainerView(spec=container, state=waiting) for container in pod["spec"]["containers"]
        }

    @property
    def reference(self) -> str:
        """The Pod as the kubelet's messages name it."""
        return f"{name_of(self.pod)}_{namespace_of(self.pod)}({uid_of(self.pod)})"

    def now(self) -> str:
        """The time as statuses have it."""
        return timestamp(self._settings.clock())

    def view(self, container: str) -> ContainerView:
        """A container as it stands."""
        return self._views[container]

    def update(self, container: str, **changes: Any) -> None:
        """Change fields of a container's view."""
        self._views[container] = replace(self._views[container], **changes)
        self.publish()

    def set_up(self) -> None:
        """The volumes are there; containers may start."""
        self._set_up = True
        self.publish()

    def fail(self, message: str) -> None:
        """The node has failed to run the Pod; to be shown when its last container has ended."""
        self._failure = message

    def end(self) -> None:
        """No container runs, and none will be started."""
        self._views = {view.spec["name"]: view for view in ended_containers(tuple(self._views.values()))}
        self.publish()

    def reject(self, message: str) -> None:
        """The node does not try to start the Pod."""
        reason = "UnexpectedAdmissionError"
        self.event("Warning", reason, message)
        self._write(rejected_status(self.pod, reason, message, self._start_time))

    def publish(self) -> None:
        """Write the status if it is not what was written last."""
        view = PodView(
            pod={**self.pod, "status": {**(self.pod.get("status") or {}), "conditions": self._known_conditions()}},
            containers=tuple(self._views.values()),
            address=self._settings.address,
            start_time=self._start_time,
            set_up=self._set_up,
            failure=self._failure,
        )
        self._write(pod_status(view, self.now()))

    def event(self, kind: str, reason: str, message: str) -> None:
        """Record an event of the kubelet about the Pod."""
        if not self.lost:
            self._api.record_event(self.pod, type=kind, reason=reason, message=message, component="kubelet")

    def lookup(self, resource: str, name: str) -> Object | None:
        """An object in the Pod's namespace."""
        try:
            return self._api.get(resource, namespace_of(self.pod), name)
        except ApiError as error:
            if error.code != 404:
                raise
            return None

    def issue_token(self, source: Mapping[str, Any]) -> str:
        """A token for a `serviceAccountToken` projection. Raises ApiError: there is no such ServiceAccount."""
        return self._api.issue_token(
            namespace_of(self.pod),
            self.pod["spec"].get("serviceAccountName") or "default",
            audiences=[source["audience"]] if source.get("audience") else [],
            expiration_seconds=token_seconds(source),
            pod=self.pod,
        )

    def _known_conditions(self) -> list[Object]:
        observed = (self.pod.get("status") or {}).get("conditions") or ()
        foreign = [condition for condition in observed if condition["type"] not in KUBELET_CONDITIONS]
        own = self._status.get("conditions", observed)
        return foreign + [condition for condition in own if condition["type"] in KUBELET_CONDITIONS]

    def _write(self, status: Object) -> None:
        if self.lost or status == self._status:
            return
        try:
            self._api.update_status("pods", namespace_of(self.pod), name_of(self.pod), uid_of(self.pod), status)
        except ApiError as error:
            if error.code not in (404, 409):
                raise
            self.lost = True
        self._status = status
