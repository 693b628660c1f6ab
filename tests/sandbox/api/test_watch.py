"""Watches: what is told from which version on, bookmarks, selections and expiry."""

import pytest

from sftjob_sandbox.sandbox import Sandbox
from support.clients.http_api import CONFIG_MAPS, MERGE, TABLE, WIDGETS, HttpApi, config_map, widget

WATCH = f"{WIDGETS}?watch=true"
LABELLED = {"metadata": {"labels": {"chosen": "yes"}}}


async def test_without_a_version_what_exists_is_told_first(api: HttpApi) -> None:
    await api.ok("POST", WIDGETS, widget("a"))

    async with api.watch(WATCH) as events:
        assert await events.names(1) == [("ADDED", "a")]
        await api.ok("POST", WIDGETS, widget("b"))
        await api.ok("PATCH", f"{WIDGETS}/b", {"spec": {"size": 4}}, MERGE)
        await api.ok("DELETE", f"{WIDGETS}/a")
        assert await events.names(3) == [("ADDED", "b"), ("MODIFIED", "b"), ("DELETED", "a")]


async def test_from_a_version_everything_later_is_told_once(api: HttpApi) -> None:
    first = await api.ok("POST", WIDGETS, widget("a"))
    await api.ok("POST", WIDGETS, widget("b"))
    await api.ok("DELETE", f"{WIDGETS}/b")

    async with api.watch(f"{WATCH}&resourceVersion={first['metadata']['resourceVersion']}") as events:
        assert await events.names(2) == [("ADDED", "b"), ("DELETED", "b")]


async def test_a_watcher_can_resume_where_a_list_ended(api: HttpApi) -> None:
    await api.ok("POST", WIDGETS, widget("a"))
    revision = (await api.ok("GET", WIDGETS))["metadata"]["resourceVersion"]

    async with api.watch(f"{WATCH}&resourceVersion={revision}") as events:
        await api.ok("POST", WIDGETS, widget("b"))
        kind, obj = await events.next()

    assert (kind, obj["metadata"]["name"], obj["kind"], obj["apiVersion"]) == ("ADDED", "b", "Widget", "example.dev/v1")


async def test_a_deleted_object_is_told_in_its_last_state_with_the_version_of_its_end(api: HttpApi) -> None:
    created = await api.ok("POST", WIDGETS, widget())

    async with api.watch(f"{WATCH}&resourceVersion={created['metadata']['resourceVersion']}") as events:
        await api.ok("DELETE", f"{WIDGETS}/one")
        _, obj = await events.next()

    assert obj["spec"] == created["spec"]
    assert int(obj["metadata"]["resourceVersion"]) > int(created["metadata"]["resourceVersion"])


async def test_entering_a_selection_is_added_and_leaving_it_deleted(api: HttpApi) -> None:
    created = await api.ok("POST", WIDGETS, widget())
    version = created["metadata"]["resourceVersion"]

    async with api.watch(f"{WATCH}&labelSelector=chosen&resourceVersion={version}") as events:
        await api.ok("PATCH", f"{WIDGETS}/one", LABELLED, MERGE)
        await api.ok("PATCH", f"{WIDGETS}/one", {"spec": {"size": 4}}, MERGE)
        left = await api.ok("PATCH", f"{WIDGETS}/one", {"metadata": {"labels": None}}, MERGE)
        told = [await events.next() for _ in range(3)]

    assert [kind for kind, _ in told] == ["ADDED", "MODIFIED", "DELETED"]
    assert told[2][1]["metadata"]["labels"] == {"chosen": "yes"}
    assert told[2][1]["metadata"]["resourceVersion"] == left["metadata"]["resourceVersion"]


async def test_one_object_or_namespace_can_be_watched(api: HttpApi) -> None:
    await api.ok("POST", CONFIG_MAPS, config_map("a"))

    async with api.watch(f"{CONFIG_MAPS}?watch=1&fieldSelector=metadata.name=b") as events:
        await api.ok("POST", "/api/v1/namespaces/kube-system/configmaps", config_map("b"))
        await api.ok("POST", CONFIG_MAPS, config_map("b"))
        kind, obj = await events.next()

    assert (kind, obj["metadata"]["namespace"]) == ("ADDED", "default")


