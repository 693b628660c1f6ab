"""The controller against an in-memory cluster: one job from its creation to its end."""

from typing import Any

import pytest

from sftjob_contract.layout import OUTPUT_ADAPTER
from sftjob_contract.names import KIND, Stage
from sftjob_contract.reports.outcome import Output
from sftjob_contract.reports.progress import Checkpoint, HistoryPoint, Progress
from support.fakes import progress
from support.fakes.fake_cluster import World, an_outcome, ended, running
from support.jobs.builders import a_command, a_job


def a_progress(step: int, attempt: int = 1, **parts: Any) -> Progress:
    return progress.a_progress(step, attempt, tokens=step * 1000, **parts)


async def prepared(world: World, job: Any = None) -> tuple[str, str]:
    key = await world.apply(job or a_job())
    await world.pod("demo-prepare-1", running())
    await world.pod("demo-prepare-1", ended(0, an_outcome(Stage.PREPARE)))
    return key


async def training(world: World, job: Any = None) -> tuple[str, str]:
    key = await prepared(world, job)
    await world.pod("demo-train-1", running())
    return key


def created(world: World) -> list[str]:
    """Kinds of the children that were created."""
    return [request.kind for request in world.requests("create") if request.kind != "Event"]


def phases(world: World) -> list[str]:
    told = [r.body["status"].get("phase") for r in world.requests("patch")]
    return [phase for phase in told if phase is not None]


def condition(world: World, key: tuple[str, str], type_: str) -> tuple[str, str]:
    (found,) = [c for c in world.status(key)["conditions"] if c["type"] == type_]
    return found["status"], found["reason"]


async def test_a_new_job_is_pending_with_every_condition_unknown() -> None:
    world = World()
    key = await world.apply(a_job())
    status = world.status(key)
    assert status["phase"] == "Pending"
    assert {c["type"]: c["status"] for c in status["conditions"]} == {
        "Prepared": "Unknown",
        "Running": "Unknown",
        "ProgressReporting": "Unknown",
        "Succeeded": "Unknown",
    }
    assert world.pods() == ["demo-prepare-1"]


async def test_a_quiet_life_costs_four_creates_and_one_status_write_per_phase() -> None:
    world = World()
    key = await training(world)
    await world.pod(
        "demo-train-1",
        ended(0, an_outcome(Stage.TRAIN, output=Output(path=OUTPUT_ADAPTER, metrics={"evalLoss": 1.5})), seconds=60),
    )
    assert phases(world) == ["Pending", "Preparing", "Running", "Succeeded"]
    assert len(world.requests("patch")) == 4
    assert created(world) == ["PersistentVolumeClaim", "ConfigMap", "Pod", "Pod"]
    assert len(world.requests("create", "Event")) == 4
    assert [r.kind for r in world.requests("get")] == ["ConfigMap"]
    assert world.requests("replace") == []
    assert world.requests("list") == []
    assert world.status(key)["output"] == {"uri": "pvc://demo/output/adapter", "metrics": {"evalLoss": 1.5}}


async def test_the_first_report_is_written_at_once_and_later_ones_once_per_interval() -> None:
    world = World()
    key = await training(world)
    await world.pass_time(1)
    writes = len(world.requests("patch"))
    for second in range(1, 31):
        world.controller.report(key, a_progress(step=second))
        await world.pass_time(1)
    steps = [r.body["status"]["progress"]["step"] for r in world.requests("patch")[writes:]]
    assert steps == [1, 11, 21]
    assert condition(world, key, "ProgressReporting") == ("True", "Reporting")


async def test_the_newest_report_is_known_until_the_job_has_ended() -> None:
    world = World()
    key = await training(world)
    assert world.controller.newest_progress(key) is None
    for step in (10, 20):
        world.controller.report(key, a_progress(step))
    newest = world.controller.newest_progress(key)
    assert newest is not None
    assert newest.step == 20
    await world.pod("demo-train-1", ended(0, an_outcome(Stage.TRAIN)))
    assert world.controller.newest_progress(key) is None


async def test_an_image_of_ones_own_trains_in_its_first_pod() -> None:
    world = World()
    await world.apply(a_command())
    await world.pod("demo-train-1", running())
    await world.pod("demo-train-1", ended(0))
    assert phases(world) == ["Pending", "Running", "Succeeded"]
    assert created(world) == ["PersistentVolumeClaim", "ConfigMap", "Pod"]
    assert world.pods() == ["demo-train-1"]


async def test_a_report_tells_steps_curve_checkpoints_and_eta() -> None:
    world = World()
    key = await training(world)
    checkpoint = Checkpoint(step=20, path="checkpoints/checkpoint-20", bytes=7, time="2026-03-01T12:00:00Z")
    world.controller.report(
        key,
        a_progress(
            25,
            loss=1.23456789,
            eta_seconds=192,
            best_step=20,
            checkpoints=(checkpoint,),
            history=(HistoryPoint(step=10, loss=2.0), HistoryPoint(step=20, eval_loss=1.5)),
        ),
    )
    await world.settle()
    status = world.status(key)
    assert status["progress"]["percent"] == 25
    assert status["progress"]["loss"] == 1.23457
    assert status["progress"]["eta"] == "3m12s"
    assert status["history"] == [{"step": 10, "loss": 2.0}, {"step": 20, "evalLoss": 1.5}]
    assert status["latestCheckpoint"] == status["bestCheckpoint"] == "pvc://demo/checkpoints/checkpoint-20"
    assert status["attempts"][-1]["reachedStep"] == 25


