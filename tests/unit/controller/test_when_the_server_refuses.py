"""Errors of the API server: said, waited out, and never answered with a storm of requests."""

import logging

import pytest

from sftjob_contract.names import KIND
from sftjob_operator.effects.cluster import (
    ClusterError,
    ConflictError,
    ForbiddenError,
    NotFoundError,
    UnavailableError,
)
from support.fakes.fake_cluster import World, running
from support.jobs.builders import a_job

KEY = ("team", "demo")


def condition(world: World, type_: str) -> dict[str, str]:
    (found,) = [c for c in world.status(KEY)["conditions"] if c["type"] == type_]
    return found


def a_config_map(**owner: str) -> dict[str, object]:
    references = [{"kind": KIND, "controller": True, **owner}] if owner else []
    metadata = {"name": "demo-config", "namespace": "team", "ownerReferences": references}
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}


@pytest.mark.parametrize(
    ("error", "wait"),
    [
        (UnavailableError("timeout"), 1),
        (UnavailableError("too many requests", retry_after_seconds=20), 20),
        (ClusterError("something else"), 1),
    ],
)
@pytest.mark.parametrize("verb", ["create", "patch"])
async def test_a_passing_failure_is_tried_again_after_a_wait(verb: str, error: ClusterError, wait: float) -> None:
    world = World()
    world.cluster.fail(verb, "Pod" if verb == "create" else KIND, error)
    await world.apply(a_job())
    assert world.status(KEY) == {}
    await world.pass_time(wait - 0.5)
    assert world.status(KEY) == {}
    await world.pass_time(0.5)
    assert world.status(KEY)["phase"] == "Pending"
    assert world.pods() == ["demo-prepare-1"]


async def test_a_failure_that_stays_is_tried_less_and_less_often() -> None:
    world = World()
    for _ in range(100):
        world.cluster.fail("create", "PersistentVolumeClaim", UnavailableError("down"))
    await world.apply(a_job())
    for _ in range(600):
        await world.pass_time(1)
    assert len(world.requests("create", "PersistentVolumeClaim")) == 10


async def test_a_quota_is_said_in_the_status_and_asked_again_until_there_is_room() -> None:
    world = World()
    for _ in range(3):
        world.cluster.fail("create", "Pod", ForbiddenError("exceeded quota: team, requested: pods=1"))
    await world.apply(a_job())
    assert world.status(KEY)["phase"] == "Pending"
    assert condition(world, "Prepared")["reason"] == "QuotaExceeded"
    assert "exceeded quota" in condition(world, "Prepared")["message"]
    assert world.status(KEY).get("attempts") is None
    for _ in range(60):
        await world.pass_time(1)
    assert world.pods() == ["demo-prepare-1"]
    assert condition(world, "Prepared")["status"] == "Unknown"
    assert len([r for r in world.requests("create") if r.kind == "Pod"]) == 4


async def test_a_name_that_belongs_to_something_else_is_said_and_left_alone() -> None:
    world = World()
    world.cluster.store(a_config_map(), "ADDED")
    await world.apply(a_job())
    assert condition(world, "Prepared")["reason"] == "NameConflict"
    assert "ConfigMap demo-config exists and belongs to another owner" in condition(world, "Prepared")["message"]
    assert world.pods() == []
    before = len(world.cluster.requests)
    for _ in range(60):
        await world.pass_time(1)
    assert len(world.cluster.requests) - before <= 24
    world.cluster.remove("ConfigMap", "team", "demo-config")
    await world.pass_time(300)
    assert world.pods() == ["demo-prepare-1"]


async def test_a_leftover_of_an_earlier_job_is_waited_for() -> None:
    world = World()
    world.cluster.store(a_config_map(uid="earlier"), "ADDED")
    await world.apply(a_job())
    assert "of an earlier SFTJob" in condition(world, "Prepared")["message"]
    world.cluster.remove("ConfigMap", "team", "demo-config")
    await world.pass_time(5)
    assert world.pods() == ["demo-prepare-1"]


