"""Lists: selectors, pages, tables."""

from dataclasses import replace
from typing import Any

import pytest

from sftjob_sandbox.http.table import Tabulator
from sftjob_sandbox.sandbox import Sandbox
from support.clients.http_api import CONFIG_MAPS, PODS, TABLE, WIDGETS, HttpApi, config_map, pod, widget


def _names(items: Any) -> list[str]:
    return [item["metadata"]["name"] for item in items["items"]]


async def _make(api: HttpApi, *names: str) -> None:
    for name in names:
        body = widget(name)
        body["metadata"]["labels"] = {"letter": name}
        await api.ok("POST", WIDGETS, body)


async def test_a_list_is_ordered_by_name_and_says_its_version(api: HttpApi, sandbox: Sandbox) -> None:
    await _make(api, "b", "a", "c")

    listed = await api.ok("GET", WIDGETS)

    assert (listed["kind"], listed["apiVersion"], _names(listed)) == ("WidgetList", "example.dev/v1", ["a", "b", "c"])
    assert listed["metadata"] == {"resourceVersion": str(sandbox.store.storage.revision)}
    assert listed["items"][0]["kind"] == "Widget"


async def test_items_of_built_in_kinds_do_not_repeat_their_kind(api: HttpApi) -> None:
    await api.ok("POST", CONFIG_MAPS, config_map())

    assert all("kind" not in item for item in (await api.ok("GET", CONFIG_MAPS))["items"])


async def test_a_list_of_all_namespaces(api: HttpApi) -> None:
    listed = await api.ok("GET", "/api/v1/serviceaccounts")

    assert [(i["metadata"]["namespace"], i["metadata"]["name"]) for i in listed["items"]] == [
        ("default", "default"),
        ("kube-system", "default"),
    ]


@pytest.mark.parametrize(
    ("query", "names"),
    [
        ("labelSelector=letter=a", ["a"]),
        ("labelSelector=letter in (a,c)", ["a", "c"]),
        ("labelSelector=letter!=a", ["b", "c"]),
        ("labelSelector=!letter", []),
        ("fieldSelector=metadata.name=b", ["b"]),
        ("fieldSelector=metadata.name!=b", ["a", "c"]),
    ],
)
async def test_selectors_choose(api: HttpApi, query: str, names: list[str]) -> None:
    await _make(api, "a", "b", "c")

    assert _names(await api.ok("GET", f"{WIDGETS}?{query}")) == names


async def test_an_unknown_field_can_not_select(api: HttpApi) -> None:
    refused = await api("GET", f"{WIDGETS}?fieldSelector=spec.size=3")

    assert refused.refusal == (400, "BadRequest", "field label not supported: spec.size")


async def test_pages_show_the_state_of_the_first_whatever_changes_meanwhile(api: HttpApi) -> None:
    await _make(api, "a", "b", "c", "d")

    first = await api.ok("GET", f"{WIDGETS}?limit=2")
    await api.ok("DELETE", f"{WIDGETS}/c")
    changed = {**(await api.ok("GET", f"{WIDGETS}/d")), "spec": {"size": 7}}
    await api.ok("PUT", f"{WIDGETS}/d", changed)
    await _make(api, "e")
    second = await api.ok("GET", f"{WIDGETS}?limit=1&continue={first['metadata']['continue']}")
    third = await api.ok("GET", f"{WIDGETS}?limit=1&continue={second['metadata']['continue']}")

    assert (_names(first), first["metadata"]["remainingItemCount"]) == (["a", "b"], 2)
    assert (_names(second), second["metadata"]["remainingItemCount"]) == (["c"], 1)
    assert [(item["metadata"]["name"], item["spec"]["size"]) for item in third["items"]] == [("d", 3)]
    assert third["metadata"] == {"resourceVersion": first["metadata"]["resourceVersion"]}


async def test_a_table_comes_in_pages_too(api: HttpApi) -> None:
    await _make(api, "a", "b")

    first = await api.ok("GET", f"{WIDGETS}?limit=1", headers=TABLE)
    second = await api.ok("GET", f"{WIDGETS}?continue={first['metadata']['continue']}", headers=TABLE)

    assert [[row["cells"][0] for row in table["rows"]] for table in (first, second)] == [["a"], ["b"]]


async def test_pages_of_all_namespaces_go_on_in_the_next_one(api: HttpApi) -> None:
    first = await api.ok("GET", "/api/v1/serviceaccounts?limit=1")
    second = await api.ok("GET", f"/api/v1/serviceaccounts?limit=1&continue={first['metadata']['continue']}")

    assert [page["items"][0]["metadata"]["namespace"] for page in (first, second)] == ["default", "kube-system"]
    assert "continue" not in second["metadata"]


async def test_nobody_counts_the_rest_of_a_selection(api: HttpApi) -> None:
    await _make(api, "a", "b", "c")

    listed = await api.ok("GET", f"{WIDGETS}?limit=1&labelSelector=letter!=a")

    assert _names(listed) == ["b"]
    assert listed["metadata"].keys() == {"resourceVersion", "continue"}


async def test_version_zero_is_the_whole_list_from_the_cache(api: HttpApi) -> None:
    await _make(api, "a", "b")

    assert _names(await api.ok("GET", f"{WIDGETS}?limit=1&resourceVersion=0")) == ["a", "b"]


