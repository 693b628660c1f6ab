"""metadata.managedFields after creates, updates and patches."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftjob_sandbox.apply.field_sets import FieldSet, display
from sftjob_sandbox.apply.managed_fields import record_update
from support.checks.kube_schemas import CONFIG_MAP, POD, Object, changed, schema_of, stored
from support.jobs.widgets import widget, widget_schema


def recorded(old: Object | None, new: Object, manager: str = "kopf", second: int = 0, **options: Any) -> Object:
    given = {"subresource": "", "schema": options.get("schema") or schema_of(new), **options}
    return record_update(old, new, manager=manager, now=f"2026-01-02T03:04:{second:02}Z", **given)


def managers(obj: Object) -> dict[str, Any]:
    return {entry["manager"]: entry["fieldsV1"] for entry in obj["metadata"].get("managedFields", ())}


def test_a_new_object_belongs_to_who_made_it() -> None:
    labelled = changed(CONFIG_MAP, {"metadata": {"labels": {"a": "b"}, "uid": "1", "resourceVersion": "2"}})
    assert recorded(None, labelled)["metadata"]["managedFields"] == [
        {
            "manager": "kopf",
            "operation": "Update",
            "apiVersion": "v1",
            "time": "2026-01-02T03:04:00Z",
            "fieldsType": "FieldsV1",
            "fieldsV1": {
                "f:data": {".": {}, "f:plan.json": {}},
                "f:metadata": {"f:labels": {".": {}, "f:a": {}}},
            },
        }
    ]


def test_defaults_belong_to_who_made_the_object() -> None:
    fields = managers(recorded(None, stored(POD)))["kopf"]
    assert fields["f:spec"]["f:containers"] == {
        'k:{"name":"main"}': {
            ".": {},
            "f:command": {},
            "f:image": {},
            "f:imagePullPolicy": {},
            "f:name": {},
            "f:resources": {},
            "f:terminationMessagePath": {},
            "f:terminationMessagePolicy": {},
        }
    }
    assert fields["f:spec"]["f:dnsPolicy"] == {}
    assert "." not in fields["f:spec"]  # every Pod has a spec, so nobody sets it


def test_the_spec_of_a_custom_resource_belongs_to_who_set_it() -> None:
    schema = widget_schema({"type": "object", "properties": {"a": {"type": "integer"}}})
    assert managers(recorded(None, widget({"a": 1}), schema=schema)) == {"kopf": {"f:spec": {".": {}, "f:a": {}}}}


def test_a_change_moves_the_changed_fields_only() -> None:
    first = recorded(None, CONFIG_MAP)
    second = recorded(first, changed(first, {"data": {"more": "x"}}), "helm", 1)
    third = recorded(second, changed(second, {"data": {"plan.json": "[]"}}), "helm", 2)
    assert managers(second) == {
        "kopf": {"f:data": {".": {}, "f:plan.json": {}}},
        "helm": {"f:data": {"f:more": {}}},
    }
    assert managers(third) == {"kopf": {"f:data": {}}, "helm": {"f:data": {"f:more": {}, "f:plan.json": {}}}}


def test_an_update_without_a_change_keeps_the_record() -> None:
    first = recorded(None, CONFIG_MAP)
    assert recorded(first, changed(first, {"metadata": {"managedFields": None}}), "helm", 1) == first


def test_a_removed_field_belongs_to_nobody() -> None:
    first = recorded(None, changed(CONFIG_MAP, {"data": {"more": "x"}}))
    assert managers(recorded(first, changed(first, {"data": {"more": None}}), "helm", 1)) == {
        "kopf": {"f:data": {".": {}, "f:plan.json": {}}}
    }


def test_one_empty_entry_resets_the_record() -> None:
    first = recorded(None, CONFIG_MAP)
    reset = changed(first, {"metadata": {"managedFields": [{}]}})
    assert "managedFields" not in recorded(first, reset)["metadata"]


def test_a_status_write_is_an_entry_of_its_own() -> None:
    schema = widget_schema({"type": "object"})
    first = recorded(None, widget({}), schema=schema)
    after = recorded(first, {**first, "status": {"a": 1}}, schema=schema, subresource="status", second=1)
    entry = after["metadata"]["managedFields"][-1]
    assert (entry["manager"], entry["subresource"]) == ("kopf", "status")


def test_an_object_whose_items_cannot_be_told_apart_has_no_record() -> None:
    nameless = changed(POD, {"spec": {"containers": [{"image": "x:1"}]}})
    assert "managedFields" not in recorded(None, nameless)["metadata"]


@pytest.mark.parametrize(
    ("path", "shown"),
    [
        (("f:spec", "f:a.b"), ".spec.a.b"),
        (("f:spec", 'k:{"port":80,"name":"x"}', "f:a"), '.spec[name="x",port=80].a'),
        (("f:metadata", "f:finalizers", 'v:"x"'), '.metadata.finalizers[="x"]'),
    ],
)
def test_paths_are_shown_as_conflicts_show_them(path: tuple[str, ...], shown: str) -> None:
    assert display(path) == shown


PATHS = st.lists(st.lists(st.sampled_from(["f:a", "f:b", 'v:"x"', 'k:{"n":1}']), min_size=1, max_size=3).map(tuple))


def field_set(paths: list[tuple[str, ...]]) -> FieldSet:
    result = FieldSet()
    for path in paths:
        result.insert(path)
    return result


@given(left=PATHS, right=PATHS)
def test_sets_of_fields_behave_as_sets(left: list[tuple[str, ...]], right: list[tuple[str, ...]]) -> None:
    a, b = field_set(left), field_set(right)
    assert set(a.union(b).paths()) == {*left, *right}
    assert set(a.intersection(b).paths()) == {*left} & {*right}
    assert set(a.difference(b).paths()) == {*left} - {*right}
    assert set(FieldSet.from_fields_v1(a.fields_v1()).paths()) == {*left}
    below = {path for path in left if any(path[: len(taken)] == taken for taken in right)}
    assert set(a.without(b).paths()) == {*left} - below
