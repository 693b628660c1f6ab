"""Discovery, OpenAPI, health, and what is not served."""

import pytest

from support.clients.http_api import CONFIG_MAPS, PODS, WIDGETS, HttpApi, config_map, pod


async def test_each_group_lists_its_resources(api: HttpApi) -> None:
    resources = (await api.ok("GET", "/apis/example.dev/v1"))["resources"]

    assert [(r["name"], r["kind"], r["namespaced"]) for r in resources] == [
        ("widgets", "Widget", True),
        ("widgets/status", "Widget", True),
    ]
    assert (resources[0]["shortNames"], resources[0]["categories"], resources[0]["singularName"]) == (
        ["wdg"],
        ["all"],
        "widget",
    )
    assert resources[1]["verbs"] == ["get", "patch", "update"]


async def test_groups_and_versions_are_listed(api: HttpApi) -> None:
    groups = {group["name"]: group for group in (await api.ok("GET", "/apis"))["groups"]}

    assert groups["example.dev"]["preferredVersion"] == {"groupVersion": "example.dev/v1", "version": "v1"}
    assert {"apiextensions.k8s.io", "coordination.k8s.io", "authentication.k8s.io"} <= set(groups)
    assert (await api.ok("GET", "/apis/example.dev"))["kind"] == "APIGroup"
    assert (await api.ok("GET", "/api"))["versions"] == ["v1"]


async def test_a_kinds_schema_is_published(api: HttpApi) -> None:
    index = await api.ok("GET", "/openapi/v3")
    document = await api.ok("GET", index["paths"]["apis/example.dev/v1"]["serverRelativeURL"])

    [schema] = [
        s
        for s in document["components"]["schemas"].values()
        if {"group": "example.dev", "kind": "Widget", "version": "v1"} in s.get("x-kubernetes-group-version-kind", ())
    ]
    assert schema["properties"]["spec"]["properties"]["size"]["description"] == "How large it is, in millimetres."
    [operation] = [path["patch"] for path in document["paths"].values()]
    assert {"dryRun", "fieldValidation"} <= {parameter["name"] for parameter in operation["parameters"]}


async def test_the_hash_changes_with_the_schema(api: HttpApi) -> None:
    before = (await api.ok("GET", "/openapi/v3"))["paths"]
    path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.dev"
    definition = await api.ok("GET", path)
    definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["description"] = "Something else."
    await api.ok("PUT", path, definition)

    after = (await api.ok("GET", "/openapi/v3"))["paths"]

    assert after["apis/example.dev/v1"] != before["apis/example.dev/v1"]
    assert after["api/v1"] == before["api/v1"]


@pytest.mark.parametrize("path", ["/healthz", "/livez", "/readyz", "/readyz/ping"])
async def test_it_is_healthy(api: HttpApi, path: str) -> None:
    answer = await api("GET", path)

    assert (answer.status, answer.text) == (200, "ok")


async def test_the_version_says_that_this_is_an_emulator(api: HttpApi) -> None:
    version = await api.ok("GET", "/version")

    assert (version["major"], version["minor"]) == ("1", "32")
    assert version["gitVersion"].endswith("+sftjob-sandbox")


@pytest.mark.parametrize(
    "path",
    [
        "/nowhere",
        "/api/v2",
        "/apis/nowhere.dev",
        "/apis/nowhere.dev/v1",
        "/api/v1/nonsense",
        "/apis/example.dev/v2/widgets",
        f"{WIDGETS}/one/scale/deep",
        f"{CONFIG_MAPS}/one/status",
        "/api/v1/namespaces/default/nodes",
        "/openapi/v3/apis/nowhere.dev/v1",
    ],
)
async def test_what_is_not_served_is_not_found(api: HttpApi, path: str) -> None:
    answer = await api("GET", path)

    assert (answer.status, answer.text) in [(404, "404 page not found\n"), (501, answer.text)]


@pytest.mark.parametrize(("method", "path", "subresource"), [
    ("POST", f"{PODS}/one/exec", "pods/exec"),
    ("GET", f"{PODS}/one/portforward", "pods/portforward"),
    ("POST", f"{PODS}/one/eviction", "pods/eviction"),
    ("GET", f"{WIDGETS}/one/scale", "widgets/scale"),
    ("PUT", "/api/v1/namespaces/default/finalize", "namespaces/finalize"),
])  # fmt: skip
async def test_what_a_real_server_has_and_this_one_has_not_is_said(
    api: HttpApi, method: str, path: str, subresource: str
) -> None:
    await api.ok("POST", PODS, pod())

    text = f"this emulator does not implement {subresource}"
    assert (await api(method, path, {})).refusal == (501, "NotImplemented", text)


@pytest.mark.parametrize(
    ("method", "path", "verb", "resource"),
    [
        ("POST", f"{PODS}/one", "create", "pods"),
        ("PUT", PODS, "update", "pods"),
        ("PATCH", WIDGETS, "patch", "widgets.example.dev"),
        ("POST", "/api/v1/pods", "create", "pods"),
        ("DELETE", "/api/v1/namespaces", "deletecollection", "namespaces"),
        ("POST", f"{WIDGETS}/one/status", "create", "widgets.example.dev"),
        ("DELETE", f"{PODS}/one/log", "delete", "pods"),
    ],
)
async def test_a_verb_that_does_not_fit_is_not_allowed(
    api: HttpApi, method: str, path: str, verb: str, resource: str
) -> None:
    text = f'{verb} is not supported on resources of kind "{resource}"'

    assert (await api(method, path, {})).refusal == (405, "MethodNotAllowed", text)


async def test_paths_of_documents_can_only_be_read(api: HttpApi) -> None:
    assert (await api("POST", "/version", {})).status == 405


@pytest.mark.parametrize("content_type", ["text/plain", "application/cbor"])
async def test_an_unknown_media_type_is_refused(api: HttpApi, content_type: str) -> None:
    refused = await api("POST", CONFIG_MAPS, config_map(), headers={"Content-Type": content_type})

    assert refused.refusal[:2] == (415, "UnsupportedMediaType")


@pytest.mark.parametrize("body", [b"{", b"[]", b"null", b'{"a": NaN}', b"\xff"])
async def test_nonsense_is_refused(api: HttpApi, body: bytes) -> None:
    assert (await api("POST", CONFIG_MAPS, body)).refusal[:2] == (400, "BadRequest")