async def test_a_continue_token_that_is_too_old_has_expired(api: HttpApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sftjob_sandbox.storage.collections.HISTORY_LIMIT", 2)
    await _make(api, "a", "b", "c")
    first = await api.ok("GET", f"{WIDGETS}?limit=1")
    await _make(api, "d", "e", "f", "g", "h")

    refused = await api("GET", f"{WIDGETS}?limit=1&continue={first['metadata']['continue']}")

    text = (
        "The provided continue parameter is too old to display a consistent list result. You can start a new list "
        "without the continue parameter."
    )
    assert refused.refusal == (410, "Expired", text)


async def test_a_continue_token_goes_with_no_version(api: HttpApi) -> None:
    await _make(api, "a", "b")
    token = (await api.ok("GET", f"{WIDGETS}?limit=1"))["metadata"]["continue"]

    refused = await api("GET", f"{WIDGETS}?resourceVersion=1&continue={token}")

    text = "specifying resource version is not allowed when using continue"
    assert refused.refusal == (400, "BadRequest", text)


@pytest.mark.parametrize(
    ("query", "code", "reason"),
    [
        ("resourceVersion=9999999999999", 504, "Timeout"),
        ("resourceVersion=abc", 400, "BadRequest"),
        ("continue=abc", 400, "BadRequest"),
        ("continue=e30", 400, "BadRequest"),
        ("limit=abc", 400, "BadRequest"),
        ("resourceVersionMatch=Exact", 422, "Invalid"),
        ("resourceVersion=1&resourceVersionMatch=About", 422, "Invalid"),
        ("sendInitialEvents=true", 422, "Invalid"),
    ],
)
async def test_refused_is_a_list_with(api: HttpApi, query: str, code: int, reason: str) -> None:
    assert (await api("GET", f"{WIDGETS}?{query}")).refusal[:2] == (code, reason)


async def test_a_table_has_the_columns_of_the_definition(api: HttpApi) -> None:
    created = await api.ok("POST", WIDGETS, widget())
    ready = {**created, "status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    await api.ok("PUT", f"{WIDGETS}/one/status", ready)

    table = await api.ok("GET", WIDGETS, headers=TABLE)

    columns = [(c["name"], c["type"], c["priority"]) for c in table["columnDefinitions"]]
    assert columns == [
        ("Name", "string", 0),
        ("Size", "integer", 0),
        ("Ready", "string", 0),
        ("Color", "string", 1),
        ("Age", "date", 0),
    ]
    assert table["columnDefinitions"][1]["description"] == "How large it is."
    assert table["rows"][0]["cells"][:4] == ["one", 3, "True", "green"]
    assert table["rows"][0]["object"]["kind"] == "PartialObjectMetadata"


async def test_a_value_that_is_missing_leaves_its_cell_empty(api: HttpApi) -> None:
    await api.ok("POST", WIDGETS, widget())

    table = await api.ok("GET", f"{WIDGETS}/one?includeObject=None", headers=TABLE)

    assert table["rows"][0]["cells"][2] is None
    assert "object" not in table["rows"][0]


async def test_a_column_that_can_not_be_read_ends_the_columns(sandbox: Sandbox) -> None:
    resource = sandbox.store.catalog.resources["widgets.example.dev"]
    columns = [{"name": name, "type": "string", "jsonPath": path} for name, path in (("A", ".spec"), ("B", ".a[?(x)]"))]
    version = replace(resource.versions[0], columns=tuple(columns))

    table = Tabulator(resource, version).table([], {}, sandbox.store.clock())

    assert [column["name"] for column in table["columnDefinitions"]] == ["Name", "A"]


def _waiting(reason: str) -> dict[str, Any]:
    return {"state": {"waiting": {"reason": reason}}}


POD_STATES: dict[str, tuple[dict[str, Any], list[str]]] = {
    "new": ({"phase": "Pending"}, ["0/1", "Pending", "0"]),
    "pulling": ({"phase": "Pending", "containerStatuses": [_waiting("ErrImagePull")]}, ["0/1", "ErrImagePull", "0"]),
    "running": (
        {"phase": "Running", "containerStatuses": [{"ready": True, "state": {"running": {}}, "restartCount": 0}]},
        ["1/1", "Running", "0"],
    ),
    "done": (
        {
            "phase": "Succeeded",
            "containerStatuses": [{"state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}],
        },
        ["0/1", "Completed", "0"],
    ),
    "failed": (
        {"phase": "Failed", "containerStatuses": [{"state": {"terminated": {"exitCode": 65, "reason": "Error"}}}]},
        ["0/1", "Error", "0"],
    ),
    "evicted": ({"phase": "Failed", "reason": "Evicted"}, ["0/1", "Evicted", "0"]),
}


@pytest.mark.parametrize("state", POD_STATES)
async def test_a_pods_row_says_how_it_is(api: HttpApi, sandbox: Sandbox, state: str) -> None:
    status, cells = POD_STATES[state]
    created = await api.ok("POST", PODS, pod())
    told = [{"name": "main", "image": "", "imageID": "", "ready": False, "restartCount": 0}]
    status = {
        key: [{**told[0], **value[0]}] if key.endswith("ContainerStatuses") or key == "containerStatuses" else value
        for key, value in status.items()
    }
    sandbox.store.writer.amend("pods", ("default", "one"), {**created, "status": status})

    table = await api.ok("GET", f"{PODS}/one", headers=TABLE)

    assert table["rows"][0]["cells"][1:4] == cells


async def test_only_plain_json_and_tables_can_be_had(api: HttpApi) -> None:
    refused = await api("GET", WIDGETS, headers={"Accept": "application/cbor"})

    assert refused.refusal == (
        406,
        "NotAcceptable",
        "only the following media types are accepted: application/json",
    )
