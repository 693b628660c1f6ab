"""Creating what may exist and deleting what may be gone."""

from typing import Any

import pytest

from sftjob_operator.effects.children import ensure, find, remove
from sftjob_operator.effects.cluster import UnavailableError
from support.fake_cluster import FakeCluster

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
