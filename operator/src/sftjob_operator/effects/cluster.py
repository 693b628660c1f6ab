"""Interface between operator and API server: the few calls that the operator makes, and their errors.

Objects are plain JSON dicts, as the server sends them. `effects/kube.py` is the only implementation; tests use one in
memory.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

Object = dict[str, Any]
Wanted = Callable[[Mapping[str, Any]], bool]
"""Whether an object of a list is needed, by its metadata and phase."""


class ClusterError(Exception):
    """A request failed; the text is a sentence for people, the server's own if it sent one."""


class NotFoundError(ClusterError):
    """404: the object does not exist, or its kind is not served."""


class AlreadyExistsError(ClusterError):
    """409 on create: an object of that name exists."""


class ConflictError(ClusterError):
    """409 on update or delete: the object is not the one that was read, or has changed since."""


class InvalidError(ClusterError):
    """400, 405, 413, 415, 422: the API server's validation, or a policy or a webhook, rejects the request as invalid.

    `causes` are the fields and messages from the server's own validation; empty for anything else.
    """

    def __init__(self, message: str, causes: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.causes = causes


class ForbiddenError(ClusterError):
    """403: not allowed, or over a quota. A person has to change something first."""


class UnavailableError(ClusterError):
    """The server currently cannot answer: 429, 5xx, rejected credentials, a timeout or a broken connection.

    `retry_after_seconds` is the server's Retry-After, if it sent one.
    """

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class UnrecognizedError(ClusterError):
    """An object exists, and the operator cannot determine whether it is its own; the text explains what to do."""


class Cluster(Protocol):
    """API calls of the operator. Every method raises only ClusterError."""

    async def create(self, body: Object) -> Object:
        """Create the object in `metadata.namespace` and return it as stored.

        Raises:
            AlreadyExistsError: the name is taken.
        """

    async def get(self, kind: str, namespace: str, name: str) -> Object:
        """Read one object.

        Raises:
            NotFoundError: it does not exist.
        """

    async def replace(self, body: Object) -> Object:
        """Write a whole object that was read and return it as stored.

        Raises:
            ConflictError: it has changed since it was read.
            NotFoundError: it no longer exists.
        """

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """Request deletion of the object with this UID; its own grace period and finalizers apply.

        Raises:
            NotFoundError: no object has that name.
            ConflictError: the one of that name has another UID.
        """

    def list(
        self, kind: str, namespace: str | None, label: str | None = None, wanted: Wanted | None = None
    ) -> AsyncIterator[Object]:
        """Return all objects of `kind` in `namespace`, or in all for None; `label` selects those that have it.

        Those that are not `wanted` may contain only namespace, name, uid, resourceVersion, labels and phase.
        """

    async def events_about(self, namespace: str, uid: str) -> tuple[Object, ...]:
        """Return Events about the object of this UID, at most one page."""

    async def patch_status(self, namespace: str, name: str, patch: Mapping[str, Any]) -> Object:
        """Merge `patch` into an SFTJob's status subresource and return the SFTJob.

        Raises:
            ConflictError: `patch` has a metadata.resourceVersion that is not the current one.
            NotFoundError: the SFTJob no longer exists.
        """

    async def review_token(self, token: str, audience: str) -> Object:
        """Return `status` of a TokenReview: the user of `token`, if it is valid for `audience`."""
