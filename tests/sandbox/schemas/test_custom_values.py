"""What is said about values of custom resources, and which defaults they get."""

from typing import Any

import pytest

from sftjob_sandbox.kinds.custom import custom_schema
from support.checks.kube_schemas import create_refusals, told
from support.jobs.widgets import Object, definition, refusals, widget, widget_schema

NOT_CHECKED = (
    'FieldValueInvalid <nil>: Invalid value: "null": some validation rules were not checked because the object was'
    " invalid; correct the existing errors to complete validation"
)


def a(schema: Object) -> Object:
    """The schema of an object with the field `a`."""
    return {"type": "object", "properties": {"a": schema}}


STRING, INTEGER, NUMBER, BOOLEAN = ({"type": kind} for kind in ("string", "integer", "number", "boolean"))


@pytest.mark.parametrize(
    ("schema", "value", "said"),
    [
        ({**NUMBER, "minimum": 0}, -1, "FieldValueInvalid: Invalid value: -1: should be greater than or equal to 0"),
        (
            {**NUMBER, "minimum": 0},
            -0.5,
            "FieldValueInvalid: Invalid value: -0.5: should be greater than or equal to 0",
        ),
        (
            {**NUMBER, "minimum": 0, "exclusiveMinimum": True},
            0,
            "FieldValueInvalid: Invalid value: 0: should be greater than 0",
        ),
        ({**INTEGER, "maximum": 5}, 6, "FieldValueInvalid: Invalid value: 6: should be less than or equal to 5"),
        (
            {**INTEGER, "maximum": 5, "exclusiveMaximum": True},
            5,
            "FieldValueInvalid: Invalid value: 5: should be less than 5",
        ),
        ({**STRING, "minLength": 2}, "x", 'FieldValueInvalid: Invalid value: "x": should be at least 2 chars long'),
        ({"type": "array", "items": STRING, "minItems": 1}, [],
         "FieldValueInvalid: Invalid value: 0: should have at least 1 items"),
    ],
)  # fmt: skip
def test_limits_are_told_with_the_field(schema: Object, value: Any, said: str) -> None:
    reason, shown, text = said.split(": ", 2)
    at, _, sentence = text.partition(": ")
    assert refusals(a(schema), {"a": value}) == [f"{reason} spec.a: {shown}: {at}: spec.a in body {sentence}"]


@pytest.mark.parametrize(
    ("schema", "value", "said"),
    [
        ({**STRING, "maxLength": 2}, "xyz", "FieldValueTooLong spec.a: Too long: may not be more than 2 bytes"),
        (
            {"type": "array", "items": STRING, "maxItems": 1},
            ["x", "y"],
            "FieldValueTooMany spec.a: Too many: 2: must have at most 1 items",
        ),
        (
            {"type": "object", "additionalProperties": STRING, "maxProperties": 1},
            {"x": "", "y": ""},
            "FieldValueTooMany spec.a: Too many: 2: must have at most 1 items",
        ),
        (
            {**STRING, "enum": ["lora", "full"]},
            "qlora",
            'FieldValueNotSupported spec.a: Unsupported value: "qlora": supported values: "lora", "full"',
        ),
        (
            {**INTEGER, "enum": [1, 2]},
            3,
            'FieldValueNotSupported spec.a: Unsupported value: 3: supported values: "1", "2"',
        ),
        (
            STRING,
            1,
            ('FieldValueTypeInvalid spec.a: Invalid value: "integer":'
            ' spec.a in body must be of type string: "integer"'),
        ),
        (
            INTEGER,
            1.5,
            ('FieldValueTypeInvalid spec.a: Invalid value: "number":'
            ' spec.a in body must be of type integer: "number"'),
        ),
        (
            BOOLEAN,
            "true",
            ('FieldValueTypeInvalid spec.a: Invalid value: "string":'
            ' spec.a in body must be of type boolean: "string"'),
        ),
        (
            {"type": "array", "items": STRING},
            {"x": "y"},
            ('FieldValueTypeInvalid spec.a: Invalid value: "object":'
            ' spec.a in body must be of type array: "object"'),
        ),
        (
            {"x-kubernetes-int-or-string": True},
            True,
            ('FieldValueTypeInvalid spec.a: Invalid value: "boolean":'
            ' spec.a in body must be of type integer,string: "boolean"'),
        ),
    ],
)  # fmt: skip
def test_wrong_types_and_lengths_keep_rules_from_being_checked(schema: Object, value: Any, said: str) -> None:
    ruled = {**a(schema), "x-kubernetes-validations": [{"rule": "true"}]}
    assert refusals(a(schema), {"a": value}) == [said]
    assert refusals(ruled, {"a": value}) == [said, NOT_CHECKED]


