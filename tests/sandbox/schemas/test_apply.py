"""Server-side apply: who owns what, who conflicts with whom, and what goes away."""

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.apimachinery.schemas import ObjectSchema
from sftjob_sandbox.apply.managed_fields import record_update
from sftjob_sandbox.apply.server_side import Applier, server_side_apply
from sftjob_sandbox.kinds.custom import custom_schema
from support.checks.kube_schemas import POD, Object, changed, schema_of, stored
from support.jobs.widgets import definition, widget

NOW, LATER = "2026-01-02T03:04:05Z", "2026-01-02T03:05:00Z"
LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


def config(**data: str) -> Object:
    given = {"data": data} if data else {}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "team-a"}, **given}


def apply(
    live: Object | None,
    intent: Object,
    manager: str = "kopf",
    *,
    force: bool = False,
    now: str = NOW,
    schema: ObjectSchema | None = None,
    subresource: str = "",
) -> Object:
    applier = Applier(manager=manager, now=now, force=force, subresource=subresource)
    return server_side_apply(live, intent, schema or schema_of(intent), applier)


def update(old: Object | None, new: Object, manager: str = "kubectl-edit", now: str = NOW) -> Object:
    return record_update(old, new, manager=manager, subresource="", schema=schema_of(new), now=now)


def owned(obj: Object, manager: str) -> Any:
    """The fieldsV1 of a manager; None if it owns nothing."""
    entries = obj["metadata"].get("managedFields", ())
    return next((entry["fieldsV1"] for entry in entries if entry["manager"] == manager), None)


def refused(*args: Any, **options: Any) -> ApiError:
    with pytest.raises(ApiError) as raised:
        apply(*args, **options)
    return raised.value


def test_the_first_apply_creates_and_owns_all_it_says() -> None:
    assert apply(None, config(a="1"))["metadata"] == {
        "name": "a",
        "namespace": "team-a",
        "managedFields": [
            {
                "manager": "kopf",
                "operation": "Apply",
                "apiVersion": "v1",
                "time": NOW,
                "fieldsType": "FieldsV1",
                "fieldsV1": {"f:data": {"f:a": {}}},
            }
        ],
    }


def test_what_is_no_longer_said_goes_away() -> None:
    first = apply(None, config(a="1", b="2"))
    assert apply(first, config(a="1"))["data"] == {"a": "1"}
    assert "data" not in apply(first, config())


def test_an_empty_object_that_the_server_filled_can_be_applied_again() -> None:
    inner = {"type": "object", "properties": {"b": {"type": "integer", "default": 1}}}
    schema = custom_schema(definition({"type": "object", "properties": {"a": inner}}), "v1")
    first = apply(None, widget({"a": {}}), schema=schema)
    assert first["spec"] == {"a": {"b": 1}}
    assert apply(first, widget({"a": {}}), schema=schema) == first


def test_what_somebody_else_says_too_stays() -> None:
    first = apply(None, config(a="1", b="2"))
    shared = apply(first, config(b="2"), "helm")
    assert owned(shared, "helm") == {"f:data": {"f:b": {}}}
    assert apply(shared, config(a="1"))["data"] == {"a": "1", "b": "2"}


def test_what_somebody_else_set_by_update_stays() -> None:
    first = apply(None, config(a="1"))
    edited = update(first, changed(first, {"data": {"b": "2"}}))
    assert owned(edited, "kubectl-edit") == {"f:data": {"f:b": {}}}
    assert apply(edited, config(a="3"))["data"] == {"a": "3", "b": "2"}


@pytest.mark.parametrize(
    ("manager", "told"),
    [("kubectl", 'conflict with "kubectl" using v1'), ("kubectl-edit", 'conflict with "kubectl-edit" using v1')],
)
def test_another_value_for_anothers_field_is_a_conflict(manager: str, told: str) -> None:
    live = update(None, config(a="1"), manager)
    error = refused(live, config(a="2"))
    assert (error.code, error.reason) == (409, "Conflict")
    assert error.message == f"Apply failed with 1 conflict: {told}: .data.a"
    assert error.details == {"causes": [{"reason": "FieldManagerConflict", "message": told, "field": ".data.a"}]}


def test_several_conflicts_are_listed_by_their_owner() -> None:
    live = apply(apply(None, config(a="1", b="1"), "first"), config(c="1"), "second")
    assert refused(live, config(a="2", b="2", c="2"), "third").message == (
        'Apply failed with 3 conflicts: conflicts with "first":\n- .data.a\n'
        '- .data.b\nconflicts with "second":\n- .data.c'
    )


