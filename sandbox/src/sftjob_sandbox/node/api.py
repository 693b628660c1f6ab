"""What the node needs of the API server; implemented by the sandbox's store and by a fake in the tests."""

from collections.abc import AsyncIterator
from typing import Protocol

from sftjob_sandbox.apimachinery.objects import Object


class NodeApi(Protocol):
    """The node's view of the cluster. `resource` is a plural of the core group; all calls belong to one event loop.

    A missing object raises ApiError 404, an object of that name with another uid 409.
    """

    def get(self, resource: str, namespace: str | None, name: str) -> Object:
        """One object."""

    def watch_from_start(self, resource: str) -> AsyncIterator[tuple[str, Object]]:
        """ADDED for every object that exists, then ADDED, MODIFIED and DELETED as they happen."""

    def update_status(self, resource: str, namespace: str | None, name: str, uid: str, status: Object) -> Object:
        """Replace the whole status and return the new object."""

    def bind_pod(self, namespace: str, name: str, uid: str, node: str) -> Object:
        """Set spec.nodeName and return the new Pod; 409 also for a Pod that has a node."""

    def finalize_pod(self, namespace: str, name: str, uid: str) -> None:
        """Remove the object of a Pod whose processes have ended."""

    def record_event(self, regarding: Object, *, type: str, reason: str, message: str, component: str) -> None:  # noqa: A002 -- the field's name
        """Record a core/v1 Event; the count of a repeated one increases."""

    def issue_token(
        self, namespace: str, service_account: str, *, audiences: list[str], expiration_seconds: int, pod: Object | None
    ) -> str:
        """A ServiceAccount token for these audiences (none: the API server's own), bound to the Pod if one is given."""

    def register_node(self, node: Object) -> None:
        """Create the Node object, or replace the one of that name."""
