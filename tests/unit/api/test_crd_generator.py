"""The rewriter takes the disciplined subset of models and refuses everything that a structural schema cannot say."""

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Any, Literal

import pytest
import yaml
from pydantic import BaseModel, ConfigDict, Field, create_model

from sftjob_operator.api.crd import UnsupportedSchemaError, structural, to_yaml


class Colour(StrEnum):
    """A colour."""

    RED = "red"
    BLUE = "blue"


class Inner(BaseModel):
    """Inner."""

    size: Annotated[int, Field(ge=1, le=9)] = 3
    name: str | None = None


def rewritten(kind: Any, default: Any = ...) -> dict[str, Any]:
    """Structural schema of one field."""
    model: type[BaseModel] = create_model("Model", field=(kind, default))
    field: dict[str, Any] = structural(model.model_json_schema())["properties"]["field"]
    return field


@pytest.mark.parametrize(
    ("kind", "default", "expected"),
    [
        (bool, True, {"type": "boolean", "default": True}),
        (str | None, None, {"type": "string"}),
        (Literal["only"], "only", {"type": "string", "default": "only", "enum": ["only"]}),
        (Literal[4, 8], 4, {"type": "integer", "format": "int32", "default": 4, "enum": [4, 8]}),
        (Annotated[int, Field(le=2**40)], ..., {"type": "integer", "format": "int64", "maximum": 2**40}),
        (
            Annotated[float, Field(gt=0, lt=1)],
            ...,
            {
                "type": "number",
                "format": "double",
                "minimum": 0,
                "exclusiveMinimum": True,
                "maximum": 1,
                "exclusiveMaximum": True,
            },
        ),
        (Colour, Colour.RED, {"type": "string", "description": "A colour.", "default": "red", "enum": ["red", "blue"]}),
        (
            tuple[Annotated[str, Field(max_length=3)], ...],
            (),
            {"type": "array", "items": {"type": "string", "maxLength": 3}},
        ),
        (dict[str, str], {}, {"type": "object", "additionalProperties": {"type": "string"}}),
        (
            Mapping[str, int] | None,
            None,
            {"type": "object", "additionalProperties": {"type": "integer", "format": "int64"}},
        ),
    ],
)
def test_the_subset_is_rewritten(kind: Any, default: Any, expected: dict[str, Any]) -> None:
    assert rewritten(kind, default) == expected


@pytest.mark.parametrize(
    ("default", "written"),
    [(Inner(), {}), (Inner(size=3), {}), (Inner(size=5), {"size": 5}), (Inner(name="x"), {"name": "x"})],
)
def test_a_nested_default_says_only_what_the_fields_do_not(default: Inner, written: dict[str, Any]) -> None:
    field = rewritten(Inner, default)
    assert field["default"] == written
    assert field["properties"]["size"]["default"] == 3


def ruled(message: str) -> dict[str, Any]:
    return {"x-kubernetes-validations": [{"rule": "true", "message": message}]}


class Ruled(BaseModel):
    """Ruled."""

    model_config = ConfigDict(json_schema_extra=ruled("of the model"))


@pytest.mark.parametrize("kind", [Ruled, Ruled | None])
def test_rules_of_a_model_stay_beside_those_of_its_field(kind: Any) -> None:
    field = rewritten(Annotated[kind, Field(json_schema_extra=ruled("of the field"))])
    messages = [entry["message"] for entry in field["x-kubernetes-validations"]]
    assert messages == ["of the model", "of the field"]


@pytest.mark.parametrize(
    ("kind", "complaint"),
    [
        (int | str, "a union of 2 types"),
        (tuple[int, str], "prefixItems"),
        (set[str], "uniqueItems"),
        (Any, "no single type"),
        (dict[str, Any], "must be a schema"),
        (bytes | int, "union"),
        (Annotated[int, Field(multiple_of=2)], "multipleOf"),
        (Annotated[tuple[str, ...], Field(json_schema_extra={"maxLength": 3})], "maxLength has no place in the"),
        (Annotated[str, Field(examples=["x"])], "examples"),
    ],
)
def test_anything_else_is_refused_with_its_place(kind: Any, complaint: str) -> None:
    with pytest.raises(UnsupportedSchemaError, match=complaint) as caught:
        rewritten(kind)
    assert ".field" in str(caught.value)


def test_extra_keys_that_are_forbidden_rather_than_pruned_are_refused() -> None:
    model = create_model("Model", __config__={"extra": "forbid"}, field=(str, ...))
    with pytest.raises(UnsupportedSchemaError, match="additionalProperties"):
        structural(model.model_json_schema())


@pytest.mark.parametrize("text", ["2e-4", "no", "1.0", "null", "on", "12:30", "~", "0x1f", "a: b", 'käse "quoted"'])
def test_every_string_stays_a_string_in_yaml(text: str) -> None:
    written = to_yaml({"value": text})
    assert written.startswith('value: "')
    assert yaml.safe_load(written) == {"value": text}
