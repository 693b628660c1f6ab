"""What the node asks of the API server's store; the store of the sandbox and a small fake in the tests provide it."""

from collections.abc import AsyncIterator
from typing import Protocol

from sftjob_sandbox.objects import Object


class NodeApi(Protocol):
    """The node's view of the cluster. `resource` is a plural of the core group; all calls belong to one event loop."""

    def get(self, resource: str, namespace: str | None, name: str) -> Object:
        """One object.

        Raises:
            ApiError: 404, there is none.
        """

    def watch_from_start(self, resource: str) -> AsyncIterator[tuple[str, Object]]:
        """ADDED for every object that exists, then ADDED, MODIFIED and DELETED as they happen."""

    def update_status(self, resource: str, namespace: str | None, name: str, uid: str, status: Object) -> Object:
        """Replace the whole status and return the new object.

        Raises:
            ApiError: 404, or 409 when the object of that name has another uid.
        """

    def bind_pod(self, namespace: str, name: str, uid: str, node: str) -> Object:
        """Set spec.nodeName and return the new Pod.

        Raises:
            ApiError: 404, or 409 when the Pod of that name has another uid or a node.
        """

    def finalize_pod(self, namespace: str, name: str, uid: str) -> None:
        """Say that the Pod's processes are gone, so that the object can go as well."""

    def record_event(self, regarding: Object, *, type: str, reason: str, message: str, component: str) -> None:  # noqa: A002 -- the field's name
        """Record a core/v1 Event; a repeated one only counts up."""

    def issue_token(
        self,
        namespace: str,
        service_account: str,
        *,
        audiences: list[str],
        expiration_seconds: int,
        pod: Object | None,
    ) -> str:
        """A ServiceAccount token for these audiences (none: the API server's own), bound to the Pod if one is given.

        Raises:
            ApiError: 404, there is no such ServiceAccount.
        """

    def register_node(self, node: Object) -> None:
        """Create the Node object, or replace the one of that name."""
