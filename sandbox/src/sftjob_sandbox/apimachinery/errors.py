"""The API's errors: one exception with the fields of a metav1.Status."""

from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Cause:
    """One reason why an object is refused, as in `Status.details.causes`.

    `reason` is a metav1.CauseType (FieldValueRequired, FieldValueInvalid, ...), `field` a path such as
    `spec.training.maxLength` or `spec.containers[0].name`, `message` the text without the path.
    """

    reason: str
    field: str
    message: str


@dataclass
class ApiError(Exception):
    """A refused request. `code` is the HTTP status, `reason` a metav1.StatusReason; empty for an unknown one."""

    code: int
    reason: str
    message: str
    details: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.code} {self.reason}: {self.message}"

    def status(self) -> dict[str, Any]:
        """The body of the answer."""
        body: dict[str, Any] = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "code": self.code,
        }
        if self.reason:
            body["reason"] = self.reason
        if self.details:
            body["details"] = self.details
        return body


def not_found(resource: str, group: str, name: str) -> ApiError:
    """404 for one object; `resource` is the plural."""
    qualified = f"{resource}.{group}" if group else resource
    details = {"name": name, "kind": resource} | ({"group": group} if group else {})
    return ApiError(404, "NotFound", f'{qualified} "{name}" not found', details)


def invalid(kind: str, group: str, name: str, causes: list[Cause]) -> ApiError:
    """422 with every cause, worded as apimachinery's NewInvalid and field.ErrorList do."""
    texts = [f"{cause.field}: {cause.message}" for cause in causes]
    text = texts[0] if len(texts) == 1 else "[" + ", ".join(texts) + "]"
    qualified = f"{kind}.{group}" if group else kind
    details: dict[str, Any] = {key: value for key, value in (("name", name), ("group", group), ("kind", kind)) if value}
    details["causes"] = [{"reason": c.reason, "message": c.message, "field": c.field} for c in causes]
    return ApiError(422, "Invalid", f'{qualified} "{name}" is invalid: {text}', details)
