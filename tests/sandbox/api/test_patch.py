"""PATCH: merge, JSON, strategic merge and apply."""

import json
from typing import Any

import pytest

from support.clients.http_api import (
    APPLY,
    CONFIG_MAPS,
    JSON_PATCH,
    MERGE,
    PODS,
    STRATEGIC,
    WIDGETS,
    HttpApi,
    config_map,
    pod,
    widget,
)

ONE = f"{WIDGETS}/one"


async def test_a_merge_patch_merges_objects_and_removes_what_is_null(api: HttpApi) -> None:
    await api.ok("POST", WIDGETS, widget(parts=[{"name": "a"}]))

    patched = await api.ok("PATCH", ONE, {"spec": {"parts": None, "color": "red"}}, MERGE)

    assert patched["spec"] == {"size": 3, "color": "red"}
    assert patched["metadata"]["generation"] == 2


async def test_a_json_patch_does_what_it_says_in_order(api: HttpApi) -> None:
    await api.ok("POST", WIDGETS, widget())
    operations = [
        {"op": "test", "path": "/spec/size", "value": 3},
        {"op": "replace", "path": "/spec/size", "value": 4},
        {"op": "add", "path": "/metadata/finalizers", "value": ["example.dev/hold"]},
    ]

    patched = await api.ok("PATCH", ONE, operations, JSON_PATCH)

    assert (patched["spec"]["size"], patched["metadata"]["finalizers"]) == (4, ["example.dev/hold"])


async def test_a_json_patch_whose_test_fails_changes_nothing(api: HttpApi) -> None:
    created = await api.ok("POST", WIDGETS, widget())

    refused = await api("PATCH", ONE, [{"op": "test", "path": "/metadata/resourceVersion", "value": "1"}], JSON_PATCH)

    assert refused.refusal == (422, "Invalid", "the server rejected our request due to an error in our request")
    assert await api.ok("GET", ONE) == created


async def test_a_strategic_merge_patch_merges_objects_and_no_lists(api: HttpApi) -> None:
    await api.ok("POST", PODS, pod())

    patched = await api.ok("PATCH", f"{PODS}/one", {"metadata": {"labels": {"a": "b"}}}, STRATEGIC)
    lists = {"spec": {"containers": [{"name": "main", "image": "image:2"}]}}
    refused = await api("PATCH", f"{PODS}/one", lists, STRATEGIC)

    assert patched["metadata"]["labels"] == {"a": "b"}
    assert refused.refusal[:2] == (400, "BadRequest")
    assert "does not merge the list containers of a strategic merge patch" in refused.body["message"]


async def test_a_custom_resource_takes_no_strategic_merge_patch(api: HttpApi) -> None:
    await api.ok("POST", WIDGETS, widget())

    refused = await api("PATCH", ONE, {}, STRATEGIC)

    assert refused.refusal == (
        415,
        "UnsupportedMediaType",
        (
            "the body of the request was in an unknown format - accepted media types include: "
            "application/json-patch+json, application/merge-patch+json, application/apply-patch+yaml"
        ),
    )


async def test_a_patch_changes_nothing_that_only_the_server_sets(api: HttpApi) -> None:
    created = await api.ok("POST", WIDGETS, widget())
    moment = "2001-02-03T04:05:06Z"
    patch = {"creationTimestamp": moment, "deletionTimestamp": moment, "generation": 9, "deletionGracePeriodSeconds": 3}

    assert await api.ok("PATCH", ONE, {"metadata": patch}, MERGE) == created
    refused = await api("PATCH", ONE, {"metadata": {"name": "two"}}, MERGE)
    assert refused.refusal[0] == 422
    assert 'metadata.name: Invalid value: "two": field is immutable' in refused.body["message"]