def test_force_takes_the_fields_over() -> None:
    live = update(None, config(a="1", b="1"))
    forced = apply(live, config(a="2"), force=True)
    assert forced["data"] == {"a": "2", "b": "1"}
    assert owned(forced, "kopf") == {"f:data": {"f:a": {}}}
    assert owned(forced, "kubectl-edit") == {"f:data": {".": {}, "f:b": {}}}


def test_the_same_value_is_owned_by_both() -> None:
    live = apply(apply(None, config(a="1"), "first"), config(a="1"), "second")
    assert owned(live, "first") == owned(live, "second") == {"f:data": {"f:a": {}}}
    assert refused(live, config(a="2"), "first").message.endswith('conflict with "second": .data.a')


def test_an_update_takes_what_it_changes() -> None:
    applied = apply(None, config(a="1", b="1"))
    edited = update(applied, changed(applied, {"data": {"a": "2"}}))
    assert owned(edited, "kopf") == {"f:data": {"f:b": {}}}
    assert owned(edited, "kubectl-edit") == {"f:data": {"f:a": {}}}


def test_applying_the_same_again_changes_nothing_not_even_the_time() -> None:
    first = apply(None, config(a="1"))
    assert apply(first, config(a="1"), now=LATER) == first
    limits = changed(
        POD, {"spec": {"containers": [{"name": "m", "image": "x:1", "resources": {"limits": {"cpu": 1}}}]}}
    )
    pod = apply(None, limits)
    assert apply(pod, limits, now=LATER) == pod
    assert apply(first, config(a="2"), now=LATER)["metadata"]["managedFields"][0]["time"] == LATER


def test_items_of_keyed_lists_have_owners_of_their_own() -> None:
    live = apply(None, POD)
    sidecar = {"name": "log", "image": "log:1", "ports": [{"containerPort": 80}]}
    more = apply(live, changed(POD, {"spec": {"containers": [sidecar], "serviceAccountName": None}}), "sidecars")
    assert [container["name"] for container in more["spec"]["containers"]] == ["main", "log"]
    assert owned(more, "sidecars")["f:spec"]["f:containers"] == {
        'k:{"name":"log"}': {
            ".": {},
            "f:image": {},
            "f:name": {},
            "f:ports": {'k:{"containerPort":80,"protocol":"TCP"}': {".": {}, "f:containerPort": {}}},
        }
    }
    conflict = changed(POD, {"spec": {"containers": [{"name": "main", "image": "other:1"}]}})
    assert refused(more, conflict, "sidecars").message == (
        'Apply failed with 1 conflict: conflict with "kopf": .spec.containers[name="main"].image'
    )
    without = changed(POD, {"spec": {"containers": []}})
    assert [c["name"] for c in apply(more, without, "sidecars")["spec"]["containers"]] == ["main"]


def test_items_of_sets_have_owners_of_their_own() -> None:
    def with_finalizers(*names: str) -> Object:
        return changed(config(), {"metadata": {"finalizers": list(names)}})

    live = apply(apply(None, with_finalizers("a.b/one"), "first"), with_finalizers("a.b/two"), "second")
    assert live["metadata"]["finalizers"] == ["a.b/one", "a.b/two"]
    assert owned(live, "second")["f:metadata"] == {"f:finalizers": {'v:"a.b/two"': {}}}
    assert apply(live, config(), "second")["metadata"]["finalizers"] == ["a.b/one"]


def test_atomic_lists_are_owned_as_a_whole() -> None:
    live = apply(None, POD, "first")
    error = refused(live, changed(POD, {"spec": {"containers": [{**POD["spec"]["containers"][0], "command": ["b"]}]}}))
    assert error.message.endswith('conflict with "first": .spec.containers[name="main"].command')


def test_a_client_side_applied_object_can_move_to_server_side_apply() -> None:
    applied = config(a="1", b="1")
    annotations = {LAST_APPLIED: json.dumps(applied)}
    live = update(None, changed(applied, {"metadata": {"annotations": annotations}}), "kubectl-client-side-apply")
    moved = apply(live, config(a="2", b="1"), "kubectl")
    assert moved["data"] == {"a": "2", "b": "1"}
    kept = json.loads(moved["metadata"]["annotations"][LAST_APPLIED])
    assert kept["data"] == {"a": "2", "b": "1"}
    assert refused(live, config(a="2"), "helm").message.startswith("Apply failed with 1 conflict")


