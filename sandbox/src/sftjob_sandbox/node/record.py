"""What the node knows of one Pod, and the writing of it: status and events."""

from collections.abc import Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Any

from sftjob_sandbox.errors import ApiError
from sftjob_sandbox.node.api import NodeApi
from sftjob_sandbox.node.settings import NodeSettings
from sftjob_sandbox.node.status import (
    KUBELET_CONDITIONS,
    ContainerView,
    Failure,
    PodView,
    Waiting,
    ended_containers,
    pod_status,
    rejected_status,
)
from sftjob_sandbox.node.volumes import token_seconds
from sftjob_sandbox.objects import Object, name_of, namespace_of, parse_timestamp, timestamp, uid_of


class PodRecord:
    """One Pod as it stands. A change is written at once, and only if the status differs by it."""

    def __init__(self, api: NodeApi, settings: NodeSettings, pod: Object) -> None:
        self.pod = pod
        self.lost = False
        """The object is gone; there is nobody left to write to."""
        self._api = api
        self._settings = settings
        self._start_time = self.now()
        self._set_up = False
        self._failure: Failure | None = None
        self._ended = False
        self._status: Object = {}
        spec = pod["spec"]
        waiting = Waiting("PodInitializing" if spec.get("initContainers") else "ContainerCreating")
        kinds = (("initContainers", True), ("containers", False))
        self._views = {
            container["name"]: ContainerView(spec=container, init=init, state=waiting)
            for kind, init in kinds
            for container in spec.get(kind) or ()
        }

    @property
    def reference(self) -> str:
        """The Pod as the kubelet's messages name it."""
        return f"{name_of(self.pod)}_{namespace_of(self.pod)}({uid_of(self.pod)})"

    @property
    def active_seconds(self) -> float:
        """How long ago the node began with the Pod."""
        return (self._settings.clock() - parse_timestamp(self._start_time)) / timedelta(seconds=1)

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

    def fail(self, failure: Failure) -> None:
        """The Pod as a whole has failed; to be shown when its last container has ended."""
        self._failure = failure

    def end(self) -> None:
        """No container runs, and none will be started."""
        self._ended = True
        self._views = {view.spec["name"]: view for view in ended_containers(tuple(self._views.values()))}
        self.publish()

    def reject(self, message: str) -> None:
        """The node does not try to start the Pod."""
        failure = Failure(reason="UnexpectedAdmissionError", message=message)
        self.event("Warning", failure.reason, message)
        self._write(rejected_status(self.pod, failure, self._start_time))

    def publish(self) -> None:
        """Write the status if it is not what was written last."""
        view = PodView(
            pod={**self.pod, "status": {**(self.pod.get("status") or {}), "conditions": self._known_conditions()}},
            containers=tuple(self._views.values()),
            address=self._settings.address,
            start_time=self._start_time,
            set_up=self._set_up,
            ended=self._ended,
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
        """A token for a `serviceAccountToken` projection.

        Raises:
            ApiError: there is no such ServiceAccount.
        """
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
