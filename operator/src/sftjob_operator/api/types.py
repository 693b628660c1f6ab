"""Building blocks of the models: the base class, bounded strings and lists, Kubernetes' own scalar forms, CEL rules.

Models use only types with a structural schema: str, int, float, bool, enums, nested models, `tuple[X, ...]`, `dict[str,
X]`, `Extra` and `X | None`; `api/crd.py` rejects everything else. Exclusive choices are optional members with a rule.
"""

import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Annotated, Any, Final

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    JsonValue,
    ValidationInfo,
    WithJsonSchema,
)
from pydantic.alias_generators import to_camel

MESSAGE_LIMIT: Final = 1024
"""Maximum length of a sentence in a status, in characters; longer ones are truncated."""


class Model(BaseModel):
    """Base of every model: immutable, camelCase in JSON, unknown keys dropped as the API server prunes them."""

    model_config = ConfigDict(
        alias_generator=to_camel,
        populate_by_name=True,
        frozen=True,
        extra="ignore",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
    )


def rule(expression: str, message: str) -> dict[str, JsonValue]:
    """A CEL expression that must hold, and the message to the user if it does not."""
    return {"rule": expression, "message": message}


def rules(*entries: dict[str, JsonValue]) -> dict[str, JsonValue]:
    """Return the schema extension with the rules of a model or field."""
    return {"x-kubernetes-validations": list(entries)}


_UNSEEN: Final = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""Control characters of a terminal, characters that change the direction of writing, and halves of characters that
UTF-8 cannot encode; excludes tabs and line ends."""


def _cut(limit: int) -> Callable[[Any], Any]:
    def cut(value: Any) -> Any:
        if not isinstance(value, str):
            return value
        text = _UNSEEN.sub("", value)
        return text[: limit - 3] + "..." if len(text) > limit else text

    return cut


def _newest(limit: int) -> Callable[[Any], Any]:
    def newest(values: Any) -> Any:
        return tuple(values)[-limit:] if isinstance(values, Iterable) else values

    return newest


def _six_digits(value: float) -> float:
    return float(f"{value:.6g}")


def newest(limit: int) -> tuple[Any, BeforeValidator]:
    """Metadata of a status list that keeps its last `limit` items, so that no status is rejected for its length."""
    return Field(max_length=limit), BeforeValidator(_newest(limit))


def _quantity_text(value: Any) -> Any:
    return str(value) if isinstance(value, int) and not isinstance(value, bool) else value


_QUANTITY: Final = r"^([1-9][0-9]*([.][0-9]+)?|0[.][0-9]*[1-9])([mkMGTPE]|[KMGTPE]i)?$"

Quantity = Annotated[
    str,
    Field(max_length=32, pattern=_QUANTITY),
    BeforeValidator(_quantity_text),
    WithJsonSchema(
        {
            "anyOf": [{"type": "integer"}, {"type": "string"}],
            "x-kubernetes-int-or-string": True,
            "maxLength": 32,
            **rules(
                rule(
                    f"type(self) == int ? self > 0 : self.matches('{_QUANTITY}')",
                    "must be a Kubernetes quantity above zero, such as 50Gi, 500m or 4",
                )
            ),
        }
    ),
]
"""A quantity in Kubernetes' notation; an integer may be unquoted."""

LABEL_VALUE_PATTERN: Final = "^([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?$"

ObjectName = Annotated[
    str,
    Field(
        min_length=1,
        max_length=253,
        json_schema_extra=rules(
            rule(
                "self.matches('^[a-z0-9]([-a-z0-9.]*[a-z0-9])?$')",
                "must be the name of a Kubernetes object: lowercase letters, digits, '-' and '.'",
            )
        ),
    ),
]
"""Name of an object that the spec refers to."""


def _absent(value: Any) -> Any:
    return None if value == "" else value


EMPTY_IS_ABSENT: Final = BeforeValidator(_absent)
"""Metadata of an optional field that a Pod has as well: as in a Pod, an empty text means absent."""
_OBJECT_NAME_OR_EMPTY: Final = "^([a-z0-9]([-a-z0-9.]*[a-z0-9])?)?$"
ObjectNameOrEmpty = Annotated[
    str,
    Field(
        max_length=253,
        json_schema_extra=rules(
            rule(
                f"self.matches('{_OBJECT_NAME_OR_EMPTY}')",
                "must be the name of a Kubernetes object: lowercase letters, digits, '-' and '.'",
            )
        ),
    ),
]
OptionalObjectName = Annotated[ObjectNameOrEmpty | None, EMPTY_IS_ABSENT]
"""Name of an object that a Pod's spec refers to as well, where an empty one means absent."""
LabelValue = Annotated[
    str,
    Field(
        max_length=63,
        json_schema_extra=rules(
            rule(f"self.matches('{LABEL_VALUE_PATTERN}')", "must be a label's value: letters, digits, '-', '_' and '.'")
        ),
    ),
]
"""Value of a label or taint."""

LEAKY_NAME: Final = (
    "(?i)(^|[_.-])(api_?key|access_?key(_?id)?|private_?key|token|secret|password|passwd|credentials?)($|[_.-])"
)
"""Pattern of names of secrets: HF_TOKEN and DB_PASSWORD, but not TOKENIZERS_PARALLELISM."""

Extra = Annotated[
    dict[str, JsonValue],
    Field(max_length=64),
    WithJsonSchema(
        {
            "type": "object",
            "maxProperties": 64,
            "additionalProperties": {"x-kubernetes-preserve-unknown-fields": True},
        }
    ),
]
"""Options under a library's own names. No schema defines their types: the trainer checks them before it trains, the
operator checks that none contains a secret."""

READ_FROM_STORAGE: Final = "read from storage"
"""Context of a validation: the data may be of another version, so its times are checked too."""


def _moment(text: str, info: ValidationInfo) -> str:
    if info.context == READ_FROM_STORAGE:
        try:
            datetime.fromisoformat(text).astimezone(UTC)
        except OverflowError as error:
            raise ValueError(f"{text!r} is out of range") from error
        if datetime.fromisoformat(text).tzinfo is None:
            raise ValueError(f"{text!r} has no offset from UTC")
    return text


Time = Annotated[str, Field(max_length=64, json_schema_extra={"format": "date-time"}), AfterValidator(_moment)]
"""RFC 3339 in UTC."""

Name = Annotated[str, Field(max_length=253)]
"""Name of an observed object."""
Word = Annotated[str, Field(max_length=256), BeforeValidator(_cut(256))]
"""A short text of a status, without invisible characters; longer ones are truncated."""
Sentence = Annotated[str, Field(max_length=MESSAGE_LIMIT), BeforeValidator(_cut(MESSAGE_LIMIT))]
"""Text for people in a status, without invisible characters; longer ones are truncated."""
Uri = Annotated[str, Field(max_length=1400)]
"""A location, usually on a volume: pvc://CLAIM/PATH."""
COUNT_LIMIT: Final = 2**53
Count = Annotated[int, Field(ge=0, le=COUNT_LIMIT)]
"""A count; JSON readers keep integers exact up to 2**53."""
Measure = Annotated[float, AfterValidator(_six_digits)]
"""A measured number, rounded to six significant digits so that status and columns stay readable."""