@pytest.mark.parametrize(
    ("schema", "value"),
    [
        (NUMBER, 1),
        (INTEGER, 1.0),
        ({"x-kubernetes-int-or-string": True}, "50%"),
        ({"x-kubernetes-int-or-string": True}, 3),
        ({**STRING, "maxLength": 2}, "\u00e4\u00f6"),
        ({**STRING, "format": "unheard-of"}, "anything"),
        ({"x-kubernetes-preserve-unknown-fields": True}, [{"any": "thing"}]),
        ({**INTEGER, "minimum": 0, "maximum": 0}, 0),
    ],
)
def test_accepted_values(schema: Object, value: Any) -> None:
    assert refusals(a(schema), {"a": value}) == []


@pytest.mark.parametrize("bad", ["2026-01-02 03:04:05", "2026-02-30T00:00:00Z", "2026-01-02T25:00:00Z", "soon"])
def test_times(bad: str) -> None:
    schema = a({**STRING, "format": "date-time"})
    assert refusals(schema, {"a": "2026-01-02T03:04:05Z"}) == []
    assert refusals(schema, {"a": bad}) == [
        f'FieldValueTypeInvalid spec.a: Invalid value: "{bad}": spec.a in body must be of type date-time: "{bad}"'
    ]


def test_required_fields_are_named_where_they_are_missing() -> None:
    item = {"type": "object", "required": ["name"], "properties": {"name": STRING}}
    schema = {
        "type": "object",
        "required": ["list", "map"],
        "properties": {
            "list": {"type": "array", "items": item},
            "map": {"type": "object", "additionalProperties": item},
        },
    }
    assert refusals(schema, {"list": [{}], "map": {"k": {}}}) == [
        "FieldValueRequired spec.list[0].name: Required value",
        "FieldValueRequired spec.map.k.name: Required value",
    ]
    assert refusals(schema, {}) == [
        "FieldValueRequired spec.list: Required value",
        "FieldValueRequired spec.map: Required value",
    ]


@pytest.mark.parametrize(
    ("extra", "items", "said"),
    [
        ({"x-kubernetes-list-type": "set"}, ["x", "y", "x"], ['FieldValueDuplicate spec.a[2]: Duplicate value: "x"']),
        ({"x-kubernetes-list-type": "atomic"}, ["x", "x"], []),
    ],
)
def test_sets_have_no_duplicates(extra: Object, items: list[str], said: list[str]) -> None:
    assert refusals(a({"type": "array", "items": STRING, **extra}), {"a": items}) == said


def test_lists_of_type_map_have_no_duplicate_keys() -> None:
    items = {
        "type": "object",
        "required": ["name"],
        "properties": {"name": STRING, "port": {**INTEGER, "default": 80}},
    }
    schema = a({
        "type": "array", "items": items,
        "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name", "port"],
    })  # fmt: skip
    assert refusals(schema, {"a": [{"name": "x"}, {"name": "x", "port": 81}]}) == []
    assert refusals(schema, {"a": [{"name": "x"}, {"name": "x", "port": 80}]}) == [
        'FieldValueDuplicate spec.a[1]: Duplicate value: map[string]interface {}{"name":"x", "port":80}'
    ]


def test_a_value_that_is_neither_integer_nor_string() -> None:
    schema = a({"x-kubernetes-int-or-string": True, "anyOf": [{"type": "integer"}, {"type": "string"}]})
    assert refusals(schema, {"a": 3}) == refusals(schema, {"a": "x"}) == []
    assert 'FieldValueInvalid <nil>: Invalid value: "": "spec.a" must validate at least one schema (anyOf)' in refusals(
        schema, {"a": True}
    )


