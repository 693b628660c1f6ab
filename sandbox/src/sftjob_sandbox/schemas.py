"""What the API server knows of a kind: its fields, defaults and rules. One interface for built-in and custom kinds."""

from typing import Protocol

from sftjob_sandbox.builtin.kinds import builtin_schema
from sftjob_sandbox.crd.custom import custom_schema
from sftjob_sandbox.crd.definition import check_definition
from sftjob_sandbox.errors import Cause
from sftjob_sandbox.fields import FieldTree
from sftjob_sandbox.objects import Object

__all__ = ["FieldTree", "Object", "ObjectSchema", "builtin_schema", "check_definition", "custom_schema"]


class ObjectSchema(Protocol):
    """The rules of one kind in one version. Nothing that is passed in is ever changed."""

    group: str
    version: str
    kind: str
    namespaced: bool
    has_status: bool
    """Whether /status is a subresource: writes to the object then ignore status, writes to /status all else."""

    def prune(self, obj: Object) -> tuple[Object, list[str]]:
        """Decode `obj`: a copy without unknown fields, and their paths (`spec.foo`, `spec.containers[0].bar`).

        The caller words them: `strict decoding error: unknown field "spec.foo"`. Built-in kinds are brought into
        canonical form as well (quantities, nulls and empty values dropped).

        Raises:
            ApiError: 400 when a value of a built-in kind has the wrong type, so that it cannot be decoded.
        """
        ...

    def default(self, obj: Object) -> Object:
        """A copy of a pruned object with defaults."""
        ...

    def admit(self, obj: Object, service_account: Object | None) -> Object:
        """A new object as admission lets it through; only Pods are changed (token volume, tolerations, priority).

        `service_account` is the stored one that the Pod will run as. managedFields do not tell of these changes.

        Raises:
            ApiError: 403 for a priority or runtime class that does not exist.
        """
        ...

    def admit_update(self, obj: Object) -> Object:
        """The same for a changed object."""
        ...

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        """What is wrong with a create (`old` is None) or an update; metadata and transition rules included.

        On update `obj` carries resourceVersion, uid and creationTimestamp of `old` where the client gave none.
        """
        ...

    def validate_status(self, obj: Object, old: Object) -> list[Cause]:
        """What is wrong with a write to /status."""
        ...

    def reset_fields(self, subresource: str) -> tuple[tuple[str, ...], ...]:
        """Fields that a write through the object (empty) or a subresource cannot change, and so cannot own."""
        ...

    @property
    def zero(self) -> Object:
        """An object with nothing set, as Go encodes it: a new object's fields are recorded as changes of this."""
        ...

    @property
    def fields(self) -> FieldTree:
        """How the kind's fields merge, from the root of the object."""
        ...

    @property
    def component(self) -> str:
        """Name of the kind's own entry in `openapi`, as in `#/components/schemas/NAME`."""
        ...

    def openapi(self) -> dict[str, Object]:
        """OpenAPI v3 component schemas by name: the kind's own (with its group-version-kind) and all it refers to."""
        ...
