"""What a Pod sent never disables suspend and deadlines; what outlives its job is ended."""

import logging
from collections.abc import Callable
from typing import Any

import pytest

from sftjob_contract.names import KIND, Stage
from sftjob_operator import controller
from sftjob_operator.effects.cluster import ForbiddenError, UnavailableError
from sftjob_operator.reconcile import Observed
from support.fakes.fake_cluster import World, an_outcome, ended, running
from support.fakes.progress import a_progress
from support.jobs.builders import a_job

KEY = ("team", "demo")


async def training(world: World, job: Any = None) -> None:
    await world.apply(job or a_job())
    await world.pod("demo-prepare-1", running())
    await world.pod("demo-prepare-1", ended(0, an_outcome(Stage.PREPARE)))
    await world.pod("demo-train-1", running())


def condition(world: World, type_: str) -> dict[str, Any]:
    (found,) = [c for c in world.status(KEY)["conditions"] if c["type"] == type_]
    return found


def break_decisions(patch: pytest.MonkeyPatch, breaks: Callable[[Observed], bool]) -> None:
    """Let every decision fault that is made from this."""
    decide = controller.decide

    def broken(observed: Observed, *more: Any) -> Any:
        if breaks(observed):
            raise OverflowError("date value out of range")
        return decide(observed, *more)

    patch.setattr(controller, "decide", broken)


BREAKING: dict[str, Callable[[Observed], bool]] = {
    "a report": lambda observed: observed.report is not None,
    "an outcome": lambda observed: any(pod.outcome is not None for pod in observed.pods),
}


@pytest.mark.parametrize("breaks", BREAKING.values(), ids=BREAKING)
@pytest.mark.parametrize("how", ["suspend", "deadlineSeconds"])
async def test_a_decision_that_faults_is_made_without_what_pods_sent(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, breaks: Callable[[Observed], bool], how: str
) -> None:
    world = World()
    await training(world)
    break_decisions(monkeypatch, breaks)
    world.controller.report(KEY, a_progress(10, 1))
    await world.settle()
    await world.change(KEY, **{"suspend": True} if how == "suspend" else {"deadlineSeconds": 1})
    await world.pass_time(2)
    assert [r.name for r in world.requests("delete")] == ["demo-train-1"]
    faults = [record for record in caplog.records if record.levelno >= logging.ERROR]
    assert len(faults) == 1
    assert faults[0].exc_info is not None
    assert world.metrics.registry.get_sample_value("sftjob_reconcile_errors_total", {"cause": "fault"}) >= 1


async def test_a_decision_that_faults_all_the_same_is_said_in_the_conditions(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    await training(world)
    with monkeypatch.context() as patch:
        break_decisions(patch, lambda _: True)
        world.controller.queue.add(KEY)
        await world.settle()
        assert condition(world, "Running")["reason"] == "OperatorFault"
        assert world.status(KEY)["phase"] == "Running"
        assert len(world.status(KEY)["attempts"]) == 2
    for _ in range(20):
        await world.pass_time(1)
    assert condition(world, "Running")["reason"] == "Training"


async def finished(world: World, job: Any = None) -> dict[str, Any]:
    """A job that has ended; answers the body of a train Pod of it that was never heard of."""
    await training(world, job)
    body = world.cluster.objects["Pod", "team", "demo-train-1"]
    await world.pod("demo-train-1", ended(0, an_outcome(Stage.TRAIN)))
    assert world.status(KEY)["phase"] == "Succeeded"
    name = {"name": "demo-train-2", "uid": "late", "labels": {**body["metadata"]["labels"], "sftjob.dev/attempt": "2"}}
    return {**body, "metadata": {**body["metadata"], **name}, "status": {"phase": "Pending"}}


@pytest.mark.parametrize(
    "job", [a_job(), a_job().set("ttlSecondsAfterFinished", 9999)], ids=["", "with a time to live"]
)
@pytest.mark.parametrize("seen", ["by a watch", "at the start", "at a listing"])
async def test_a_live_pod_of_an_ended_job_is_deleted(seen: str, job: Any) -> None:
    world = World()
    world.cluster.store(await finished(world, job), "ADDED")
    if seen != "by a watch":
        world.cluster.undelivered.clear()
        await (world.restart_operator() if seen == "at the start" else world.controller.resync())
    await world.settle()
    assert world.pods() == ["demo-prepare-1", "demo-train-1"]
    assert [(r.name, r.body) for r in world.requests("delete")] == [("demo-train-2", "late")]
    assert world.status(KEY)["phase"] == "Succeeded"


async def test_a_late_pod_whose_delete_fails_is_deleted_later_and_one_of_another_job_never() -> None:
    world = World()
    late = await finished(world)
    foreign = {**late["metadata"], "name": "demo-train-3", "uid": "foreign", "ownerReferences": []}
    world.cluster.fail("delete", "Pod", ForbiddenError("denied"))
    world.cluster.fail("delete", "Pod", UnavailableError("down"))
    world.cluster.store(late, "ADDED")
    world.cluster.store({**late, "metadata": foreign}, "ADDED")
    await world.settle()
    for _ in range(10):
        await world.pass_time(1)
    assert world.pods() == ["demo-prepare-1", "demo-train-1", "demo-train-3"]


async def test_a_listing_has_the_outline_of_what_is_known_and_the_whole_of_what_no_watch_has_brought() -> None:
    world = World()
    await finished(world)
    other = await world.apply(a_job("other"))
    await world.controller.resync()
    assert world.cluster.listed_whole == []
    stored = world.cluster.objects[KIND, *other]
    world.cluster.store({**stored, "spec": {**stored["spec"], "suspend": True}}, "MODIFIED")
    world.cluster.undelivered.clear()
    await world.controller.resync()
    await world.settle()
    assert world.cluster.listed_whole == ["other"]
    assert "other-prepare-1" not in world.pods()
    await world.restart_operator()
    assert world.cluster.listed_whole == ["other", "demo", "other"], "ended Pods of an ended job are never needed"


async def test_a_listing_costs_a_finished_job_no_work(monkeypatch: pytest.MonkeyPatch) -> None:
    world = World()
    await finished(world)
    body = world.cluster.objects[KIND, *KEY]
    pod = world.cluster.objects["Pod", "team", "demo-train-1"]
    for number in range(500):
        uid = f"uid-{number}"
        metadata = {**body["metadata"], "name": f"job-{number}", "uid": uid}
        world.cluster.store({**body, "metadata": metadata}, "ADDED")
        labels = {**pod["metadata"]["labels"], "sftjob.dev/job": f"job-{number}"}
        owner = [{**pod["metadata"]["ownerReferences"][0], "uid": uid}]
        own = {**pod["metadata"], "name": f"job-{number}-train-1", "labels": labels, "ownerReferences": owner}
        world.cluster.store({**pod, "metadata": own}, "ADDED")
    await world.restart_operator()
    monkeypatch.setattr(controller, "read_job", lambda _: pytest.fail("a finished job was parsed"))
    await world.controller.resync()
    assert len(world.controller.queue) == 0
    assert world.controller._cache.pods.jobs() == ()