@pytest.mark.parametrize(
    ("schema", "spec", "read"),
    [
        (a({**INTEGER, "default": 3}), {}, {"a": 3}),
        (a({**INTEGER, "default": 3}), {"a": None}, {"a": 3}),
        (a(INTEGER), {"a": None}, {}),
        (a({**a({**INTEGER, "default": 3}), "default": {}}), {}, {"a": {"a": 3}}),
        (a(a({**INTEGER, "default": 3})), {}, {}),
        (a({"type": "array", "items": a({**INTEGER, "default": 3})}), {"a": [{}]}, {"a": [{"a": 3}]}),
        (
            a({"type": "object", "additionalProperties": a({**INTEGER, "default": 3})}),
            {"a": {"k": {}}},
            {"a": {"k": {"a": 3}}},
        ),
    ],
)
def test_defaults(schema: Object, spec: Object, read: Object) -> None:
    given = widget(spec)
    assert widget_schema(schema).default(given)["spec"] == read
    assert given == widget(spec)


@pytest.mark.parametrize(
    ("schema", "spec", "read", "unknown"),
    [
        (a(INTEGER), {"a": 1, "b": 2}, {"a": 1}, ["spec.b"]),
        (a({"type": "array", "items": a(INTEGER)}), {"a": [{"b": 1}]}, {"a": [{}]}, ["spec.a[0].b"]),
        ({**a(INTEGER), "x-kubernetes-preserve-unknown-fields": True}, {"b": {"c": 1}}, {"b": {"c": 1}}, []),
        (
            {**a(a(INTEGER)), "x-kubernetes-preserve-unknown-fields": True},
            {"a": {"c": 1}, "b": 1},
            {"a": {}, "b": 1},
            ["spec.a.c"],
        ),
        ({"type": "object", "additionalProperties": INTEGER}, {"any": 1}, {"any": 1}, []),
    ],
)
def test_unknown_fields_are_pruned(schema: Object, spec: Object, read: Object, unknown: list[str]) -> None:
    pruned, paths = widget_schema(schema).prune(widget(spec))
    assert (pruned["spec"], paths) == (read, unknown)


def test_unknown_fields_of_metadata_and_of_the_object_are_pruned() -> None:
    given = widget({}, more=1)
    given["metadata"]["nickname"] = "x"
    pruned, paths = widget_schema(a(INTEGER)).prune(given)
    assert pruned == widget({})
    assert paths == ["metadata.nickname", "more"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"kind": "Gadget"}, ['FieldValueInvalid kind: Invalid value: "Gadget": must be Widget']),
        (
            {"apiVersion": "example.com/v2"},
            ['FieldValueInvalid apiVersion: Invalid value: "example.com/v2": must be example.com/v1'],
        ),
    ],
)
def test_the_type_must_fit_the_endpoint(change: Object, said: list[str]) -> None:
    assert create_refusals({**widget({}), **change}, widget_schema(a(INTEGER))) == said


def test_a_status_is_validated_by_its_own_schema() -> None:
    crd = definition(a(INTEGER), subresources={"status": {}})
    schema = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    schema["properties"]["status"] = a({**INTEGER, "minimum": 0})
    compiled = custom_schema(crd, "v1")
    old = widget({"a": 1})
    old["metadata"]["resourceVersion"] = "7"
    assert told(compiled.validate_status({**old, "status": {"a": 1}}, old)) == []
    assert told(compiled.validate_status({**old, "status": {"a": -1}}, old)) == [
        "FieldValueInvalid status.a: Invalid value: -1: a in body should be greater than or equal to 0"
    ]


def test_a_value_that_was_wrong_before_may_stay_as_it_is() -> None:
    strict = custom_schema(definition(a({**INTEGER, "minimum": 0})), "v1")
    old = widget({"a": -1})
    old["metadata"]["resourceVersion"] = "7"
    relabelled = {**old, "metadata": {**old["metadata"], "labels": {"x": "y"}}}
    assert told(strict.validate(relabelled, old)) == []
    assert told(strict.validate({**old, "spec": {"a": -2}}, old)) == [
        "FieldValueInvalid spec.a: Invalid value: -2: spec.a in body should be greater than or equal to 0"
    ]