def test_objects_without_a_record_get_one_before_the_first_apply() -> None:
    live = apply(config(a="1"), config(b="2"))
    assert [entry["manager"] for entry in live["metadata"]["managedFields"]] == ["kopf", "before-first-apply"]
    assert refused(config(a="1"), config(a="2")).message == (
        'Apply failed with 1 conflict: conflict with "before-first-apply" using v1: .data.a'
    )


@pytest.mark.parametrize(
    ("change", "code", "message"),
    [
        ({"metadata": {"managedFields": []}}, 400, "metadata.managedFields must be nil"),
        (
            {"apiVersion": "v2"},
            400,
            "Incorrect version specified in apply patch. Specified patch version: v2, expected: v1",
        ),
        ({"foo": 1}, 500, ".foo: field not declared in schema"),
        ({"spec": {"foo": 1}}, 500, ".spec.foo: field not declared in schema"),
        (
            {"spec": {"foo": 1, "bar": 1}},
            500,
            "errors:\n  .spec.foo: field not declared in schema\n  .spec.bar: field not declared in schema",
        ),
        ({"spec": {"priority": "high"}}, 500, ".spec.priority: expected numeric (int or float), got string"),
        (
            {"metadata": {"labels": {"a": 1}}},
            500,
            ".metadata.labels.a: expected string, got &value.valueUnstructured{Value:1}",
        ),
        (
            {"spec": {"containers": [{"image": "x"}]}},
            500,
            (
                '.spec.containers: element 0: associative list with keys has an element that omits key field "name"'
                " (and doesn't have default value)"
            ),
        ),
        (
            {"spec": {"containers": [{"name": "a"}, {"name": "a"}]}},
            500,
            '.spec.containers: duplicate entries for key [name="a"]',
        ),
        ({"metadata": {"finalizers": ["a/b", "a/b"]}}, 500, '.metadata.finalizers: duplicate entries for key [="a/b"]'),
    ],
)
def test_what_cannot_be_applied(change: Object, code: int, message: str) -> None:
    error = refused(stored(POD), changed(POD, change), schema=schema_of(POD))
    prefix = "failed to create typed patch object (team-a/trainer; /v1, Kind=Pod): " if code == 500 else ""
    assert (error.code, error.message) == (code, prefix + message)


def test_applying_a_status_owns_and_changes_nothing_else() -> None:
    crd = definition({"type": "object", "properties": {"a": {"type": "integer"}}}, subresources={"status": {}})
    properties = crd["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    properties["status"] = {"type": "object", "properties": {"b": {"type": "integer"}}}
    schema = custom_schema(crd, "v1")
    live = apply(None, widget({"a": 1}), "first", schema=schema)
    intent = widget({"a": 2}, status={"b": 3})
    after = apply(live, intent, "second", schema=schema, subresource="status")
    assert owned(after, "second") == {"f:status": {"f:b": {}}}
    entry = next(e for e in after["metadata"]["managedFields"] if e["manager"] == "second")
    assert entry["subresource"] == "status"


KEYS = st.sampled_from(["a", "b", "c", "d"])
DATA = st.dictionaries(KEYS, st.sampled_from(["1", "2"]), max_size=4)


@given(first=DATA, second=DATA, third=DATA)
def test_forced_applies_leave_each_manager_with_exactly_what_it_said_last(
    first: dict[str, str], second: dict[str, str], third: dict[str, str]
) -> None:
    live = apply(None, config(**first), "one", force=True)
    live = apply(live, config(**second), "two", force=True)
    live = apply(live, config(**third), "two", force=True)
    taken = {key for key in {*second, *third} if key in first and first[key] != {**first, **second}.get(key)}
    taken |= {key for key in third if key in first and first[key] != third[key]}
    kept = {key: value for key, value in first.items() if key not in taken}
    assert {key: live.get("data", {}).get(key) for key in third} == third
    assert {key: live.get("data", {}).get(key) for key in kept} == kept
    assert set(live.get("data", {})) == {*third, *kept}


@given(before=DATA, intent=DATA)
def test_an_apply_that_succeeds_without_force_changes_nothing_of_others(
    before: dict[str, str], intent: dict[str, str]
) -> None:
    live = apply(None, config(**before), "one")
    if any(before.get(key, value) != value for key, value in intent.items()):
        assert refused(live, config(**intent), "two").code == 409
        return
    after = apply(live, config(**intent), "two")
    assert after.get("data", {}) == {**before, **intent}
    assert owned(after, "one") == owned(live, "one")
