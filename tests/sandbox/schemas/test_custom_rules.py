"""x-kubernetes-validations as they run for each write."""

from typing import Any

import pytest

from sftjob_sandbox.kinds.custom import custom_schema
from support.checks.kube_schemas import create_refusals, told, update_refusals
from support.jobs.widgets import Object, change_refusals, definition, refusals, widget

INTEGER, STRING = {"type": "integer"}, {"type": "string", "maxLength": 20}


def ruled(*rules: Object | str, **properties: Object) -> Object:
    """An object with these fields and rules."""
    declared = [{"rule": rule} if isinstance(rule, str) else rule for rule in rules]
    return {"type": "object", "properties": properties, "x-kubernetes-validations": declared}


@pytest.mark.parametrize(
    ("rule", "said"),
    [
        ({"message": "a must be small"}, 'FieldValueInvalid spec: Invalid value: "object": a must be small'),
        ({}, 'FieldValueInvalid spec: Invalid value: "object": failed rule: self.a < 3'),
        ({"fieldPath": ".a", "message": "m"}, 'FieldValueInvalid spec.a: Invalid value: "object": m'),
        ({"reason": "FieldValueForbidden", "message": "m"}, "FieldValueForbidden spec: Forbidden: m"),
        ({"reason": "FieldValueRequired", "message": "m"}, "FieldValueRequired spec: Required value: m"),
        ({"reason": "FieldValueDuplicate", "message": "m"}, 'FieldValueDuplicate spec: Duplicate value: "object"'),
    ],
)
def test_a_failed_rule_is_told_as_declared(rule: Object, said: str) -> None:
    assert refusals(ruled({"rule": "self.a < 3", **rule}, a=INTEGER), {"a": 5}) == [said]


@pytest.mark.parametrize(
    ("rule", "spec", "holds"),
    [
        ("has(self.a)", {"a": 0}, True),
        ("self.text != 'oldSelf'", {"text": "oldSelf"}, False),
        ("has(self.a)", {}, False),
        ("!has(self.a) || self.a > 0", {}, True),
        ("self.list.all(x, x.startsWith('a'))", {"list": ["ab", "ac"]}, True),
        ("self.list.all(x, x.startsWith('a'))", {"list": ["ab", "b"]}, False),
        ("self.list.exists(x, x == 'b')", {"list": ["a", "b"]}, True),
        ("self.list.exists_one(x, x == 'a')", {"list": ["a", "a"]}, False),
        ("self.list.filter(x, x != 'a').size() == 1", {"list": ["a", "b"]}, True),
        ("self.list.map(x, size(x)).all(n, n < 3)", {"list": ["aa", "bbb"]}, False),
        ("'a' in self.list", {"list": ["a"]}, True),
        ("self.map.all(k, self.map[k] > 0)", {"map": {"x": 1, "y": 0}}, False),
        ("'x' in self.map", {"map": {"x": 1}}, True),
        ("self.text.matches('^[a-z]+$')", {"text": "abc"}, True),
        ("self.text.matches('^[a-z]+$')", {"text": "ab1"}, False),
        ("self.text.contains('b') && self.text.endsWith('c')", {"text": "abc"}, True),
        ("size(self.text) <= 2", {"text": "\u00e4\u00f6"}, True),
        ("self.number > 0.5", {"number": 1}, True),
        ("self.number * 2.0 == 1.0", {"number": 0.5}, True),
        ("self.a % 2 == 0 ? true : self.a == 3", {"a": 3}, True),
        ("double(self.a) / 2.0 == 1.5", {"a": 3}, True),
        ("int(self.text) == 7", {"text": "7"}, True),
        ("self.dashed__dash__name == 'x'", {"dashed-name": "x"}, True),
        ("self.__namespace__ == 'x'", {"namespace": "x"}, True),
        ("type(self.any) == int ? self.any > 0 : self.any != ''", {"any": "x"}, True),
        ("type(self.any) == int ? self.any > 0 : self.any != ''", {"any": 0}, False),
    ],
)
def test_what_rules_can_say(rule: str, spec: Object, holds: bool) -> None:
    schema = ruled(
        rule,
        a=INTEGER,
        number={"type": "number"},
        text=STRING,
        list={"type": "array", "maxItems": 5, "items": STRING},
        map={"type": "object", "maxProperties": 5, "additionalProperties": INTEGER},
        any={"x-kubernetes-int-or-string": True},
        namespace=STRING,
        **{"dashed-name": STRING},
    )
    assert refusals(schema, spec) == (
        [] if holds else [f'FieldValueInvalid spec: Invalid value: "object": failed rule: {rule}']
    )


