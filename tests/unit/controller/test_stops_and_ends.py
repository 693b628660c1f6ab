"""The controller against an in-memory cluster: suspension, deadline, time to live, and claims that outlive a job."""

from typing import Any

import pytest

from sftjob_contract.names import KIND, Stage
from sftjob_contract.reports.progress import Activity
from sftjob_operator.effects.cluster import UnavailableError
from support.fakes.fake_cluster import World, an_outcome, ended, gated, running, unschedulable
from support.fakes.progress import a_progress
from support.jobs.builders import JobBuilder, a_job

KEY = ("team", "demo")


def saved(step: int) -> dict[str, Any]:
    """Status of a trainer's Pod that was asked to stop."""
    progress = a_progress(step, activity=Activity.SAVING)
    return ended(75, an_outcome(Stage.TRAIN, 75, reason="Interrupted", message="Stopped.", progress=progress))


async def prepared(world: World, job: JobBuilder) -> None:
    await world.apply(job)
    await world.pod("demo-prepare-1", running())
    await world.pod("demo-prepare-1", ended(0, an_outcome(Stage.PREPARE)))


async def training(world: World, job: JobBuilder) -> None:
    await prepared(world, job)
    await world.pod("demo-train-1", running())


def condition(world: World, type_: str) -> dict[str, str]:
    (found,) = [c for c in world.status(KEY)["conditions"] if c["type"] == type_]
    return found


def deleted(world: World) -> list[str]:
    return [f"{request.kind}/{request.name}" for request in world.requests("delete")]


async def test_a_job_that_is_created_suspended_creates_nothing_until_it_is_resumed() -> None:
    world = World()
    await world.apply(a_job().set("suspend", True))
    assert world.status(KEY)["phase"] == "Suspended"
    assert world.kinds() == []
    await world.change(KEY, suspend=False)
    assert world.kinds() == ["ConfigMap", "PersistentVolumeClaim", "Pod"]
    assert world.status(KEY)["phase"] == "Pending"


async def test_a_running_job_is_suspended_and_goes_on_in_a_new_pod() -> None:
    world = World()
    await training(world, a_job().failure_policy(max_retries=0, backoff_seconds=600))
    await world.change(KEY, suspend=True)
    assert deleted(world) == ["Pod/demo-train-1"]
    assert (world.status(KEY)["phase"], condition(world, "Running")["reason"]) == ("Running", "Stopping")
    await world.pod_leaves("demo-train-1", saved(40))
    status = world.status(KEY)
    assert (status["phase"], status["progress"]["step"]) == ("Suspended", 40)
    assert (status["attempts"][-1]["reason"], status["attempts"][-1]["reachedStep"]) == ("Suspended", 40)
    assert world.pods() == ["demo-prepare-1"]
    before = len(world.cluster.requests)
    await world.pass_time(100_000)
    assert len(world.cluster.requests) == before
    await world.change(KEY, suspend=False)
    assert world.live_train_pods() == ["demo-train-2"]
    await world.pod("demo-train-2", running())
    await world.pod("demo-train-2", ended(0))
    assert world.status(KEY)["phase"] == "Succeeded"
    assert deleted(world) == ["Pod/demo-train-1"]


async def test_a_job_that_is_resumed_too_soon_waits_for_its_old_pod() -> None:
    world = World()
    await training(world, a_job().failure_policy(max_retries=0))
    await world.change(KEY, suspend=True)
    await world.change(KEY, suspend=False)
    assert world.live_train_pods() == ["demo-train-1"]
    await world.pod_leaves("demo-train-1", ended(137))
    assert world.live_train_pods() == ["demo-train-2"]
    assert world.status(KEY)["attempts"][-2]["reason"] == "Suspended"


async def test_an_operator_that_is_killed_while_it_suspends_goes_on_where_it_was() -> None:
    world = World()
    await training(world, a_job().failure_policy(max_retries=0))
    world.cluster.fail("patch", KIND, UnavailableError("the operator dies here"))
    await world.change(KEY, suspend=True)
    world.cluster.remove("Pod", "team", "demo-train-1")
    await world.restart_operator()
    assert world.status(KEY)["phase"] == "Suspended"
    assert world.status(KEY)["attempts"][-1]["reason"] == "Suspended"


async def test_a_pod_that_waits_is_suspended_at_once() -> None:
    world = World()
    await prepared(world, a_job())
    await world.pod("demo-train-1", unschedulable("0/3 nodes"))
    await world.change(KEY, suspend=True)
    assert world.status(KEY)["phase"] == "Suspended"
    assert world.live_train_pods() == []


async def test_a_pod_that_its_queue_holds_back_is_queued() -> None:
    world = World()
    await prepared(world, a_job().scheduling(queue_name="gpus"))
    await world.pod("demo-train-1", gated())
    assert world.status(KEY)["phase"] == "Queued"
    assert condition(world, "Running")["reason"] == "Queued"
    assert "waits until queue gpus admits it" in condition(world, "Running")["message"]


async def test_the_last_word_of_a_pod_that_is_gone_at_once_is_heard() -> None:
    world = World()
    await training(world, a_job().failure_policy(max_retries=0, backoff_seconds=0))
    await world.pod_leaves("demo-train-1", saved(40))
    entry = world.status(KEY)["attempts"][1]
    assert (entry["reason"], entry["exitCode"], entry["reachedStep"]) == ("Interrupted", 75, 40)
    assert world.live_train_pods() == ["demo-train-2"]


