"""A job that is created again under the name of a deleted one inherits nothing, even if the deletion was missed."""

import logging

import pytest

from sftjob_contract.names import KIND, Stage
from sftjob_operator.effects.cluster import ConflictError, UnavailableError
from sftjob_operator.progress.identity import PodIdentity
from support.fakes.fake_cluster import World, an_outcome, ended, running
from support.fakes.progress import a_progress
from support.jobs.builders import a_job

KEY = ("team", "demo")


async def training(world: World, uid: str) -> None:
    """A job of this uid whose first train Pod runs."""
    await world.apply(a_job().meta(uid=uid))
    await world.pod("demo-prepare-1", running())
    await world.pod("demo-prepare-1", ended(0, an_outcome(Stage.PREPARE)))
    await world.pod("demo-train-1", running(seconds=world.clock.elapsed))


def deleted_without_a_word(world: World) -> None:
    """The job and its children go, and no watch tells of it."""
    for kind, namespace, name in tuple(world.cluster.objects):
        world.cluster.remove(kind, namespace, name)
    world.cluster.undelivered.clear()


async def test_a_report_of_the_job_before_is_not_the_report_of_its_successor() -> None:
    world = World()
    await training(world, "uid-a")
    world.controller.report(KEY, a_progress(95, 1))
    await world.settle()
    assert world.status(KEY)["progress"]["step"] == 95
    deleted_without_a_word(world)
    world.clock.advance(7200)
    await training(world, "uid-b")
    await world.pass_time(600)
    assert world.controller.newest_progress(KEY) is None
    assert "progress" not in world.status(KEY)
    assert world.status(KEY)["phase"] == "Running"
    assert world.live_train_pods() == ["demo-train-1"]


async def test_the_last_word_of_a_pod_of_the_job_before_is_not_its_successors() -> None:
    world = World()
    await training(world, "uid-a")
    words = ended(0, an_outcome(Stage.TRAIN), seconds=5)
    world.set_pod("demo-train-1", words)
    body = world.cluster.objects["Pod", "team", "demo-train-1"]
    deleted_without_a_word(world)
    world.controller.pod_gone({**body, "metadata": {**body["metadata"], "resourceVersion": "999999"}})
    await training(world, "uid-b")
    await world.pass_time(60)
    assert world.status(KEY)["phase"] == "Running"


async def test_a_late_deletion_of_the_job_before_takes_nothing_from_its_successor() -> None:
    world = World()
    await training(world, "uid-a")
    before = world.cluster.objects[KIND, *KEY]
    deleted_without_a_word(world)
    await training(world, "uid-b")
    world.controller.report(KEY, a_progress(7, 1))
    world.controller.job_gone(before)
    newest = world.controller.newest_progress(KEY)
    assert newest is not None
    assert newest.step == 7
    (pod,) = [body for (kind, _, name), body in world.cluster.objects.items() if name == "demo-train-1"]
    identity = PodIdentity(namespace="team", name="demo-train-1", uid=pod["metadata"]["uid"])
    assert world.controller.training_attempt(KEY, identity) == 1


async def test_a_new_job_does_not_wait_for_the_write_pace_or_the_retries_of_the_one_before() -> None:
    world = World()
    for _ in range(8):
        world.cluster.fail("create", "PersistentVolumeClaim", UnavailableError("down"))
    await world.apply(a_job().meta(uid="uid-a"))
    for _ in range(7):
        await world.pass_time(300)
    deleted_without_a_word(world)
    world.cluster.fail("create", "PersistentVolumeClaim", UnavailableError("down"))
    await world.apply(a_job().meta(uid="uid-b"))
    await world.pass_time(1)
    assert world.pods() == ["demo-prepare-1"]


async def test_a_pod_of_the_job_before_that_only_a_watch_still_knows_is_not_taken_for_the_successors() -> None:
    world = World()
    await training(world, "uid-a")
    deleted_without_a_word(world)
    await world.apply(a_job().meta(uid="uid-b"))
    await world.pass_time(1)
    assert world.pods() == ["demo-prepare-1"]
    assert world.controller.newest_pod("team/demo") == (1, "demo-prepare-1")


async def test_what_is_remembered_of_jobs_that_are_gone_goes_with_the_next_listing() -> None:
    world = World()
    await training(world, "uid-a")
    world.controller.report(KEY, a_progress(95, 1))
    await world.settle()
    deleted_without_a_word(world)
    await world.controller.resync()
    await world.settle()
    assert world.controller._reports._reports == {}
    assert len(world.controller._write_rate) == 0
    assert world.controller._cache._final_states == {}


async def test_a_write_for_the_job_before_never_lands_in_its_successor() -> None:
    world = World()
    await training(world, "uid-a")
    deleted_without_a_word(world)
    job = a_job().meta(uid="uid-b").body()
    world.cluster.store(job, "ADDED")
    world.cluster.undelivered.clear()
    world.cluster.fail("patch", KIND, ConflictError("the object has been modified"))
    world.controller.report(KEY, a_progress(95, 1))
    await world.settle()
    assert world.status(KEY).get("progress") is None
    assert world.status(KEY)["phase"] == "Pending"


async def test_a_failure_is_logged_once_for_each_wait_however_often_the_job_is_woken(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    await training(world, "uid-a")
    for _ in range(1000):
        world.cluster.fail("patch", KIND, UnavailableError("connection refused"))
    caplog.clear()
    caplog.set_level(logging.WARNING)
    for second in range(600):
        world.controller.report(KEY, a_progress(second % 100, 1))
        world.controller.queue.add(KEY)
        await world.pass_time(1)
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 10, told
    assert told[-1] == "connection refused; retrying in 300 s"
