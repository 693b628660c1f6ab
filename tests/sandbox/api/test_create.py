"""POST."""

import re

import pytest

from support.clients.http_api import CONFIG_MAPS, PODS, WIDGETS, HttpApi, config_map, pod, widget


async def test_a_created_object_carries_what_only_the_server_may_set(api: HttpApi) -> None:
    sent = widget()
    sent["metadata"] |= {"uid": "mine", "generation": 7, "creationTimestamp": "2001-01-01T00:00:00Z", "labels": {}}

    created = await api("POST", WIDGETS, sent)

    metadata = created.body["metadata"]
    assert created.status == 201
    assert re.fullmatch("[0-9a-f-]{36}", metadata["uid"])
    assert metadata["generation"] == 1
    assert metadata["creationTimestamp"] > "2020"
    assert metadata["namespace"] == "default"
    assert int(metadata["resourceVersion"]) > 0
    assert "labels" not in metadata
    assert metadata["managedFields"][0]["operation"] == "Update"


async def test_defaults_of_the_schema_are_filled_in(api: HttpApi) -> None:
    created = await api.ok("POST", WIDGETS, widget(parts=[{"name": "a"}]))

    assert created["spec"] == {"size": 3, "color": "green", "parts": [{"name": "a", "count": 1}]}


async def test_status_can_not_be_set_by_a_create(api: HttpApi) -> None:
    assert "status" not in await api.ok("POST", WIDGETS, {**widget(), "status": {"phase": "Done"}})


@pytest.mark.parametrize(
    ("path", "obj", "status"),
    [
        (PODS, {**pod(), "status": {"phase": "Running"}}, {"phase": "Pending"}),
        (
            "/api/v1/namespaces/default/persistentvolumeclaims",
            {
                "metadata": {"name": "one"},
                "spec": {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}},
            },
            {"phase": "Pending"},
        ),
        ("/api/v1/namespaces", {"metadata": {"name": "one"}}, {"phase": "Active"}),
    ],
)
async def test_a_built_in_object_starts_with_the_status_of_its_kind(
    api: HttpApi, path: str, obj: dict[str, object], status: dict[str, str]
) -> None:
    assert (await api.ok("POST", path, obj))["status"] == status


async def test_generate_name_makes_a_new_name_each_time(api: HttpApi) -> None:
    body = {"metadata": {"generateName": "cm-"}}

    names = [(await api.ok("POST", CONFIG_MAPS, body))["metadata"]["name"] for _ in range(2)]

    assert all(re.fullmatch("cm-[bcdfghjklmnpqrstvwxz2-9]{5}", name) for name in names)
    assert names[0] != names[1]


async def test_a_dry_run_answers_and_stores_nothing(api: HttpApi) -> None:
    answer = await api("POST", f"{WIDGETS}?dryRun=All", widget())

    assert answer.status == 201
    assert answer.body["spec"]["color"] == "green"
    assert (await api("GET", f"{WIDGETS}/one")).status == 404


