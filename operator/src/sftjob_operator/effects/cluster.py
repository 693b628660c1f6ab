"""The seam between the operator and the API server: the few calls it makes, and how they fail.

Objects are plain JSON dicts, as the server sends them. `effects/kube.py` is the one implementation; tests have an
in-memory one.
"""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, Protocol

Object = dict[str, Any]
Wanted = Callable[[Mapping[str, Any]], bool]
"""Whether an object of a list is needed, by its metadata and phase."""


class ClusterError(Exception):
    """A request did not succeed; the text is a sentence for people, as the server gave it where it gave one."""


class NotFoundError(ClusterError):
    """404: no such object, or its kind is not served."""


class AlreadyExistsError(ClusterError):
    """409 on create: an object of that name is there."""


class ConflictError(ClusterError):
    """409 on update or delete: the object is not the one that was read, or has changed since."""


class InvalidError(ClusterError):
    """400, 405, 413, 415, 422: the API server's validation, or a policy or a webhook, calls the request wrong.

    `causes` are the fields and messages that the server's own validation gives; empty for anything else.
    """

    def __init__(self, message: str, causes: tuple[tuple[str, str], ...] = ()) -> None:
        super().__init__(message)
        self.causes = causes


class ForbiddenError(ClusterError):
    """403: not allowed, or over a quota. Somebody has to change something first."""


class UnavailableError(ClusterError):
    """The server could not answer now: 429, 5xx, refused credentials, a timeout or a broken connection.

    `retry_after_seconds` is what the server asked for, if it did.
    """

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class UnrecognizedError(ClusterError):
    """An object is there that the operator cannot tell to be its own; the text says what to do."""


class Cluster(Protocol):
    """The calls that the operator makes. Every method raises ClusterError and nothing else."""

    async def create(self, body: Object) -> Object:
        """Create the object in `metadata.namespace` and return it as stored.

        Raises:
            AlreadyExistsError: the name is taken.
        """

    async def get(self, kind: str, namespace: str, name: str) -> Object:
        """Read one object.

        Raises:
            NotFoundError: there is none.
        """

    async def replace(self, body: Object) -> Object:
        """Write a whole object that was read and return it as stored.

        Raises:
            ConflictError: it has changed since it was read.
            NotFoundError: it is gone.
        """

    async def delete(self, kind: str, namespace: str, name: str, uid: str) -> None:
        """Ask for the end of the object that has this uid; its own grace period and finalizers hold.

        Raises:
            NotFoundError: there is none of that name.
            ConflictError: the one of that name has another uid.
        """

    def list(
        self, kind: str, namespace: str | None, label: str | None = None, wanted: Wanted | None = None
    ) -> AsyncIterator[Object]:
        """All objects of `kind` in `namespace`, or in all for None; `label` keeps those that have it.

        Those that are not `wanted` may have nothing but namespace, name, uid, resourceVersion, labels and phase.
        """

    async def events_about(self, namespace: str, uid: str) -> tuple[Object, ...]:
        """Events about the object of this uid, a page of them at most."""

    async def patch_status(self, namespace: str, name: str, patch: Mapping[str, Any]) -> Object:
        """Merge `patch` into an SFTJob's status subresource and return the SFTJob.

        Raises:
            ConflictError: `patch` carries a metadata.resourceVersion that is not the current one.
            NotFoundError: the SFTJob is gone.
        """

    async def review_token(self, token: str, audience: str) -> Object:
        """`status` of a TokenReview: who the bearer of `token` is, if it is good for `audience`."""
