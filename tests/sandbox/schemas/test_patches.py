"""JSON patches, merge patches and strategic merge patches."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sftjob_sandbox.apimachinery.errors import ApiError
from sftjob_sandbox.apply.patches import json_patch, merge_patch
from sftjob_sandbox.apply.strategic import strategic_merge_patch
from sftjob_sandbox.kinds.builtin import builtin_schema
from support.checks.kube_schemas import Object

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda values: st.lists(values, max_size=3) | st.dictionaries(st.text("abc", max_size=2), values, max_size=3),
    max_leaves=8,
)
OBJECTS = st.dictionaries(st.text("abc", max_size=2), JSON, max_size=4)


@pytest.mark.parametrize(
    ("target", "patch", "result"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patches_do_as_the_rfc_says(target: Object, patch: Object, result: Object) -> None:
    assert merge_patch(target, patch) == result


@given(target=OBJECTS, patch=OBJECTS)
def test_merge_patches_are_idempotent_and_change_no_argument(target: Object, patch: Object) -> None:
    before = repr((target, patch))
    once = merge_patch(target, patch)
    assert merge_patch(once, patch) == once
    assert repr((target, patch)) == before


def without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: without_nulls(item) for key, item in value.items() if item is not None}
    return value


@given(target=OBJECTS, wanted=OBJECTS)
def test_a_merge_patch_can_turn_any_object_into_any_other_without_nulls(target: Object, wanted: Object) -> None:
    wanted = without_nulls(wanted)
    patch = {**dict.fromkeys(target), **wanted}
    assert merge_patch(merge_patch(target, dict.fromkeys(target)), patch) == wanted


@pytest.mark.parametrize("patch", [[], "x", 1, None])
def test_a_merge_patch_is_an_object(patch: Any) -> None:
    with pytest.raises(ApiError) as refused:
        merge_patch({}, patch)
    assert refused.value.code == 400


@pytest.mark.parametrize(
    ("ops", "result"),
    [
        ([{"op": "add", "path": "/a", "value": 2}], {"a": 2, "l": [1, 2]}),
        ([{"op": "add", "path": "/l/-", "value": 3}], {"a": 1, "l": [1, 2, 3]}),
        ([{"op": "remove", "path": "/l/0"}], {"a": 1, "l": [2]}),
        (
            [{"op": "test", "path": "/a", "value": 1}, {"op": "replace", "path": "/a", "value": 5}],
            {"a": 5, "l": [1, 2]},
        ),
        ([{"op": "move", "from": "/a", "path": "/b"}], {"b": 1, "l": [1, 2]}),
        ([{"op": "copy", "from": "/a", "path": "/b~1c"}], {"a": 1, "b/c": 1, "l": [1, 2]}),
    ],
)
def test_json_patches(ops: list[Object], result: Object) -> None:
    target = {"a": 1, "l": [1, 2]}
    assert json_patch(target, ops) == result
    assert target == {"a": 1, "l": [1, 2]}


@pytest.mark.parametrize(
    ("ops", "code", "message"),
    [
        (
            {"op": "add"},
            400,
            "error decoding patch: json: cannot unmarshal object into Go value of type []handlers.jsonPatchOp",
        ),
        (
            [{"op": "test", "path": "/a", "value": 2}],
            422,
            "the server rejected our request due to an error in our request",
        ),
        (
            [{"op": "remove", "path": "/b"}],
            422,
            "the server rejected our request due to an error in our request",
        ),
        ([{"op": "grow", "path": "/a"}], 422, "the server rejected our request due to an error in our request"),
        (
            [{"op": "add", "path": "/a", "value": 1}] * 10_001,
            413,
            "The allowed maximum operations in a JSON patch is 10000, got 10001",
        ),
    ],
)
def test_json_patches_that_cannot_be_applied(ops: Any, code: int, message: str) -> None:
    with pytest.raises(ApiError) as refused:
        json_patch({"a": 1}, ops)
    assert (refused.value.code, refused.value.message) == (code, message)


POD: Object = {
    "metadata": {"finalizers": ["a", "b"], "labels": {"x": "1"}, "ownerReferences": [{"uid": "1", "name": "a"}]},
    "spec": {
        "containers": [
            {"name": "a", "image": "a:1", "env": [{"name": "X", "value": "1"}, {"name": "Y", "value": "2"}]},
            {"name": "b", "image": "b:1", "command": ["b"]},
        ],
        "volumes": [{"name": "v", "emptyDir": {}}],
        "tolerations": [{"key": "k"}],
    },
}


def patched(patch: Object) -> Object:
    return strategic_merge_patch(POD, patch, builtin_schema("", "v1", "Pod").fields)


@pytest.mark.parametrize(
    ("patch", "path", "value"),
    [
        ({"metadata": {"labels": {"y": "2", "x": None}}}, ("metadata", "labels"), {"y": "2"}),
        ({"metadata": {"finalizers": None}}, ("metadata", "finalizers"), None),
        ({"metadata": {"annotations": {"a": "1", "b": None}}}, ("metadata", "annotations"), {"a": "1"}),
        ({"spec": {"tolerations": [{"key": "l", "value": None}]}}, ("spec", "tolerations"), [{"key": "l"}]),
        ({"spec": {"imagePullSecrets": [{"name": "s"}]}}, ("spec", "imagePullSecrets"), [{"name": "s"}]),
        ({"spec": {"nodeSelector": {"a": "b", "c": None}}}, ("spec", "nodeSelector"), {"a": "b"}),
    ],
)
def test_strategic_patches_merge_objects_and_replace_atomic_lists(
    patch: Object, path: tuple[str, str], value: Any
) -> None:
    assert patched(patch)[path[0]].get(path[1]) == value


INSTEAD = "use kubectl apply --server-side, or kubectl patch --type=merge"


@pytest.mark.parametrize(
    ("patch", "message"),
    [
        ([], "json: cannot unmarshal into Go value of type map[string]interface {}"),
        (
            {"spec": {"containers": [{"name": "a", "image": "x"}]}},
            f"this local server does not merge the list containers of a strategic merge patch: {INSTEAD}",
        ),
        *(
            (patch, f"this local server does not support the directive {name} of a strategic merge patch: {INSTEAD}")
            for name, patch in (
                ("$patch", {"metadata": {"labels": {"$patch": "replace"}}}),
                ("$patch", {"spec": {"tolerations": [{"$patch": "replace"}]}}),
                ("$setElementOrder/containers", {"spec": {"$setElementOrder/containers": [{"name": "a"}]}}),
                ("$deleteFromPrimitiveList/finalizers", {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"]}}),
                ("$retainKeys", {"spec": {"securityContext": {"$retainKeys": ["runAsUser"]}}}),
            )
        ),
    ],
)
def test_strategic_patches_that_merge_lists_are_refused_by_name(patch: Any, message: str) -> None:
    with pytest.raises(ApiError) as refused:
        patched(patch)
    assert (refused.value.code, refused.value.message) == (400, message)


@given(patch=OBJECTS)
def test_a_strategic_patch_leaves_its_arguments_alone(patch: Object) -> None:
    before = repr((POD, patch))
    patched({"metadata": {"labels": patch, "annotations": patch}})
    assert repr((POD, patch)) == before