async def test_a_patch_of_status_touches_nothing_else(api: HttpApi) -> None:
    await api.ok("POST", WIDGETS, widget())

    patched = await api.ok("PATCH", f"{ONE}/status", {"status": {"phase": "Done"}, "spec": {"size": 9}}, MERGE)

    assert (patched["status"], patched["spec"]["size"], patched["metadata"]["generation"]) == ({"phase": "Done"}, 3, 1)
    assert patched["metadata"]["managedFields"][-1]["subresource"] == "status"


async def test_a_patch_from_an_older_version_conflicts(api: HttpApi) -> None:
    created = await api.ok("POST", WIDGETS, widget())
    await api.ok("PATCH", ONE, {"spec": {"size": 4}}, MERGE)
    guard = {"metadata": {"resourceVersion": created["metadata"]["resourceVersion"]}}

    assert (await api("PATCH", f"{ONE}/status", {**guard, "status": {"phase": "Done"}}, MERGE)).status == 409


async def test_a_patch_that_breaks_the_schema_is_refused(api: HttpApi) -> None:
    await api.ok("POST", WIDGETS, widget())

    refused = await api("PATCH", ONE, {"spec": {"size": -1}}, MERGE)

    assert (refused.status, refused.body["details"]["causes"][0]["field"]) == (422, "spec.size")


async def test_strict_validation_holds_for_patches_too(api: HttpApi) -> None:
    await api.ok("POST", WIDGETS, widget())

    refused = await api("PATCH", f"{ONE}?fieldValidation=Strict", {"spec": {"sise": 1}}, MERGE)

    assert refused.body["message"].endswith('strict decoding error: unknown field "spec.sise"')


async def test_a_patch_of_nothing_is_not_found(api: HttpApi) -> None:
    assert (await api("PATCH", ONE, {}, MERGE)).status == 404


async def _apply(api: HttpApi, manager: str, spec: dict[str, Any], query: str = "") -> Any:
    return await api("PATCH", f"{ONE}?fieldManager={manager}{query}", {**widget(), "spec": spec}, APPLY)


async def test_apply_creates_what_is_not_there_and_changes_what_is(api: HttpApi) -> None:
    created = await _apply(api, "tester", {"size": 3})
    again = await _apply(api, "tester", {"size": 3})
    changed = await _apply(api, "tester", {"size": 4})

    assert (created.status, again.status, changed.status) == (201, 200, 200)
    assert again.body == created.body
    assert changed.body["spec"]["size"] == 4
    assert changed.body["metadata"]["managedFields"][0]["operation"] == "Apply"


async def test_apply_removes_what_its_manager_no_longer_says(api: HttpApi) -> None:
    await _apply(api, "tester", {"size": 3, "parts": [{"name": "a"}, {"name": "b"}]})

    changed = await _apply(api, "tester", {"size": 3, "parts": [{"name": "b"}]})

    assert [part["name"] for part in changed.body["spec"]["parts"]] == ["b"]


async def test_apply_conflicts_with_another_managers_value_unless_forced(api: HttpApi) -> None:
    await _apply(api, "first", {"size": 3})

    refused = await _apply(api, "second", {"size": 4})
    forced = await _apply(api, "second", {"size": 4}, "&force=true")

    assert refused.refusal == (
        409,
        "Conflict",
        'Apply failed with 1 conflict: conflict with "first": .spec.size',
    )
    assert refused.body["details"]["causes"][0]["reason"] == "FieldManagerConflict"
    assert forced.body["spec"]["size"] == 4


async def test_apply_must_say_who_applies(api: HttpApi) -> None:
    refused = await api("PATCH", ONE, widget(), APPLY)

    assert refused.refusal == (
        422,
        "Invalid",
        'PatchOptions.meta.k8s.io "" is invalid: fieldManager: Required value: is required for apply patch',
    )


async def test_only_apply_can_be_forced(api: HttpApi) -> None:
    refused = await api("PATCH", f"{ONE}?force=true", {}, MERGE)

    assert refused.body["details"]["causes"][0]["message"] == "Forbidden: may not be specified for non-apply patch"