REFUSALS = {
    "exists already": (WIDGETS, widget("taken"), 409, "AlreadyExists", 'widgets.example.dev "taken" already exists'),
    "breaks the schema": (
        WIDGETS,
        widget(size=0),
        422,
        "Invalid",
        (
            'Widget.example.dev "one" is invalid: spec.size: Invalid value: 0: '
            "spec.size in body should be greater than or equal to 1"
        ),
    ),
    "breaks a rule": (
        WIDGETS,
        widget(size=100),
        422,
        "Invalid",
        'Widget.example.dev "one" is invalid: spec: Invalid value: "object": a widget of size 100 or more must be red',
    ),
    "has no name": (
        CONFIG_MAPS,
        {},
        422,
        "Invalid",
        'ConfigMap "" is invalid: metadata.name: Required value: name or generateName is required',
    ),
    "names another namespace": (
        CONFIG_MAPS,
        {"metadata": {"name": "one", "namespace": "other"}},
        400,
        "BadRequest",
        "the namespace of the provided object does not match the namespace sent on the request",
    ),
    "is in no namespace": (
        "/api/v1/namespaces/nowhere/configmaps",
        config_map(),
        404,
        "NotFound",
        'namespaces "nowhere" not found',
    ),
    "is of another version": (
        WIDGETS,
        {**widget(), "apiVersion": "example.dev/v2"},
        400,
        "BadRequest",
        "the API version in the data (example.dev/v2) does not match the expected API version (example.dev/v1)",
    ),
    "is of another built-in kind": (
        PODS,
        config_map(),
        400,
        "BadRequest",
        (
            'ConfigMap in version "v1" cannot be handled as a Pod: '
            "converting (v1.ConfigMap) to (core.Pod): unknown conversion"
        ),
    ),
    "is of another custom kind": (
        WIDGETS,
        {**widget(), "kind": "Gadget"},
        422,
        "Invalid",
        'Widget.example.dev "one" is invalid: kind: Invalid value: "Gadget": must be Widget',
    ),
    "carries a resource version": (
        CONFIG_MAPS,
        {"metadata": {"name": "one", "resourceVersion": "5"}},
        500,
        "",
        "resourceVersion should not be set on objects to be created",
    ),
    "names an unknown service account": (
        PODS,
        pod(serviceAccountName="nobody"),
        403,
        "Forbidden",
        'pods "one" is forbidden: error looking up service account default/nobody: serviceaccount "nobody" not found',
    ),
}


@pytest.mark.parametrize("case", REFUSALS)
async def test_refused_is_what(api: HttpApi, case: str) -> None:
    path, body, code, reason, message = REFUSALS[case]
    await api.ok("POST", WIDGETS, widget("taken"))

    refused = await api("POST", path, body)

    assert refused.status == code
    assert refused.refusal == (code, reason, message)


async def test_details_name_the_field(api: HttpApi) -> None:
    details = (await api("POST", WIDGETS, widget(color="pink"))).body["details"]

    assert (details["name"], details["group"], details["kind"]) == ("one", "example.dev", "Widget")
    cause = details["causes"][0]
    assert (cause["reason"], cause["field"]) == ("FieldValueNotSupported", "spec.color")
    assert cause["message"] == 'Unsupported value: "pink": supported values: "red", "green", "blue"'


BROKEN = widget(sise=5)
PROBLEM = 'unknown field "spec.sise"'


async def test_strict_validation_refuses_unknown_fields(api: HttpApi) -> None:
    refused = await api("POST", f"{WIDGETS}?fieldValidation=Strict", BROKEN)

    text = 'Widget in version "v1" cannot be handled as a Widget: strict decoding error: '
    assert refused.refusal == (400, "BadRequest", text + PROBLEM)


@pytest.mark.parametrize("query", ["", "?fieldValidation=Warn"])
async def test_without_it_they_are_warned_about_and_dropped(api: HttpApi, query: str) -> None:
    created = await api("POST", WIDGETS + query, BROKEN)

    assert created.body["spec"] == {"size": 3, "color": "green"}
    assert created.warnings == [r'299 - "unknown field \"spec.sise\""']


async def test_ignored_they_are_dropped_silently(api: HttpApi) -> None:
    created = await api("POST", f"{WIDGETS}?fieldValidation=Ignore", BROKEN)

    assert (created.status, created.warnings) == (201, [])


async def test_a_field_that_is_given_twice_is_refused(api: HttpApi) -> None:
    refused = await api("POST", WIDGETS, b'{"apiVersion":"example.dev/v1","kind":"Widget","spec":{"size":3,"size":4}}')

    text = 'couldn\'t get version/kind; json parse error: duplicate field "size"'
    assert refused.refusal == (400, "BadRequest", text)


async def test_options_that_a_server_does_not_know_are_refused(api: HttpApi) -> None:
    refused = await api("POST", f"{WIDGETS}?dryRun=Some&fieldValidation=Maybe", widget())

    assert refused.status == 422
    assert [cause["field"] for cause in refused.body["details"]["causes"]] == ["dryRun", "fieldValidation"]