async def test_our_own_child_that_exists_already_is_taken_over() -> None:
    world = World()
    await world.apply(a_job())
    world.controller._cache.pods.forget(KEY)
    job = world.cluster.objects[KIND, *KEY]
    world.cluster.store({**job, "status": {}}, "MODIFIED")  # as if the first status write had been lost
    await world.settle()
    assert world.pods() == ["demo-prepare-1"]
    assert world.status(KEY)["phase"] == "Pending"
    assert [attempt["pod"] for attempt in world.status(KEY)["attempts"]] == ["demo-prepare-1"]


async def test_a_job_that_changed_meanwhile_is_read_again_and_decided_anew() -> None:
    world = World()
    world.cluster.fail("patch", KIND, ConflictError("the object has been modified"))
    await world.apply(a_job())
    assert world.status(KEY)["phase"] == "Pending"
    assert [r.verb for r in world.cluster.requests if r.kind == KIND] == ["patch", "get", "patch"]


async def test_a_job_that_is_gone_meanwhile_is_forgotten() -> None:
    world = World()
    world.cluster.fail("patch", KIND, NotFoundError("sftjobs demo not found"))
    await world.apply(a_job())
    assert world.controller._cache.jobs.get(KEY) == ()


async def test_an_event_that_can_not_be_posted_changes_nothing() -> None:
    world = World()
    world.cluster.fail("create", "Event", ForbiddenError("no"))
    await world.apply(a_job().set("method", "dance"))
    assert condition(world, "Prepared")["reason"] == "InvalidSpec"


async def test_a_fault_of_the_operator_is_logged_with_the_job_and_tried_again(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    with monkeypatch.context() as broken:
        broken.setattr("sftjob_operator.controller.decide", lambda *_: 1 / 0)
        await world.apply(a_job())
    (record,) = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert record.job == "team/demo"
    await world.pass_time(1)
    assert world.status(KEY)["phase"] == "Pending"


async def test_a_pruned_status_field_is_told_in_the_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    store = world.cluster.store

    def without_attempts(body: dict[str, object], event: str) -> dict[str, object]:
        status = {name: part for name, part in (body.get("status") or {}).items() if name != "attempts"}
        return store({**body, "status": status}, event)

    monkeypatch.setattr(world.cluster, "store", without_attempts)
    await world.apply(a_job())
    assert "dropped status fields attempts" in caplog.text


async def test_a_pod_that_lost_its_labels_is_not_replaced(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    await world.apply(a_job())
    await world.pod("demo-prepare-1", running())
    identity = ("Pod", "team", "demo-prepare-1")
    body = world.cluster.objects[identity]
    world.cluster.objects[identity] = {**body, "metadata": {**body["metadata"], "labels": {}}}
    world.controller.pod_gone({**body, "metadata": {**body["metadata"], "resourceVersion": "99999"}})
    await world.settle()
    assert world.pods() == ["demo-prepare-1"]
    assert "has lost its labels" in caplog.text


async def test_lost_deletions_are_found_by_the_next_listing() -> None:
    world = World()
    await world.apply(a_job())
    await world.pod("demo-prepare-1", running())
    world.cluster.remove("Pod", "team", "demo-prepare-1")
    world.cluster.undelivered.clear()
    await world.controller.resync()
    await world.settle()
    assert world.status(KEY)["phase"] == "Restarting"
    await world.pass_time(10)
    assert world.pods() == ["demo-prepare-2"]


async def test_the_first_listing_waits_for_the_api_server(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("sftjob_operator.controller.FIRST_LISTING_RETRY_SECONDS", 0)
    world = World()
    world.cluster.fail("list", KIND, NotFoundError("page not found"))
    world.cluster.fail("list", "Pod", UnavailableError("down"))
    await world.controller.first_listing()
    assert "kubectl apply -f crds/sftjobs.yaml" in caplog.text
    assert "cannot list SFTJobs and Pods: down" in caplog.text
