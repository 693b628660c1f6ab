"""A new CA reaches the jobs that run, and ends none."""

from dataclasses import replace

from sftjob_contract.names import CA_KEY, CONFIG_KEY, Stage
from sftjob_operator.effects.cluster import ForbiddenError
from support.fakes.fake_cluster import SETTINGS, World, an_outcome, ended, running
from support.fakes.progress import a_progress
from support.jobs.builders import a_job

RENEWED = replace(SETTINGS, render=replace(SETTINGS.render, progress_ca="NEW"))


async def training() -> tuple[World, tuple[str, str]]:
    world = World()
    key = await world.apply(a_job())
    await world.pod("demo-prepare-1", ended(0, an_outcome(Stage.PREPARE)))
    await world.pod("demo-train-1", running())
    world.controller.report(key, a_progress(3))
    await world.pass_time(5)
    return world, key


def stored_config(world: World, key: tuple[str, str]) -> dict[str, str]:
    (data,) = [body["data"] for (kind, *_), body in world.cluster.objects.items() if kind == "ConfigMap"]
    return data


async def test_a_renewed_ca_is_written_once_beside_the_run_config_of_the_attempt() -> None:
    world, key = await training()
    before = stored_config(world, key)
    world.controller.use(RENEWED)
    await world.settle()
    assert stored_config(world, key) == {**before, CA_KEY: "NEW"}
    assert CONFIG_KEY in before
    for second in range(5):
        world.controller.report(key, a_progress(4 + second))
        await world.pass_time(60)
    assert len(world.requests("replace", "ConfigMap")) == 1


async def test_an_operator_that_starts_with_another_ca_publishes_it_and_looks_once() -> None:
    world, key = await training()
    await world.restart_operator()
    reads = len(world.requests("get", "ConfigMap"))
    await world.pass_time(1000)
    assert len(world.requests("get", "ConfigMap")) == reads
    assert world.requests("replace", "ConfigMap") == []
    await world.restart_operator()
    world.controller.use(RENEWED)
    await world.settle()
    await world.pass_time(10)
    assert stored_config(world, key)[CA_KEY] == "NEW"
    (told,) = [each for each in world.status(key)["conditions"] if each["type"] == "ProgressReporting"]
    assert "certificate" in told["message"]


async def test_a_ca_that_cannot_be_published_stops_nothing() -> None:
    world, key = await training()
    world.controller.use(RENEWED)
    world.cluster.fail("replace", "ConfigMap", ForbiddenError("no"))
    await world.settle()
    assert stored_config(world, key)[CA_KEY] == "CA"
    world.controller.report(key, a_progress(50))
    await world.pass_time(20)
    assert world.status(key)["progress"]["step"] == 50
    assert stored_config(world, key)[CA_KEY] == "NEW"


async def test_no_job_is_ended_for_its_silence_after_the_ca_changed() -> None:
    world, key = await training()
    world.controller.use(RENEWED)
    await world.pass_time(50_000)
    assert world.pods() == ["demo-prepare-1", "demo-train-1"]
    assert world.requests("delete", "Pod") == []
    assert world.status(key)["phase"] == "Running"
