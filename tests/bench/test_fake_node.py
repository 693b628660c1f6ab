import asyncio

import pytest

from bench.operator.fake_node import play
from sftjob_contract.names import LABEL_ATTEMPT, LABEL_JOB, LABEL_STAGE, Stage
from sftjob_sandbox.apimachinery.objects import Object, name_of, namespace_of, uid_of
from sftjob_sandbox.cluster.store import Store
from support.clients.http_api import RUNS_ONCE
from support.clients.wait import eventually

PACE = 0.02
TURNS = 10


def a_train_pod(name: str) -> Object:
    labels = {LABEL_JOB: name, LABEL_STAGE: Stage.TRAIN.value, LABEL_ATTEMPT: "1"}
    spec = {"containers": [{"name": "trainer", "image": "any"}], **RUNS_ONCE}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}


@pytest.mark.parametrize("there_is_another", [False, True], ids=["deleted", "replaced"])
async def test_a_pod_that_is_deleted_before_it_starts_ends_nothing_else(there_is_another: bool) -> None:
    store = Store(ca="")
    store.create({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "default"}})
    node = asyncio.create_task(play(store, PACE))
    pod = store.create(a_train_pod("gone"))
    for _ in range(TURNS):
        await asyncio.sleep(0)  # the node sees it
    store.finalize_pod(namespace_of(pod), name_of(pod), uid_of(pod))
    if there_is_another:
        store.create(a_train_pod("gone"))
    store.create(a_train_pod("stays"))

    async def has_succeeded() -> bool:
        assert not node.done(), node.exception()
        return store.get("pods", "default", "stays")["status"].get("phase") == "Succeeded"

    await eventually(has_succeeded, "the node plays no more")
    node.cancel()