async def test_a_deadline_ends_the_pods_and_then_the_job() -> None:
    world = World()
    await training(world, a_job().set("deadlineSeconds", 300))
    await world.pass_time(299)
    assert deleted(world) == []
    await world.pass_time(1)
    assert deleted(world) == ["Pod/demo-train-1"]
    assert world.status(KEY)["phase"] == "Running"
    await world.pod_leaves("demo-train-1", saved(40))
    assert world.status(KEY)["phase"] == "Failed"
    assert condition(world, "Succeeded")["reason"] == "DeadlineExceeded"
    assert "step 40 of 100" in condition(world, "Succeeded")["message"]
    told = [r.body["reason"] for r in world.requests("create", "Event") if r.body["type"] == "Warning"]
    assert told == ["DeadlineExceeded"]


async def test_a_deadline_may_be_put_off() -> None:
    world = World()
    await training(world, a_job().set("deadlineSeconds", 300))
    await world.pass_time(200)
    await world.change(KEY, deadlineSeconds=600)
    await world.pass_time(399)
    assert deleted(world) == []
    await world.pass_time(1)
    assert deleted(world) == ["Pod/demo-train-1"]


async def test_a_finished_job_is_cleaned_up_after_its_time_to_live_and_never_looked_at_again() -> None:
    world = World()
    await training(world, a_job().set("ttlSecondsAfterFinished", 60))
    await world.pod("demo-train-1", ended(0))
    await world.pass_time(59)
    assert deleted(world) == []
    await world.pass_time(1)
    assert world.kinds() == []
    assert world.status(KEY)["phase"] == "Succeeded"
    assert world.status(KEY)["cleanupTime"] == "2026-03-01T12:01:00Z"
    assert "Its Pods and volume were deleted" in condition(world, "Succeeded")["message"]
    assert [r.name for r in world.requests("get")] == ["demo-config", "demo-config", "demo"]
    before = len(world.cluster.requests)
    await world.pass_time(100_000)
    assert len(world.cluster.requests) == before
    await world.restart_operator()
    assert {r.verb for r in world.cluster.requests[before:]} == {"list"}
    assert world.controller._cache.pods.jobs() == ()


@pytest.mark.parametrize("late", [False, True], ids=["already set", "set later"])
async def test_an_operator_that_was_down_cleans_up_what_is_due(late: bool) -> None:
    world = World()
    job = a_job() if late else a_job().set("ttlSecondsAfterFinished", 60)
    await training(world, job)
    await world.pod("demo-train-1", ended(0))
    world.clock.elapsed += 1000
    if late:
        await world.change(KEY, ttlSecondsAfterFinished=60)
    else:
        await world.restart_operator()
    assert world.kinds() == []
    assert "cleanupTime" in world.status(KEY)


async def test_a_clean_up_that_fails_half_way_is_done_again() -> None:
    world = World()
    await training(world, a_job().set("ttlSecondsAfterFinished", 60))
    await world.pod("demo-train-1", ended(0))
    world.cluster.fail("delete", "ConfigMap", UnavailableError("down"))
    await world.pass_time(60)
    assert world.kinds() == []
    assert deleted(world).count("ConfigMap/demo-config") == 2
    assert len([r for r in world.requests("patch") if "cleanupTime" in r.body["status"]]) == 1


async def test_what_belongs_to_another_is_not_cleaned_up() -> None:
    world = World()
    await training(world, a_job().set("ttlSecondsAfterFinished", 60))
    await world.pod("demo-train-1", ended(0))
    world.cluster.remove("PersistentVolumeClaim", *KEY)
    claim = {"kind": "PersistentVolumeClaim", "metadata": {"name": "demo", "namespace": "team", "uid": "another"}}
    world.cluster.store(claim, "ADDED")
    await world.pass_time(60)
    assert world.kinds() == ["PersistentVolumeClaim"]


async def test_a_claim_that_is_retained_stays_and_is_this_jobs_own_only() -> None:
    world = World()
    job = a_job().storage(retain=True).failure_policy(backoff_seconds=0)
    await world.apply(job.set("ttlSecondsAfterFinished", 60))
    await world.pod("demo-prepare-1", ended(137))
    assert world.live_train_pods() == []
    await world.pod("demo-prepare-2", ended(65))
    await world.pass_time(60)
    assert world.kinds() == ["PersistentVolumeClaim"]
    assert "the volume is kept" in condition(world, "Succeeded")["message"]
    world.cluster.remove(KIND, *KEY)
    await world.settle()
    await world.apply(job.meta(uid="another"))
    assert world.kinds() == ["PersistentVolumeClaim"]
    assert condition(world, "Prepared")["reason"] == "NameConflict"
    assert (
        "Delete it, or create a new SFTJob with storage.existingClaim: demo"
        in (condition(world, "Prepared")["message"])
    )


async def test_a_claim_that_is_there_already_is_used_and_not_created() -> None:
    world = World()
    await world.apply(a_job().storage(existing_claim="shared"))
    assert world.kinds() == ["ConfigMap", "Pod"]
    await world.pod("demo-prepare-1", unschedulable('persistentvolumeclaim "shared" not found'))
    await world.pass_time(10)
    assert world.status(KEY)["phase"] == "Pending"
    assert 'persistentvolumeclaim "shared" not found' in condition(world, "Prepared")["message"]