async def test_initial_events_end_with_a_bookmark_that_says_so(api: HttpApi) -> None:
    await api.ok("POST", WIDGETS, widget("a"))
    query = "&sendInitialEvents=true&allowWatchBookmarks=true&resourceVersionMatch=NotOlderThan"

    async with api.watch(WATCH + query) as events:
        first, (kind, bookmark) = await events.next(), await events.next()

    assert first[0] == "ADDED"
    assert kind == "BOOKMARK"
    assert bookmark["metadata"]["annotations"] == {"k8s.io/initial-events-end": "true"}
    assert int(bookmark["metadata"]["resourceVersion"]) >= int(first[1]["metadata"]["resourceVersion"])


async def test_initial_events_need_a_match(api: HttpApi) -> None:
    refused = await api("GET", f"{WATCH}&sendInitialEvents=true")

    assert refused.refusal == (
        422,
        "Invalid",
        (
            'ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Forbidden: '
            "sendInitialEvents requires setting resourceVersionMatch to NotOlderThan"
        ),
    )


async def test_a_quiet_watch_is_told_where_it_stands(api: HttpApi, sandbox: Sandbox) -> None:
    version = sandbox.store.storage.revision

    async with api.watch(f"{WATCH}&allowWatchBookmarks=true&resourceVersion={version}") as events:
        await api.ok("POST", CONFIG_MAPS, config_map())
        kind, bookmark = await events.next()
        while int(bookmark["metadata"]["resourceVersion"]) <= version:
            kind, bookmark = await events.next()

    assert (kind, bookmark["kind"]) == ("BOOKMARK", "Widget")
    assert int(bookmark["metadata"]["resourceVersion"]) == sandbox.store.storage.revision


async def test_bookmarks_come_even_when_others_are_busy(api: HttpApi) -> None:
    async with api.watch(f"{WATCH}&allowWatchBookmarks=true&labelSelector=none") as events:
        for number in range(20):
            await api.ok("POST", WIDGETS, widget(f"w{number}"))
        assert (await events.next())[0] == "BOOKMARK"


async def test_a_version_that_is_too_old_has_expired(api: HttpApi, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sftjob_sandbox.storage.collections.HISTORY_LIMIT", 2)
    first = await api.ok("POST", WIDGETS, widget("a"))
    for number in range(6):
        await api.ok("POST", WIDGETS, widget(f"w{number}"))

    async with api.watch(f"{WATCH}&resourceVersion={first['metadata']['resourceVersion']}") as events:
        [(kind, status)] = await events.rest()

    assert (kind, status["code"], status["reason"]) == ("ERROR", 410, "Expired")
    assert status["message"].startswith("too old resource version: ")


async def test_a_version_of_an_earlier_run_has_expired(api: HttpApi) -> None:
    async with api.watch(f"{WATCH}&resourceVersion=5") as events:
        [(kind, status)] = await events.rest()

    assert (kind, status["reason"]) == ("ERROR", "Expired")


async def test_a_watch_ends_after_its_timeout(api: HttpApi) -> None:
    await api.ok("POST", WIDGETS, widget())

    async with api.watch(f"{WATCH}&timeoutSeconds=1") as events:
        assert [kind for kind, _ in await events.rest()] == ["ADDED"]


async def test_a_watched_table_says_its_columns_once(api: HttpApi) -> None:
    await api.ok("POST", WIDGETS, widget())

    async with api.watch(WATCH, TABLE) as events:
        _, first = await events.next()
        await api.ok("PATCH", f"{WIDGETS}/one", {"spec": {"size": 4}}, MERGE)
        _, second = await events.next()

    assert [column["name"] for column in first["columnDefinitions"]] == ["Name", "Size", "Ready", "Color", "Age"]
    assert (second["columnDefinitions"], second["rows"][0]["cells"][1]) == ([], 4)


async def test_an_object_is_encoded_once_for_all_watchers(sandbox: Sandbox, api: HttpApi) -> None:
    await api.ok("POST", WIDGETS, widget())
    entry = sandbox.store.storage.collection("widgets.example.dev").entries["default", "one"]

    assert entry.tail() is entry.tail()


async def test_the_end_of_a_resource_ends_its_watches(api: HttpApi) -> None:
    await api.ok("POST", WIDGETS, widget())

    async with api.watch(WATCH) as events:
        await api.ok("DELETE", "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/widgets.example.dev")
        assert [kind for kind, _ in await events.rest()] == ["ADDED", "DELETED"]