@pytest.mark.parametrize(
    "body", [b"kind: Widget\napiVersion: example.dev/v1\nmetadata: {name: one}\nspec: {size: 1e1}\n"]
)
async def test_apply_reads_yaml_as_go_does(api: HttpApi, body: bytes) -> None:
    applied = await api("PATCH", f"{ONE}?fieldManager=tester", body, APPLY)

    assert (applied.status, applied.body["spec"]["size"]) == (201, 10)


async def test_apply_of_an_object_that_is_gone_does_not_make_another(api: HttpApi) -> None:
    body = widget()
    body["metadata"]["uid"] = "gone"

    refused = await api("PATCH", f"{ONE}?fieldManager=tester", body, APPLY)

    assert refused.refusal == (
        409,
        "Conflict",
        (
            'Operation cannot be fulfilled on widgets.example.dev "one": uid mismatch: '
            "the provided object specified uid gone, and no existing object was found"
        ),
    )


async def test_a_dry_run_of_apply_stores_nothing(api: HttpApi) -> None:
    assert (await _apply(api, "tester", {"size": 3}, "&dryRun=All")).status == 201
    assert (await api("GET", ONE)).status == 404


async def test_secrets_take_plain_text_too(api: HttpApi) -> None:
    body = {"metadata": {"name": "one"}, "stringData": {"token": "abc"}}

    created = await api.ok("POST", "/api/v1/namespaces/default/secrets", body)

    assert (created["data"], created["type"]) == ({"token": "YWJj"}, "Opaque")
    assert "stringData" not in created


async def test_a_body_is_limited_to_three_mebibytes(api: HttpApi) -> None:
    body = json.dumps(config_map(a="x" * (3 << 20))).encode()

    refused = await api("POST", CONFIG_MAPS, body)

    assert refused.refusal == (413, "RequestEntityTooLarge", "Request entity too large: limit is 3145728")


@pytest.mark.parametrize(
    ("path", "content_type", "patch", "message"),
    [
        (
            f"{PODS}/one",
            STRATEGIC,
            {"spec": {"foo": 1, "bar": [True, None]}},
            (
                'Invalid value: "map[spec:map[bar:[true <nil>] foo:1]]": strict decoding error:'
                ' unknown field "spec.foo", unknown field "spec.bar"'
            ),
        ),
        (
            f"{PODS}/one",
            STRATEGIC,
            {"spec": {"priority": "high"}},
            (
                'Invalid value: "map[spec:map[priority:high]]": json: cannot unmarshal string into Go struct field'
                " PodSpec.spec.priority of type int32"
            ),
        ),
        (ONE, MERGE, {"spec": {"foo": 1}}, 'strict decoding error: unknown field "spec.foo"'),
        (ONE, JSON_PATCH, [{"op": "add", "path": "/foo", "value": 1}], 'strict decoding error: unknown field "foo"'),
    ],
)
async def test_what_a_patch_makes_unreadable_is_the_patchs_fault(
    api: HttpApi, path: str, content_type: str, patch: Any, message: str
) -> None:
    await api.ok("POST", PODS, pod())
    await api.ok("POST", WIDGETS, widget())

    refused = await api("PATCH", f"{path}?fieldValidation=Strict", patch, content_type)

    code, reason, text = refused.refusal
    assert (code, reason, text[:21]) == (422, "Invalid", ' "" is invalid: patch')
    assert text.endswith(message)
    assert [cause["field"] for cause in refused.body["details"]["causes"]] == ["patch"]


@pytest.mark.parametrize("validation", ["Strict", "Warn", "Ignore"])
async def test_apply_never_drops_an_unknown_field(api: HttpApi, validation: str) -> None:
    refused = await _apply(api, "tester", {"size": 3, "foo": 1}, f"&fieldValidation={validation}")

    assert refused.refusal == (
        500,
        "",
        (
            "failed to create typed patch object (default/one; example.dev/v1, Kind=Widget):"
            " .spec.foo: field not declared in schema"
        ),
    )