@pytest.mark.parametrize(
    ("rule", "spec", "said"),
    [
        ("self.a > 0", {}, "no such key: a evaluating rule: self.a > 0"),
        ("10 / self.a > 1", {"a": 0}, "division by zero evaluating rule: 10 / self.a > 1"),
        ("self.list[0] == 'a'", {"list": []}, "index out of bounds: 0 evaluating rule: self.list[0] == 'a'"),
    ],
)
def test_a_rule_that_cannot_be_evaluated_is_told(rule: str, spec: Object, said: str) -> None:
    schema = ruled(rule, a=INTEGER, list={"type": "array", "maxItems": 5, "items": STRING})
    assert refusals(schema, spec) == [f'FieldValueInvalid spec: Invalid value: "object": {said}']


def test_rules_run_at_every_level_with_the_path_of_the_value() -> None:
    item = ruled("self.a > 0", a=INTEGER)
    schema = {
        "type": "object",
        "properties": {
            "list": {"type": "array", "maxItems": 5, "items": item},
            "map": {"type": "object", "maxProperties": 5, "additionalProperties": item},
            "text": {**STRING, "x-kubernetes-validations": [{"rule": "self != 'x'", "message": "not x"}]},
        },
    }
    assert refusals(schema, {"list": [{"a": 1}, {"a": 0}], "map": {"k": {"a": 0}}, "text": "x"}) == [
        'FieldValueInvalid spec.list[1]: Invalid value: "object": failed rule: self.a > 0',
        'FieldValueInvalid spec.map[k]: Invalid value: "object": failed rule: self.a > 0',
        'FieldValueInvalid spec.text: Invalid value: "string": not x',
    ]


def test_the_root_sees_names_but_no_other_metadata() -> None:
    crd = definition({"type": "object", "properties": {"owner": STRING}})
    root = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    root["x-kubernetes-validations"] = [{"rule": "self.metadata.name == self.spec.owner && self.kind == 'Widget'"}]
    schema = custom_schema(crd, "v1")
    assert create_refusals(widget({"owner": "a"}), schema) == []
    (line,) = create_refusals(widget({"owner": "b"}), schema)
    assert line.startswith('FieldValueInvalid <nil>: Invalid value: "object": failed rule: ')


IMMUTABLE = {"rule": "self == oldSelf", "message": "cannot change"}


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ({"text": "a"}, {"text": "a"}, []),
        ({"text": "a"}, {"text": "b"}, ['FieldValueInvalid spec.text: Invalid value: "string": cannot change']),
        ({}, {"text": "b"}, []),
        ({"text": "a"}, {}, []),
    ],
)
def test_transition_rules_compare_what_was_there_before(old: Object, new: Object, said: list[str]) -> None:
    schema = {"type": "object", "properties": {"text": {**STRING, "x-kubernetes-validations": [IMMUTABLE]}}}
    assert refusals(schema, new) == []
    assert change_refusals(schema, old, new) == said


ANYTHING: Object = {"x-kubernetes-preserve-unknown-fields": True}
OPTIONS: Object = {"type": "object", "additionalProperties": ANYTHING, "maxProperties": 5}


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ({"rate": 1}, {"rate": 2}),
        ({"rate": 1}, {"rate": True}),
        ({"rate": 0}, {"rate": False}),
        ({"rate": 1}, {"rate": "1"}),
        ({"rate": 1}, {"rate": 1, "more": 1}),
        ({"rate": 1}, {}),
        ({"rate": 1}, None),
        ({"list": [1, 2]}, {"list": [2, 1]}),
        ({"list": []}, {"list": {}}),
        ({"map": {"a": {"b": 1}}}, {"map": {"a": {"b": 2}}}),
        ({"map": {"a": 1}}, {"map": {"a": 1, "b": 2}}),
        ({"map": {"a": {"b": None}}}, {"map": {"a": {}}}),
    ],
)
def test_values_without_a_type_are_compared_as_parts_of_their_object(old: Object, new: Object | None) -> None:
    schema = ruled(IMMUTABLE, a=INTEGER, options=OPTIONS)
    before: Object = {"a": 1, "options": old}
    after: Object = {"a": 1} if new is None else {"a": 1, "options": new}
    refused = ['FieldValueInvalid spec: Invalid value: "object": cannot change']
    assert change_refusals(schema, before, after) == refused
    assert change_refusals(schema, after, before) == refused
    reordered = {key: before[key] for key in reversed(before)}
    assert change_refusals(schema, before, reordered) == []


def test_fields_that_a_schema_does_not_have_are_compared_too() -> None:
    schema = {**ruled(IMMUTABLE, a=INTEGER), **ANYTHING}
    assert change_refusals(schema, {"a": 1, "more": {"b": [1]}}, {"a": 1, "more": {"b": [1]}}) == []
    assert change_refusals(schema, {"a": 1, "more": {"b": [1]}}, {"a": 1, "more": {"b": [True]}}) != []


