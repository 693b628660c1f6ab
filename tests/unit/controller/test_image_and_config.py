"""Each attempt has the image and the run config of the operator that creates it."""

import hashlib
from typing import Any

import pytest

from sftjob_contract.names import ANNOTATION_CONFIG_HASH, CONFIG_KEY, ENV_CONFIG_HASH, Stage
from support.fakes.fake_cluster import World, an_outcome, ended, running
from support.jobs.builders import JobBuilder, a_command, a_job

CONFIG_MAP = ("ConfigMap", "team", "demo-config")
OF_THE_PREVIOUS_OPERATOR = '{"version":1}'
RETRIES = a_job().set("failurePolicy.backoffSeconds", 0)


async def prepare(world: World) -> None:
    await world.pod("demo-prepare-1", running())
    await world.pod("demo-prepare-1", ended(0, an_outcome(Stage.PREPARE)))


async def upgrade(world: World) -> str:
    """The operator is replaced by this one, whose predecessor rendered another run config; that of this one."""
    stored = world.cluster.objects[CONFIG_MAP]
    rendered = str(stored["data"][CONFIG_KEY])
    data = {**stored["data"], CONFIG_KEY: OF_THE_PREVIOUS_OPERATOR}
    world.cluster.store({**stored, "data": data}, "MODIFIED")
    await world.restart_operator()
    return rendered


def config_of(world: World) -> str:
    return str(world.cluster.objects[CONFIG_MAP]["data"][CONFIG_KEY])


def hash_of(world: World, pod: str) -> str:
    (container,) = world.cluster.objects["Pod", "team", pod]["spec"]["containers"]
    return next(str(entry["value"]) for entry in container["env"] if entry["name"] == ENV_CONFIG_HASH)


@pytest.mark.parametrize(
    ("last", "following"),
    [("demo-prepare-1", "demo-prepare-2"), ("demo-train-1", "demo-train-2")],
    ids=["Prepare again", "Train again"],
)
async def test_the_attempt_after_an_upgrade_gets_the_run_config_of_its_image(last: str, following: str) -> None:
    world = World()
    await world.apply(RETRIES)
    if last == "demo-train-1":
        await prepare(world)
    await world.pod(last, running())
    rendered = await upgrade(world)
    assert config_of(world) == OF_THE_PREVIOUS_OPERATOR  # the Pod that runs keeps what it was created with
    await world.pod(last, ended(70, seconds=1))
    await world.pass_time(60)
    assert following in world.pods()
    assert config_of(world) == rendered
    digest = hashlib.sha256(rendered.encode()).hexdigest()
    assert world.cluster.objects[CONFIG_MAP]["metadata"]["annotations"][ANNOTATION_CONFIG_HASH] == digest
    assert hash_of(world, following) == digest


async def test_the_first_train_pod_after_an_upgrade_gets_the_run_config_of_its_image() -> None:
    world = World()
    await world.apply(a_job())
    rendered = await upgrade(world)
    await prepare(world)
    assert "demo-train-1" in world.pods()
    assert config_of(world) == rendered


@pytest.mark.parametrize("job", [RETRIES, a_command().set("failurePolicy.backoffSeconds", 0)])
async def test_a_deleted_config_map_is_created_again_by_the_next_attempt(job: JobBuilder) -> None:
    world = World()
    await world.apply(job)
    if "demo-prepare-1" in world.pods():
        await prepare(world)
    await world.pod("demo-train-1", running())
    before: Any = world.cluster.objects[CONFIG_MAP]["data"]
    world.cluster.remove(*CONFIG_MAP)
    await world.pod("demo-train-1", ended(70, seconds=1))
    await world.pass_time(60)
    assert "demo-train-2" in world.pods()
    assert world.cluster.objects[CONFIG_MAP]["data"] == before


async def test_pods_that_are_created_later_do_not_change_the_run_config_of_those_that_run() -> None:
    world = World()
    await world.apply(a_job().resources(nodes=2).storage(access_modes=["ReadWriteMany"]))
    await prepare(world)
    world.cluster.remove("Pod", "team", "demo-train-1-1")  # as if the operator had died before it created this one
    await upgrade(world)
    assert world.pods() == ["demo-prepare-1", "demo-train-1-0", "demo-train-1-1"]
    assert config_of(world) == OF_THE_PREVIOUS_OPERATOR
