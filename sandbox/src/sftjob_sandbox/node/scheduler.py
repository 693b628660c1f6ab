"""Places Pods on the one node, in order of priority and age, and reports why one cannot be placed."""

from collections.abc import Callable
from typing import Final

from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.apimachinery.objects import Clock, Object, name_of, namespace_of, timestamp, uid_of
from sftjob_sandbox.node.api import NodeApi
from sftjob_sandbox.node.capacity import Resources, pod_requests, refusal, shortages, total

NAME: Final = "default-scheduler"

ClaimLookup = Callable[[str, str], Object | None]


class Scheduler:
    """Holds the Pods that wait for a place and what the placed ones take. `node` is the Node object as it is now."""

    def __init__(self, api: NodeApi, node: Object, claim: ClaimLookup, clock: Clock) -> None:
        self.node = node
        self._api = api
        self._claim = claim
        self._clock = clock
        self._waiting: dict[str, Object] = {}
        self._refusals: dict[str, str] = {}
        self._reserved: dict[str, Resources] = {}

    def see(self, pod: Object) -> None:
        """A Pod without a node."""
        if pod["spec"].get("schedulerName", NAME) == NAME:
            self._waiting[uid_of(pod)] = pod

    def forget(self, uid: str) -> None:
        """The Pod needs no place any more; what it took is free."""
        self._waiting.pop(uid, None)
        self._refusals.pop(uid, None)
        self._reserved.pop(uid, None)

    def admit(self, pod: Object) -> list[str]:
        """Count a Pod that has this node, however it got it; names what it asks too much of instead, if anything."""
        if uid_of(pod) not in self._reserved:
            if short := shortages(pod, self.node, self._used):
                return short
            self._reserve(pod)
        return []

    def place(self) -> None:
        """Place whatever fits now."""
        used = self._used
        for pod in sorted(self._waiting.values(), key=lambda pod: -int(pod["spec"].get("priority") or 0)):
            why = refusal(pod, self.node, used, self._claim)
            try:
                if why:
                    self._refuse(pod, why)
                else:
                    self._bind(pod)
                    used = total([used, pod_requests(pod)])
            except ApiError as error:
                if error.code not in (404, 409):
                    raise
                self.forget(uid_of(pod))  # it is gone, or somebody else has placed it

    @property
    def _used(self) -> Resources:
        return total(self._reserved.values())

    def _reserve(self, pod: Object) -> None:
        self._reserved[uid_of(pod)] = pod_requests(pod)

    def _bind(self, pod: Object) -> None:
        namespace, name, uid = namespace_of(pod), name_of(pod), uid_of(pod)
        bound = self._api.bind_pod(namespace, name, uid, name_of(self.node))
        self.forget(uid)
        self._reserve(pod)
        message = f"Successfully assigned {namespace}/{name} to {name_of(self.node)}"
        self._api.record_event(bound, type="Normal", reason="Scheduled", message=message, component=NAME)

    def _refuse(self, pod: Object, why: str) -> None:
        uid = uid_of(pod)
        if self._refusals.get(uid) == why:
            return
        self._refusals[uid] = why
        before = pod.get("status") or {}
        others = [condition for condition in before.get("conditions") or () if condition["type"] != "PodScheduled"]
        condition = {
            "type": "PodScheduled",
            "status": "False",
            "lastProbeTime": None,
            "lastTransitionTime": timestamp(self._clock()),
            "reason": "Unschedulable",
            "message": why,
        }
        status = {**before, "phase": "Pending", "conditions": [*others, condition]}
        self._api.update_status("pods", namespace_of(pod), name_of(pod), uid, status)
        self._api.record_event(pod, type="Warning", reason="FailedScheduling", message=why, component=NAME)
