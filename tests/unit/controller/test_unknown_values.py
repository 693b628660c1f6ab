"""Objects that a newer operator or a newer CRD has written: kept whole, never ended, and read again later."""

import copy
import itertools
import json
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sftjob_contract.codec import encode, from_untrusted_json
from sftjob_contract.names import KIND, PROGRESS_BODY_LIMIT_BYTES, Stage
from sftjob_contract.reports.progress import Checkpoint, HistoryPoint, Progress
from sftjob_operator.api import InvalidJobError, parse_status, read_partly
from support.fakes.fake_cluster import INTERVAL_SECONDS, FakeCluster, World, an_outcome, ended, moment, running
from support.fakes.progress import a_progress
from support.jobs.builders import a_job
from support.jobs.manifests import ROOT, load_manifest

KEY = ("team", "demo")
POINTS = tuple(HistoryPoint(step=step, loss=2.0) for step in (10, 20, 30))
CHECKPOINTS = tuple(
    Checkpoint(step=step, path=f"checkpoints/checkpoint-{step}", bytes=10, time=moment(step), eval_loss=None)
    for step in (10, 20)
)


async def training(world: World) -> None:
    """A job in mid-run: attempts of both stages, progress, a curve and checkpoints."""
    await world.apply(a_job())
    await world.pod("demo-prepare-1", running())
    await world.pod("demo-prepare-1", ended(0, an_outcome(Stage.PREPARE)))
    await world.pod("demo-train-1", running())
    world.controller.report(KEY, a_progress(30, history=POINTS, checkpoints=CHECKPOINTS))
    await world.settle()
    assert len(world.status(KEY)["checkpoints"]) == 2


_RUNNING: dict[Any, Any] = {}
"""The objects of a world with a job in mid-run, made once."""


async def a_running_world() -> World:
    """The same, seen by an operator that has just started."""
    if not _RUNNING:
        world = World()
        await training(world)
        _RUNNING.update(world.cluster.objects)
    world = World(FakeCluster(objects=copy.deepcopy(_RUNNING), _numbers=itertools.count(100_000)))
    await world.restart_operator()
    return world


def condition(world: World, type_: str) -> dict[str, Any]:
    (found,) = [c for c in world.status(KEY)["conditions"] if c["type"] == type_]
    return found


async def rewrite(world: World, *, status: Any = None, spec: Any = None) -> None:
    """What a newer operator or kubectl writes into the stored object."""
    stored = world.cluster.objects[KIND, *KEY]
    metadata = stored["metadata"] | ({"generation": stored["metadata"]["generation"] + 1} if spec else {})
    parts = {"spec": spec or stored["spec"], "status": status or stored["status"]}
    world.cluster.store({**stored, "metadata": metadata, **parts}, "MODIFIED")
    await world.settle()