def test_transition_rules_match_the_items_of_a_list_by_their_keys() -> None:
    item = {
        **ruled({"rule": "self.a >= oldSelf.a", "message": "only up"}, name=STRING, a=INTEGER),
        "required": ["name"],
    }
    schema = {
        "type": "object",
        "properties": {
            "list": {
                "type": "array",
                "maxItems": 5,
                "items": item,
                "x-kubernetes-list-type": "map",
                "x-kubernetes-list-map-keys": ["name"],
            }
        },
    }
    old = {"list": [{"name": "x", "a": 5}, {"name": "y", "a": 5}]}
    new = {"list": [{"name": "y", "a": 4}, {"name": "z", "a": 0}, {"name": "x", "a": 6}]}
    assert change_refusals(schema, old, new) == ['FieldValueInvalid spec.list[0]: Invalid value: "object": only up']


@pytest.mark.parametrize(
    ("old", "new", "holds"),
    [(None, {"a": 1}, True), (None, {"a": 2}, False), ({"a": 1}, {"a": 2}, True), ({"a": 3}, {"a": 2}, False)],
)
def test_an_optional_old_self_is_there_on_update_only(old: Any, new: Object, holds: bool) -> None:
    rule = {
        "rule": "oldSelf.hasValue() ? self.a >= oldSelf.value().a : self.a == 1",
        "optionalOldSelf": True,
        "message": "only up from one",
    }
    schema = ruled(rule, a=INTEGER)
    said = [] if holds else ['FieldValueInvalid spec: Invalid value: "object": only up from one']
    assert (refusals(schema, new) if old is None else change_refusals(schema, old, new)) == said


def test_a_part_that_did_not_change_is_not_judged_again() -> None:
    schema = {
        "type": "object",
        "properties": {"old": ruled("self.a > 0", a=INTEGER), "new": ruled("self.a > 0", a=INTEGER)},
    }
    before = {"old": {"a": 0}, "new": {"a": 1}}
    assert change_refusals(schema, before, {"old": {"a": 0}, "new": {"a": 2}}) == []
    assert change_refusals(schema, before, {"old": {"a": 0}, "new": {"a": 0}}) == [
        'FieldValueInvalid spec.new: Invalid value: "object": failed rule: self.a > 0'
    ]


@pytest.mark.parametrize(
    ("spec", "rule_runs"),
    [({"a": -1}, True), ({}, False), ({"a": "x"}, False), ({"a": 1, "mode": "other"}, False)],
)
def test_rules_do_not_run_where_their_types_cannot_be_relied_on(spec: Object, rule_runs: bool) -> None:
    schema = {
        **ruled(
            {"rule": "false", "message": "ran"}, a={**INTEGER, "minimum": 0}, mode={"type": "string", "enum": ["x"]}
        ),
        "required": ["a"],
    }
    lines = refusals(schema, spec)
    assert any(line.endswith(": ran") for line in lines) is rule_runs
    assert any("some validation rules were not checked" in line for line in lines) is not rule_runs


def test_a_status_write_runs_the_rules_of_the_whole_object() -> None:
    crd = definition(ruled(a=INTEGER), subresources={"status": {}})
    root = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    root["properties"]["status"] = ruled({"rule": "self.b >= oldSelf.b", "message": "b only grows"}, b=INTEGER)
    schema = custom_schema(crd, "v1")
    old = {**widget({"a": 1}), "status": {"b": 2}}
    old["metadata"] = {**old["metadata"], "resourceVersion": "7"}
    assert told(schema.validate_status({**old, "status": {"b": 1}}, old)) == [
        'FieldValueInvalid status: Invalid value: "object": b only grows'
    ]
    assert told(schema.validate_status({**old, "status": {"b": 3}}, old)) == []
    assert update_refusals({**old, "spec": {"a": 1}}, {**old, "spec": {"a": 2}}, schema) == []


@pytest.mark.parametrize(
    ("new", "same"),
    [
        ({"set": ["b", "a"]}, True),
        ({"set": ["a", "c"]}, False),
        ({"set": ["a"]}, False),
        ({"set": ["a", "b", "c"]}, False),
        ({"set": ["a", "b"], "map": [{"name": "y", "set": ["d", "c"]}, {"name": "x"}]}, True),
        ({"set": ["a", "b"], "map": [{"name": "y", "set": ["d", "d2"]}, {"name": "x"}]}, False),
        ({"set": ["a", "b"], "list": ["2", "1"]}, False),
    ],
)
def test_sets_and_keyed_lists_are_compared_without_an_order(new: Object, same: bool) -> None:
    values = {"type": "array", "maxItems": 5, "items": STRING, "x-kubernetes-list-type": "set"}
    item = {"type": "object", "required": ["name"], "properties": {"name": STRING, "set": values}}
    keyed = {"x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["name"]}
    schema = ruled(
        IMMUTABLE,
        set=values,
        map={"type": "array", "maxItems": 5, "items": item, **keyed},
        list={"type": "array", "maxItems": 5, "items": STRING},
    )
    old = {"set": ["a", "b"], "map": [{"name": "x"}, {"name": "y", "set": ["c", "d"]}], "list": ["1", "2"]}
    said = [] if same else ['FieldValueInvalid spec: Invalid value: "object": cannot change']
    assert change_refusals(schema, old, {**old, **new}) == said
