"""A claim that is deleted while Pods of other jobs mount it: who holds it is told, and what has ended lets it go."""

from typing import Any

import pytest

from sftjob_contract.names import Stage
from support.fakes.fake_cluster import World, an_outcome, ended, moment, running
from support.jobs.builders import a_job

QUICKSTART = ("team", "quickstart")


def condition(world: World) -> tuple[str, str]:
    (found,) = [c for c in world.status(QUICKSTART)["conditions"] if c["type"] == "Prepared"]
    return found["reason"], found["message"]


async def a_reader(world: World, name: str, status: dict[str, Any]) -> None:
    """A job that reads the claim of the quickstart."""
    await world.apply(a_job(name).model("pvc://quickstart/model").meta(uid=f"uid-of-{name}"))
    await world.pod(f"{name}-prepare-1", status)


def a_deleted_claim(world: World) -> None:
    owner = {"kind": "SFTJob", "name": "quickstart", "uid": "earlier", "controller": True}
    metadata = {"name": "quickstart", "namespace": "team", "uid": "claim-1", "ownerReferences": [owner]}
    body = {
        "apiVersion": "v1",
        "kind": "PersistentVolumeClaim",
        "metadata": metadata | {"deletionTimestamp": moment(0)},
    }
    world.cluster.store(body, "ADDED")


async def test_completed_pods_of_ended_jobs_give_the_claims_of_others_free() -> None:
    world = World()
    a_deleted_claim(world)
    await a_reader(world, "lora", ended(65, an_outcome(Stage.PREPARE, 65)))
    assert world.status(("team", "lora"))["phase"] == "Failed"
    await world.apply(a_job("quickstart"))
    reason, message = condition(world)
    assert reason == "NameConflict"
    assert "SFTJob is being deleted. No running Pod mounts it" in message
    assert "lora-prepare-1" not in world.pods()
    world.cluster.remove("PersistentVolumeClaim", "team", "quickstart")
    await world.pass_time(10)
    assert "quickstart-prepare-1" in world.pods()


@pytest.mark.parametrize("status", [running(), ended(137)], ids=["it runs", "its job goes on"])
async def test_pods_of_jobs_that_have_not_ended_are_named_and_left_alone(status: dict[str, Any]) -> None:
    world = World()
    a_deleted_claim(world)
    await a_reader(world, "lora", status)
    await world.apply(a_job("quickstart"))
    reason, message = condition(world)
    assert reason == "NameConflict"
    assert "It is mounted by: lora-prepare-1" in message
    assert "kubectl delete pod -n team lora-prepare-1" in message
    assert "lora-prepare-1" in world.pods()


async def test_completed_pods_stay_where_no_claim_waits_for_them() -> None:
    world = World()
    await a_reader(world, "lora", ended(65, an_outcome(Stage.PREPARE, 65)))
    await world.apply(a_job("quickstart"))
    assert "lora-prepare-1" in world.pods()