async def live_on(world: World) -> None:
    """A new report, time, and the end of the attempt: everything that a status is written for."""
    world.controller.report(KEY, a_progress(40, history=POINTS, checkpoints=CHECKPOINTS))
    await world.pass_time(60)
    await world.pod("demo-train-1", ended(75, an_outcome(Stage.TRAIN, 75), seconds=60))
    await world.pass_time(60)


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Every path in JSON data."""
    yield path
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, item in inner:
        yield from places(item, (*path, key))


def value_at(value: Any, path: tuple[Any, ...]) -> Any:
    for part in path:
        value = value[part]
    return value


def found_anywhere(value: Any, novelty: str) -> bool:
    return any(novelty in path or value_at(value, path) == novelty for path in places(value))


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
async def test_unknown_fields_at_any_depth_outlive_every_write(data: st.DataObject) -> None:
    world = await a_running_world()
    status = copy.deepcopy(world.status(KEY))
    objects = [path for path in places(status) if isinstance(value_at(status, path), dict)]
    chosen = data.draw(st.lists(st.sampled_from(objects), min_size=1, max_size=6, unique=True))
    for number, path in enumerate(chosen):
        value_at(status, path)[f"novelty{number}"] = data.draw(
            st.one_of(st.integers(), st.text(max_size=5), st.just([{"a": 1}]), st.just({"b": None}))
        )
    await rewrite(world, status=status)
    await live_on(world)
    for number, path in enumerate(chosen):
        assert found_anywhere(world.status(KEY), f"novelty{number}"), path
    assert world.status(KEY)["phase"] == "Restarting" or "train-2" in str(world.pods())
    assert condition(world, "Succeeded")["status"] == "Unknown"


def an_unreadable(value: Any, number: int) -> Any:
    return f"novelty{number}" if not isinstance(value, str) else {f"novelty{number}": value}


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
async def test_whatever_cannot_be_read_ends_no_job_and_is_not_lost(data: st.DataObject) -> None:
    world = await a_running_world()
    status = copy.deepcopy(world.status(KEY))
    set_anew = {"message", "node", "observedGeneration", "phase", "method", "startTime", "provenance", "interruptions"}
    set_anew |= {"gpus", "percentText", "evalLossChange"}
    values = [path for path in places(status) if path and not set_anew & set(path)]
    values = [path for path in values if (path[0], path[-1]) != ("conditions", "reason")]
    path = data.draw(st.sampled_from(values))
    value_at(status, path[:-1])[path[-1]] = an_unreadable(value_at(status, path), 0)
    await rewrite(world, status=status)
    held = condition_reasons(world) & {"InvalidSpec"}
    assert found_anywhere(world.status(KEY), "novelty0"), path
    await world.pass_time(60)
    assert found_anywhere(world.status(KEY), "novelty0"), path
    assert held or world.status(KEY)["phase"] == "Running"
    assert world.live_train_pods() == ["demo-train-1"]
    assert "Failed" not in condition_reasons(world)
    assert world.requests("delete") == []


def reasons(conditions: Any) -> list[Any]:
    items = conditions if isinstance(conditions, list) else []
    return [item.get("reason") for item in items if isinstance(item, dict)]


def condition_reasons(world: World) -> set[str]:
    return set(map(str, reasons(world.status(KEY)["conditions"])))


NEWER: dict[str, Any] = {
    "phase": {"phase": "Evaluating"},
    "activity": {"progress": {"activity": "Merging", "step": 30, "maxSteps": 100, "percent": 30}},
    "method": {"method": "dora"},
    "best": {"bestCheckpoint": 7},
    "plan": {"plan": {"steps": "many", "future": 1}},
    "time": {"startTime": "0001-01-01T00:00:00+14:00"},
}


@pytest.mark.parametrize("change", NEWER.values(), ids=NEWER)
async def test_a_job_goes_on_with_a_value_of_a_newer_version_in_its_status(change: dict[str, Any]) -> None:
    world = World()
    await training(world)
    await rewrite(world, status={**world.status(KEY), **change, "future": {"deep": [1]}})
    await world.pod("demo-train-1", ended(0, an_outcome(Stage.TRAIN), seconds=60))
    assert world.status(KEY)["phase"] == "Succeeded"
    assert world.status(KEY)["future"] == {"deep": [1]}
    kept = {key: value for key, value in change.items() if key in ("bestCheckpoint", "plan")}
    assert kept.items() <= world.status(KEY).items()


async def test_an_ended_attempt_of_a_stage_that_is_not_known_stays_where_it_was() -> None:
    world = World()
    await training(world)
    attempts = world.status(KEY)["attempts"]
    newer = {"stage": "evaluate", "number": 1, "pod": "demo-evaluate-1", "endTime": moment(5), "exitCode": 0}
    await rewrite(world, status={**world.status(KEY), "attempts": [attempts[0], newer, *attempts[1:]]})
    await live_on(world)
    stages = [(entry["stage"], entry["number"]) for entry in world.status(KEY)["attempts"]]
    assert stages[:3] == [("prepare", 1), ("evaluate", 1), ("train", 1)]
    assert world.status(KEY)["attempts"][1] == newer


UNREADABLE_STATUS: dict[str, Any] = {
    "a running attempt of an unknown stage": {"attempts": [{"stage": "evaluate", "number": 1, "pod": "p"}]},
    "an exit code out of bounds": {
        "attempts": [{"stage": "train", "number": 1, "pod": "demo-train-1", "exitCode": 999, "endTime": moment(1)}]
    },
    "a time that is none": {"attempts": [{"stage": "train", "number": 1, "pod": "demo-train-1", "endTime": "now"}]},
    "no list": {"attempts": "many"},
    "an unknown status of a condition": {
        "conditions": [
            {"type": "Succeeded", "status": "Perhaps", "reason": "Waiting", "lastTransitionTime": moment(0)},
        ]
    },
}


@pytest.mark.parametrize("change", UNREADABLE_STATUS.values(), ids=UNREADABLE_STATUS)
async def test_a_job_whose_attempts_or_conditions_cannot_be_read_keeps_its_state(change: dict[str, Any]) -> None:
    world = World()
    await training(world)
    before = {**world.status(KEY), **change}
    await rewrite(world, status=before)
    await world.change(KEY, suspend=True, deadlineSeconds=1)
    await world.pod("demo-train-1", ended(70, seconds=30))
    await world.restart_operator()
    await world.pass_time(3600)
    after = world.status(KEY)
    assert {k: v for k, v in after.items() if k != "conditions"} == {
        k: v for k, v in before.items() if k != "conditions"
    }
    assert condition(world, "Succeeded")["reason"] == "InvalidSpec"
    assert world.requests("delete") == []
    assert world.pods() == ["demo-prepare-1", "demo-train-1"]


UNREADABLE_SPEC: dict[str, Any] = {
    "an unknown value of an enum": ("training.optimizer", "muon", "spec.training.optimizer must be", "not 'muon'"),
    "out of bounds": ("training.seed", -5, "spec.training.seed must be greater than or equal to 0", "not -5"),
    "an unknown field": ("output.signing", {"key": "k"}, "spec.output.signing is a field that", "does not know"),
    "another type": ("method", "dance", "spec.method must be an object", "not 'dance'"),
}


@pytest.mark.parametrize(("path", "value", "sentence", "more"), UNREADABLE_SPEC.values(), ids=UNREADABLE_SPEC)
async def test_a_running_job_whose_spec_cannot_be_read_keeps_its_state_until_it_can(
    path: str, value: Any, sentence: str, more: str
) -> None:
    world = World()
    await training(world)
    before, spec = world.status(KEY), world.cluster.objects[KIND, *KEY]["spec"]
    await rewrite(world, spec=a_job().set(path, value).spec)
    after = world.status(KEY)
    assert {k: v for k, v in after.items() if k != "conditions"} == {
        k: v for k, v in before.items() if k != "conditions"
    }
    for type_ in ("Running", "Succeeded"):
        assert condition(world, type_)["reason"] == "InvalidSpec"
        assert sentence in condition(world, type_)["message"]
        assert more in condition(world, type_)["message"]
        assert "upgrade the operator" in condition(world, type_)["message"]
    assert condition(world, "Running")["status"] == "True"
    writes, events = len(world.requests("patch")), len(world.requests("create", "Event"))
    await world.restart_operator()
    await world.pass_time(3600)
    assert (len(world.requests("patch")), len(world.requests("create", "Event"))) == (writes, events)
    await rewrite(world, spec=spec)
    await world.pass_time(10)
    assert condition(world, "Running")["reason"] == "Training"
    assert condition(world, "Succeeded")["reason"] != "InvalidSpec"
    await world.pod("demo-train-1", ended(0, an_outcome(Stage.TRAIN), seconds=60))
    assert world.status(KEY)["phase"] == "Succeeded"
    assert [a["number"] for a in world.status(KEY)["attempts"]] == [1, 1]


def newer(path: str, value: Any, **readable: Any) -> dict[str, Any]:
    return {**a_job().set(path, value).spec, **readable}


@pytest.mark.parametrize(("path", "value", "sentence", "_"), UNREADABLE_SPEC.values(), ids=UNREADABLE_SPEC)
async def test_suspend_holds_while_the_rest_of_the_spec_cannot_be_read(
    path: str, value: Any, sentence: str, _: str
) -> None:
    world = World()
    await training(world)
    before = world.status(KEY)
    await rewrite(world, spec=newer(path, value, suspend=True))
    assert [request.name for request in world.requests("delete", "Pod")] == ["demo-train-1"]
    assert condition(world, "Running")["reason"] == "Stopping"
    assert sentence in condition(world, "Running")["message"]
    saved = an_outcome(Stage.TRAIN, 75, progress=a_progress(35, history=POINTS, checkpoints=CHECKPOINTS))
    await world.pod("demo-train-1", ended(75, saved, seconds=60))
    await world.pass_time(60)
    after = world.status(KEY)
    assert (after["phase"], after["progress"]["step"], len(after["checkpoints"])) == ("Suspended", 35, 2)
    assert (after["attempts"][-1]["reason"], after["attempts"][-1]["exitCode"]) == ("Suspended", 75)
    assert {name: after.get(name) for name in ("plan", "method", "gpus")} == {
        name: before.get(name) for name in ("plan", "method", "gpus")
    }
    assert "upgrade the operator" in condition(world, "Succeeded")["message"]
    await rewrite(world, spec=newer(path, value))
    await world.pass_time(60)
    assert condition(world, "Succeeded")["reason"] == "InvalidSpec"
    assert world.live_train_pods() == []
    await rewrite(world, spec=a_job().spec)
    await world.pass_time(60)
    assert world.live_train_pods() == ["demo-train-2"]


@pytest.mark.parametrize(("path", "value"), [(p, v) for p, v, _, _ in UNREADABLE_SPEC.values()], ids=UNREADABLE_SPEC)
async def test_the_deadline_holds_while_the_rest_of_the_spec_cannot_be_read(path: str, value: Any) -> None:
    world = World()
    await training(world)
    await rewrite(world, spec=newer(path, value, deadlineSeconds=600))
    assert condition(world, "Running")["reason"] == "InvalidSpec"
    await world.pass_time(590)
    assert world.requests("delete") == []
    await world.pass_time(20)
    assert [request.name for request in world.requests("delete", "Pod")] == ["demo-train-1"]
    await world.pod("demo-train-1", ended(75, an_outcome(Stage.TRAIN, 75), seconds=620))
    await world.pass_time(60)
    assert world.status(KEY)["phase"] == "Failed"
    assert condition(world, "Succeeded")["reason"] == "DeadlineExceeded"
    assert len(world.status(KEY)["checkpoints"]) == 2


STOPS_THAT_ARE_NOT_READ: dict[str, dict[str, Any]] = {
    "another type": newer("training.seed", -5, suspend={"until": "noon"}, deadlineSeconds="soon"),
    "the number of Pods": newer("resources", {"nodes": "all"}, suspend=True),
    "where files are": newer("storage", {"existingClaim": {"name": "a"}}, suspend=True),
    "no object": newer("storage", "fast", suspend=True),
}


@pytest.mark.parametrize("spec", STOPS_THAT_ARE_NOT_READ.values(), ids=STOPS_THAT_ARE_NOT_READ)
async def test_a_job_keeps_its_state_where_a_stop_or_what_it_needs_cannot_be_read(spec: dict[str, Any]) -> None:
    world = World()
    await training(world)
    await rewrite(world, spec=spec)
    await world.pass_time(600)
    assert world.requests("delete") == []
    assert condition(world, "Running")["reason"] == "InvalidSpec"
    assert ("still apply" in condition(world, "Running")["message"]) is (spec["suspend"] is not True)


JUNK: tuple[Any, ...] = (None, True, -1, 10**30, 1.5, "x" * 300, "", [], {}, [None], {"a": None}, "muon", [[[]]])
FULL_SPEC = load_manifest(ROOT / "crds" / "samples" / "full.yaml")["spec"] | {"suspend": True}


def suspends(spec: dict[str, Any]) -> bool | str:
    """What is read of spec.suspend, or why it is not."""
    try:
        return read_partly({**a_job().body(), "spec": spec})[0].spec.suspend
    except InvalidJobError as error:
        return str(error)


@pytest.mark.parametrize("path", [path for path in places(FULL_SPEC) if path and path != ("suspend",)], ids=str)
def test_whatever_else_of_a_spec_is_unreadable_suspend_is_read(path: tuple[Any, ...]) -> None:
    for junk in JUNK:
        spec = copy.deepcopy(FULL_SPEC)
        value_at(spec, path[:-1])[path[-1]] = junk
        assert suspends(spec) in (
            True,
            "spec.resources.nodes cannot be read",
            "spec.storage.existingClaim cannot be read",
        )


async def test_a_run_that_ends_well_while_its_spec_cannot_be_read_is_told_once_it_can() -> None:
    world = World()
    await training(world)
    await rewrite(world, spec=newer("training.seed", -5, suspend=True))
    await world.pod("demo-train-1", ended(0, an_outcome(Stage.TRAIN), seconds=60))
    await world.pass_time(60)
    assert condition(world, "Succeeded")["status"] == "Unknown"
    await rewrite(world, spec=a_job().spec)
    await world.pass_time(60)
    assert world.status(KEY)["phase"] == "Succeeded"


async def test_a_new_job_whose_spec_cannot_be_read_waits_for_an_operator_that_can() -> None:
    world = World()
    await world.apply(a_job().set("method", "dance"))
    assert world.status(KEY)["phase"] == "Pending"
    assert condition(world, "Prepared")["reason"] == "InvalidSpec"
    assert condition(world, "Succeeded")["status"] == "Unknown"
    assert len(world.requests("create", "Event")) == 1
    assert world.kinds() == []
    await rewrite(world, spec=a_job().spec)
    await world.pass_time(10)
    assert world.pods() == ["demo-prepare-1"]
    assert condition(world, "Prepared")["reason"] == "Preparing"


def test_a_status_that_is_no_object_is_an_error_with_a_sentence() -> None:
    with pytest.raises(InvalidJobError, match="must be an object"):
        parse_status("running")  # type: ignore[arg-type]


async def test_what_a_newer_trainer_calls_by_a_name_of_its_own_is_told_by_its_exit_code_and_its_words() -> None:
    world = await a_running_world()
    report = encode(a_progress(40)) | {"activity": "Compiling"}
    newer = from_untrusted_json(Progress, json.dumps(report), longest=PROGRESS_BODY_LIMIT_BYTES)
    world.controller.report(KEY, newer)
    await world.settle()
    await world.pass_time(INTERVAL_SECONDS)
    assert world.status(KEY)["progress"]["step"] == 40

    final_state = an_outcome(Stage.TRAIN, 77, message="The loss rose for 300 steps.", progress=a_progress(44))
    status = ended(77)
    (container,) = status["containerStatuses"]
    container["state"]["terminated"]["message"] = json.dumps(encode(final_state) | {"reason": "LossRose"})
    await world.pod("demo-train-1", status)

    assert world.status(KEY)["progress"]["step"] == 44
    assert condition(world, "Succeeded")["reason"] == "Diverged"
    assert "The loss rose for 300 steps." in condition(world, "Succeeded")["message"]
