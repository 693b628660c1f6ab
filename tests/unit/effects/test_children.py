"""Creating what may exist and deleting what may be gone."""

from typing import Any

import pytest

from sftjob_operator.effects.children import ensure, find, publish, remove
from sftjob_operator.effects.cluster import ConflictError, UnavailableError
from support.fakes.fake_cluster import FakeCluster

BODY = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a", "namespace": "team"}}


async def removed(cluster: FakeCluster, uid: str) -> None:
    await remove(cluster, "ConfigMap", "team", "a", uid)


async def test_an_object_is_created_once() -> None:
    cluster = FakeCluster()
    first, second = await ensure(cluster, BODY), await ensure(cluster, BODY)
    assert (first.existed, second.existed) == (False, True)
    assert first.body == second.body


async def test_an_object_is_deleted_once() -> None:
    cluster = FakeCluster()
    uid = (await ensure(cluster, BODY)).body["metadata"]["uid"]
    await removed(cluster, uid)
    await removed(cluster, uid)
    assert await find(cluster, "ConfigMap", "team", "a") is None


async def test_another_object_of_the_same_name_is_left_alone() -> None:
    cluster = FakeCluster()
    uid = (await ensure(cluster, BODY)).body["metadata"]["uid"]
    await removed(cluster, uid)
    second = (await ensure(cluster, BODY)).body
    await removed(cluster, uid)
    assert await find(cluster, "ConfigMap", "team", "a") == second


@pytest.mark.parametrize("call", [removed, lambda cluster, _: find(cluster, "ConfigMap", "team", "a")])
async def test_a_server_that_is_away_is_not_taken_for_an_object_that_is_gone(call: Any) -> None:
    cluster = FakeCluster()
    cluster.fail("delete", "ConfigMap", UnavailableError("down"))
    cluster.fail("get", "ConfigMap", UnavailableError("down"))
    with pytest.raises(UnavailableError):
        await call(cluster, "uid")


def a_config(data: dict[str, str], owner: str = "job", **annotations: str) -> dict[str, Any]:
    metadata = {"name": "a", "namespace": "team", "annotations": annotations, "ownerReferences": [{"uid": owner}]}
    return {**BODY, "metadata": metadata, "data": data}


@pytest.mark.parametrize("expected", [False, True])
async def test_a_config_map_of_the_same_owner_is_brought_up_to_date(expected: bool) -> None:
    cluster = FakeCluster()
    await ensure(cluster, a_config({"config": "old", "ca": "CA"}, hash="old", mine="kept"))
    ensured = await ensure(cluster, a_config({"config": "new"}, hash="new"), expected=expected)
    assert (ensured.existed, ensured.body["data"]) == (True, {"config": "new", "ca": "CA"})
    assert ensured.body["metadata"]["annotations"] == {"hash": "new", "mine": "kept"}
    assert await find(cluster, "ConfigMap", "team", "a") == ensured.body


@pytest.mark.parametrize("owner", ["job", "other"])
async def test_a_config_map_is_not_written_if_it_is_the_same_or_of_another_owner(owner: str) -> None:
    cluster = FakeCluster()
    before = (await ensure(cluster, a_config({"config": "old"}))).body
    after = (await ensure(cluster, a_config({"config": "old" if owner == "job" else "new"}, owner), expected=True)).body
    assert after == before
    assert [request.verb for request in cluster.requests] == ["create", "get"]


async def test_a_config_map_that_is_gone_is_created_again() -> None:
    cluster = FakeCluster()
    assert not (await ensure(cluster, a_config({"config": "new"}), expected=True)).existed


async def test_a_config_map_that_changed_since_it_was_read_is_not_overwritten() -> None:
    cluster = FakeCluster()
    read = (await ensure(cluster, a_config({"ca": "old"}))).body
    await publish(cluster, read, {"ca": "by another"})
    with pytest.raises(ConflictError):
        await publish(cluster, read, {"ca": "new"})