async def test_an_operator_that_was_killed_makes_no_second_pod_and_catches_up() -> None:
    world = World()
    key = await training(world)
    world.controller.report(key, a_progress(10))
    await world.settle()
    before = list(world.pods())
    world.cluster.requests.clear()
    await world.restart_operator()
    assert world.pods() == before
    assert world.requests("create") == []
    world.controller.report(key, a_progress(20))
    await world.settle()
    await world.pass_time(2)
    assert world.status(key)["progress"]["step"] == 20


async def test_a_trainer_that_finishes_while_the_operator_is_down_is_found_succeeded() -> None:
    world = World()
    key = await training(world)
    output = Output(path=OUTPUT_ADAPTER, metrics={"evalLoss": 0.5})
    outcome = an_outcome(Stage.TRAIN, output=output, progress=a_progress(100, eval_loss=0.5))
    world.set_pod("demo-train-1", ended(0, outcome, seconds=42))
    world.clock.advance(60)
    await world.restart_operator()
    status = world.status(key)
    assert status["phase"] == "Succeeded"
    assert status["completionTime"] == "2026-03-01T12:00:42Z"
    assert status["output"]["metrics"] == {"evalLoss": 0.5}
    assert status["progress"]["step"] == 100


async def test_a_killed_trainer_gets_a_new_attempt_after_its_backoff() -> None:
    world = World()
    key = await training(world, a_job().failure_policy(backoff_seconds=10))
    await world.pod("demo-train-1", ended(137, seconds=0))
    assert world.status(key)["phase"] == "Restarting"
    assert world.pods() == ["demo-prepare-1", "demo-train-1"]
    await world.pass_time(7)
    assert world.pods() == ["demo-prepare-1", "demo-train-1"]
    await world.pass_time(3)
    assert world.pods() == ["demo-prepare-1", "demo-train-1", "demo-train-2"]
    assert world.status(key)["phase"] == "Restarting"
    await world.pod("demo-train-2", running(seconds=10))
    assert world.status(key)["phase"] == "Running"
    assert [a["reason"] for a in world.status(key)["attempts"] if a.get("endTime")] == ["Completed", "Killed"]


async def test_bad_data_fails_the_job_with_the_trainers_sentence_and_never_makes_a_train_pod() -> None:
    world = World()
    key = await world.apply(a_job())
    message = "train.jsonl:17: the row has no column 'text'"
    outcome = an_outcome(Stage.PREPARE, 65, reason="DataInvalid", message=message)
    await world.pod("demo-prepare-1", ended(65, outcome))
    assert world.status(key)["phase"] == "Failed"
    (succeeded,) = [c for c in world.status(key)["conditions"] if c["type"] == "Succeeded"]
    assert (succeeded["status"], succeeded["reason"]) == ("False", "DataInvalid")
    assert message in succeeded["message"]
    await world.pass_time(3600)
    await world.restart_operator()
    assert world.pods() == ["demo-prepare-1"]


async def test_a_finished_job_never_acts_again() -> None:
    world = World()
    key = await training(world)
    await world.pod("demo-train-1", ended(0))
    final = world.status(key)
    for pod in world.pods():
        world.cluster.remove("Pod", "team", pod)
    world.cluster.store(world.cluster.objects[KIND, *key] | {"spec": a_job().full().spec}, "MODIFIED")
    await world.settle()
    await world.restart_operator()
    assert world.pods() == []
    assert world.status(key) == final


async def test_a_deleted_job_is_forgotten_and_one_of_the_same_name_starts_anew() -> None:
    world = World()
    key = await training(world)
    world.cluster.remove(KIND, *key)
    for identity in [i for i in world.cluster.objects if i[0] != KIND]:
        world.cluster.remove(*identity)
    await world.settle()
    await world.apply(a_job().meta(uid="another"))
    assert world.pods() == ["demo-prepare-1"]
    assert world.status(key)["phase"] == "Pending"


@pytest.mark.parametrize("stage", ["prepare", "train"])
async def test_a_pod_that_vanished_is_looked_for_before_a_new_attempt(stage: Stage) -> None:
    world = World()
    key = await (training if stage == "train" else World.apply)(world, *([] if stage == "train" else [a_job()]))
    world.controller._cache.pods.forget(key)  # as if the watch had lost it
    world.controller.queue.add(key)
    await world.settle()
    assert [r.name for r in world.requests("get", "Pod")] == [f"demo-{stage}-1"]
    assert f"demo-{stage}-2" not in world.pods()
    assert world.status(key)["phase"] in ("Pending", "Running")
