"""A status that the API server does not take: said where people look, tried again ever less often, and never lost."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from sftjob_contract.names import KIND, Stage
from sftjob_contract.reports.outcome import Output
from sftjob_contract.reports.progress import HistoryPoint
from sftjob_operator.effects.cluster import ClusterError, ForbiddenError, InvalidError, UnavailableError
from support.fakes.fake_cluster import FakeCluster, World, an_outcome, ended, running
from support.fakes.progress import a_progress
from support.jobs.builders import a_job

KEY = ("team", "demo")
POINTS = tuple(HistoryPoint(step=step, loss=2.0) for step in (10, 20, 30))
OLDER_CRD = InvalidError(
    'SFTJob.sftjob.dev "demo" is invalid: status.progress.activity: Unsupported value: "training"',
    (
        ("status.progress.activity", 'Unsupported value: "training"'),
        ("<nil>", 'Invalid value: "null": some validation rules were not checked'),
    ),
)
REFUSALS = {
    "too large": InvalidError("Request entity too large: limit is 3145728"),
    "a policy": ForbiddenError('ValidatingAdmissionPolicy "small" denied request: the status is too large'),
    "an older CRD": OLDER_CRD,
    "etcd": UnavailableError("etcdserver: request is too large"),
}


def has_history(status: Mapping[str, Any]) -> bool:
    """Whether it is a patch with what is large, or new: `history`, `progress`."""
    return bool({"history", "progress"} & set(status))


@dataclass
class PickyCluster(FakeCluster):
    """Refuses status patches of which `refuses` holds, with `error`."""

    refuses: Callable[[Mapping[str, Any]], bool] = lambda _: False
    error: ClusterError = field(default_factory=lambda: REFUSALS["too large"])
    refused: int = 0

    async def patch_status(self, namespace: str, name: str, patch: Mapping[str, Any]) -> dict[str, Any]:
        if self.refuses(patch["status"]):
            self.refused += 1
            self._record("patch", KIND, name, patch)
            raise self.error
        return await super().patch_status(namespace, name, patch)


async def training(cluster: PickyCluster) -> World:
    world = World(cluster)
    await world.apply(a_job())
    await world.pod("demo-prepare-1", running())
    await world.pod("demo-prepare-1", ended(0, an_outcome(Stage.PREPARE)))
    await world.pod("demo-train-1", running())
    return world


async def report(world: World, step: int) -> None:
    world.controller.report(KEY, a_progress(step, max_steps=1000, history=POINTS))
    await world.settle()


async def minutes_pass(world: World) -> None:
    for _ in range(31):
        await world.pass_time(10)


def condition(world: World, type_: str) -> Any:
    (found,) = [c for c in world.status(KEY)["conditions"] if c["type"] == type_]
    return found


def events(world: World, reason: str) -> list[str]:
    found = [body for (kind, _, _), body in world.cluster.objects.items() if kind == "Event"]
    return [body["message"] for body in found if body["reason"] == reason]


@pytest.mark.parametrize("error", REFUSALS.values(), ids=REFUSALS)
async def test_what_keeps_the_operator_from_writing_is_in_the_conditions(error: ClusterError) -> None:
    world = await training(cluster := PickyCluster(refuses=has_history, error=error))
    await report(world, 30)
    await world.pass_time(2)
    for type_ in ("Running", "Succeeded"):
        told = condition(world, type_)
        assert told["reason"] == ("ServerUnavailable" if error is REFUSALS["etcd"] else "StatusRefused")
        assert str(error) in told["message"]
    assert condition(world, "Running")["status"] == "True"
    assert world.status(KEY)["phase"] == "Running"
    assert world.live_train_pods() == ["demo-train-1"]
    cluster.refuses = lambda _: False
    await minutes_pass(world)
    assert condition(world, "Running")["reason"] == "Training"
    assert (world.status(KEY)["progress"]["step"], len(world.status(KEY)["history"])) == (30, 3)


async def test_fields_that_an_older_crd_refuses_are_left_out_and_the_others_are_written() -> None:
    def unsupported(status: Mapping[str, Any]) -> bool:
        return "progress" in status

    world = await training(cluster := PickyCluster(refuses=unsupported, error=OLDER_CRD))
    await report(world, 30)
    assert len(world.status(KEY)["history"]) == 3
    assert "progress" not in world.status(KEY)
    assert "Apply crds/sftjobs.yaml of the operator's version." in condition(world, "Running")["message"]
    await world.pod("demo-train-1", ended(75, an_outcome(Stage.TRAIN, 75), seconds=60))
    await world.pass_time(60)
    assert world.live_train_pods() == ["demo-train-2"]
    cluster.refuses = lambda _: False
    await minutes_pass(world)
    assert [(a["stage"], a["number"], a.get("exitCode")) for a in world.status(KEY)["attempts"]] == [
        ("prepare", 1, 0),
        ("train", 1, 75),
        ("train", 2, None),
    ]
    assert world.status(KEY)["progress"]["step"] == 30


async def test_a_job_does_not_end_without_the_output_that_the_server_refuses() -> None:
    create_error = InvalidError("status.output: Invalid value", (("status.output.uri", "Invalid value"),))
    world = await training(cluster := PickyCluster(refuses=lambda status: "output" in status, error=create_error))
    await world.pod(
        "demo-train-1", ended(0, an_outcome(Stage.TRAIN, output=Output(path="output/model", metrics={})), seconds=60)
    )
    assert condition(world, "Succeeded")["status"] == "Unknown"
    assert condition(world, "Succeeded")["reason"] == "StatusRefused"
    cluster.refuses = lambda _: False
    await minutes_pass(world)
    assert condition(world, "Succeeded")["status"] == "True"
    assert world.status(KEY)["output"]


@pytest.mark.parametrize("error", REFUSALS.values(), ids=REFUSALS)
async def test_where_not_even_conditions_can_be_written_an_event_has_the_servers_words(error: ClusterError) -> None:
    world = await training(cluster := PickyCluster(error=error))
    before = world.status(KEY)
    cluster.refuses = lambda _: True
    await report(world, 30)
    await world.pass_time(2)
    told = [text for text in events(world, "StatusRefused") + events(world, "ServerUnavailable") if str(error) in text]
    assert len(told) == 1
    assert world.status(KEY) == before
    cluster.refuses = lambda _: False
    await minutes_pass(world)
    assert world.status(KEY)["progress"]["step"] == 30


async def test_an_unreadable_spec_is_said_in_an_event_where_the_status_is_refused() -> None:
    world = World(PickyCluster(refuses=lambda _: True))
    await world.apply(a_job().set("method", "dance"))
    assert "method" in events(world, "InvalidSpec")[0]


async def test_a_refused_status_is_tried_ever_less_often_however_often_trainers_report() -> None:
    world = await training(cluster := PickyCluster())
    cluster.refuses = lambda _: True
    for step in range(30, 390):
        world.controller.report(KEY, a_progress(step, max_steps=1000, history=POINTS))
        await world.pass_time(10)
    assert 10 < cluster.refused <= 60
    before = cluster.refused
    for step in range(390, 420):
        world.controller.report(KEY, a_progress(step, max_steps=1000, history=POINTS))
        await world.pass_time(10)
    assert cluster.refused - before <= 4
    cluster.refuses = lambda _: False
    await minutes_pass(world)
    assert world.status(KEY)["progress"]["step"] == 419


async def test_another_decision_is_written_at_once_after_a_refused_status() -> None:
    world = await training(cluster := PickyCluster(refuses=has_history))
    await report(world, 30)
    cluster.refuses = lambda _: False
    await world.change(KEY, suspend=True)
    assert condition(world, "Running")["reason"] == "Stopping"


async def test_what_keeps_a_job_that_has_ended_from_being_cleaned_up_is_an_event() -> None:
    world = await training(cluster := PickyCluster())
    await world.pod("demo-train-1", ended(0, an_outcome(Stage.TRAIN), seconds=60))
    cluster.refuses = lambda _: True
    await world.change(KEY, ttlSecondsAfterFinished=1)
    await world.pass_time(200)
    assert "too large" in events(world, "StatusRefused")[0]


async def test_fields_that_an_older_crd_drops_are_said_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    world = World()
    store = world.cluster.store

    def without_history(body: dict[str, Any], event: str) -> dict[str, Any]:
        status = {name: part for name, part in (body.get("status") or {}).items() if name != "startTime"}
        return store({**body, "status": status} if body["kind"] == KIND else body, event)

    monkeypatch.setattr(world.cluster, "store", without_history)
    await world.apply(a_job())
    for seconds in range(5):
        await world.pod("demo-prepare-1", running(seconds))
    assert caplog.text.count("dropped status fields startTime") == 1
    assert len(events(world, "StatusIncomplete")) == 1


async def test_an_outage_takes_one_line_for_each_wait_whatever_the_errors_say(caplog: pytest.LogCaptureFixture) -> None:
    world = await training(cluster := PickyCluster())
    for number in range(2_000):
        cluster.fail("patch", KIND, UnavailableError(f"connection {number} was reset"))
        cluster.fail("get", "Pod", UnavailableError(f"no route from port {number}"))
        cluster.fail("create", "Event", UnavailableError(f"no route from port {number}"))
    caplog.clear()
    for step in range(30, 330):
        world.controller.report(KEY, a_progress(step, max_steps=1000, history=POINTS))
        await world.pass_time(2)
    assert cluster.requests
    lines = [record.getMessage() for record in caplog.records]
    assert len([line for line in lines if "trying again in" in line]) <= 10
    assert len(lines) <= 24
