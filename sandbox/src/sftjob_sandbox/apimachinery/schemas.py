"""What the API server knows of a kind: its fields, defaults and rules. One interface for built-in and custom kinds."""

from typing import Protocol

from sftjob_sandbox.apimachinery.errors import Cause
from sftjob_sandbox.apimachinery.fields import FieldTree
from sftjob_sandbox.apimachinery.objects import Object


class ObjectSchema(Protocol):
    """The rules of one kind in one version. No method changes its arguments."""

    group: str
    version: str
    kind: str
    has_status: bool
    """Whether /status is a subresource: writes to the object then ignore status, writes to /status all else."""

    def prune(self, obj: Object) -> tuple[Object, list[str]]:
        """Decode `obj`: a copy without unknown fields, and their paths (`spec.foo`, `spec.containers[0].bar`).

        Built-in kinds are brought into canonical form. Raises ApiError 400 for a value of the wrong type.
        """

    def default(self, obj: Object) -> Object:
        """A copy of a pruned object with defaults."""

    def validate(self, obj: Object, old: Object | None) -> list[Cause]:
        """The violations of a create (`old` is None) or an update, metadata and transition rules included."""

    def validate_status(self, obj: Object, old: Object) -> list[Cause]:
        """The violations of a write to /status."""

    def reset_fields(self, subresource: str) -> tuple[tuple[str, ...], ...]:
        """Fields that a write through the object (empty) or a subresource cannot change, and so cannot own."""

    @property
    def zero(self) -> Object:
        """An empty object, as Go encodes it: a new object's fields are recorded as changes of this."""

    @property
    def fields(self) -> FieldTree:
        """How the kind's fields merge, from the root of the object."""

    @property
    def component(self) -> str:
        """Name of the kind's own entry in `openapi`, as in `#/components/schemas/NAME`."""

    def openapi(self) -> dict[str, Object]:
        """OpenAPI v3 component schemas by name: the kind's own (with its group-version-kind) and all it refers to."""
