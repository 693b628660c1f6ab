"""Mutated reports, termination messages, Pods and stored jobs: no decision faults, none costs much, all fit the CRD.

SFTJOB_FUZZ_SCALE multiplies the number of inputs, which are those of SFTJOB_FUZZ_SEED and the numbers after it.
"""

import copy
import json
import os
import random
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Any, Self

import pytest

from sftjob_contract.codec import encode, from_untrusted_json
from sftjob_contract.names import KIND, PROGRESS_BODY_LIMIT_BYTES, Stage
from sftjob_contract.reports.outcome import Output
from sftjob_contract.reports.progress import Checkpoint, HistoryPoint, Progress, SkippedCheckpoint
from sftjob_operator.api import InvalidJobError, read_job, to_dict
from sftjob_operator.cluster_cache import job_key, stored_job
from sftjob_operator.effects.cache import Cache
from sftjob_operator.progress.kubeflow import kubeflow_progress
from sftjob_operator.reconcile import Observed, PodView, Report, decide, pod_job, pod_view, usable_progress
from sftjob_operator.render import pod
from support.checks.stored_status import refusals
from support.fakes.decisions import PREPARED, a_pod
from support.fakes.fake_cluster import (
    INTERVAL_SECONDS,
    RENDER,
    SETTINGS,
    START,
    World,
    an_outcome,
    ended,
    moment,
    running,
    waiting,
)
from support.fakes.mutations import as_text, mutated
from support.fakes.progress import a_progress
from support.jobs.builders import a_job
from support.jobs.model_shapes import QWEN_05B, stats_with

SEED = int(os.environ.get("SFTJOB_FUZZ_SEED", "20260301"))
SCALE = int(os.environ.get("SFTJOB_FUZZ_SCALE", "1"))
"""50 makes 20,000 inputs of decisions and 3,000 of the controller."""
pytestmark = pytest.mark.timeout(300 * SCALE)
KEY = ("team", "demo")
MOST_CALLS = 250_000
"""Calls of functions, those in C included, that one input may take from its bytes to the decision. A decision about a
real job takes 15,000; the largest input that is accepted, with hundreds of entries in each list, takes several times
as many."""
JOB = a_job().resources(gpus=1, gpuMemory="24Gi")
FULL = a_progress(
    7,
    loss=2.5,
    step_seconds=1.0,
    checkpoints=(Checkpoint(step=5, path="checkpoints/checkpoint-5", bytes=9, time=moment(0)),),
    unverified_checkpoints=(3,),
    skipped_checkpoints=(SkippedCheckpoint(path="checkpoints/checkpoint-4", why="a file is missing"),),
    history=(HistoryPoint(step=0, eval_loss=3.0), HistoryPoint(step=5, loss=2.0)),
)
KUBEFLOW = {
    "trainerStatus": {
        "lastUpdatedTime": "2026-03-01T12:00:05+00:00",
        "progressPercentage": 20,
        "metrics": [{"name": "current_step", "value": "20"}, {"name": "total_steps", "value": "100"}],
    }
}
TRAINED = an_outcome(
    Stage.TRAIN, 0, progress=FULL, output=Output(path="output/model", metrics={"evalLoss": 1.5}), libraries={"trl": "1"}
)
COUNTED = an_outcome(Stage.PREPARE, 0, prepared=stats_with(QWEN_05B))
STATUSES = (
    running(),
    ended(0, TRAINED),
    ended(65, an_outcome(Stage.TRAIN, 65, message="no")),
    ended(137),
    waiting("X"),
)


class Calls:
    """Counts calls while it is entered."""

    def __enter__(self) -> Self:
        self.number = 0
        sys.setprofile(self._count)
        return self

    def __exit__(self, *_: object) -> None:
        sys.setprofile(None)

    def _count(self, _frame: Any, event: str, _argument: Any) -> None:
        self.number += event in {"call", "c_call"}


def decided(**observed: Any) -> dict[str, Any]:
    return to_dict(decide(Observed(published_ca="CA", **{"job": JOB.build(), **observed}), SETTINGS, START).status)


def a_body(status: Any, stage: Stage = Stage.TRAIN) -> dict[str, Any]:
    body = pod(JOB.build(), stage, 1, RENDER)
    return {**body, "metadata": {**body["metadata"], "uid": "u", "resourceVersion": "7"}, "status": status}


def seen(body: dict[str, Any]) -> tuple[PodView, ...]:
    """The Pods that a decision sees after the watch brought this one."""
    cache: Cache[PodView] = Cache(pod_view, pod_job)
    cache.put(body)
    return tuple(view for key in cache.jobs() for view in cache.get(key))


def a_report(rng: random.Random) -> dict[str, Any] | None:
    text = as_text(rng, mutated(rng, encode(FULL))).encode(errors="replace")
    try:
        progress = usable_progress(from_untrusted_json(Progress, text, longest=PROGRESS_BODY_LIMIT_BYTES))
    except ValueError:
        return None
    report = Report(progress=progress, received=START)
    return decided(pods=(PREPARED, a_pod(Stage.TRAIN)), report=report)


def a_kubeflow_status(rng: random.Random) -> dict[str, Any] | None:
    text = as_text(rng, mutated(rng, KUBEFLOW)).encode(errors="replace")
    try:
        progress = usable_progress(kubeflow_progress(text, 1, rng.choice((None, FULL))))
    except ValueError:
        return None
    return decided(pods=(PREPARED, a_pod(Stage.TRAIN)), report=Report(progress=progress, received=START))


def a_termination_message(rng: random.Random) -> dict[str, Any] | None:
    outcome, stage = rng.choice(((TRAINED, Stage.TRAIN), (COUNTED, Stage.PREPARE)))
    status = ended(0)
    (container,) = status["containerStatuses"]
    container["state"]["terminated"]["message"] = as_text(rng, mutated(rng, encode(outcome)))
    return decided(pods=seen(a_body(status, stage)))


def a_pod_of_the_watch(rng: random.Random) -> dict[str, Any] | None:
    body = a_body(copy.deepcopy(rng.choice(STATUSES)))
    part = rng.choice(("status", "status", "metadata"))
    pods = seen({**body, part: mutated(rng, body[part])})
    return decided(pods=(PREPARED, *pods))


STORED = JOB.with_status(decide(Observed(job=JOB.build(), pods=(PREPARED,)), SETTINGS, START).status).body()


def a_stored_job(rng: random.Random) -> dict[str, Any] | None:
    part = rng.choice(("spec", "status", "status"))
    body = {**STORED, part: mutated(rng, STORED[part])}
    cache: Cache[dict[str, Any]] = Cache(stored_job, job_key)
    if cache.put(body) is None:
        return None
    (known,) = cache.get(job_key(body))
    try:
        job, _ = read_job(known)
    except InvalidJobError:
        return None
    return decided(job=job, pods=(PREPARED,))


@pytest.mark.parametrize(
    ("enter", "number", "checked"),
    [
        (a_report, 140, 5),
        (a_kubeflow_status, 60, 10),
        (a_termination_message, 80, 5),
        (a_pod_of_the_watch, 80, 10),
        (a_stored_job, 40, 10),
    ],
)
def test_no_input_faults_a_decision_or_costs_more_than_its_budget(
    enter: Callable[[random.Random], dict[str, Any] | None], number: int, checked: int
) -> None:
    accepted, number = 0, number * SCALE
    for seed in range(SEED, SEED + number):
        with Calls() as calls:
            status = enter(random.Random(seed))
        assert calls.number < MOST_CALLS, seed
        accepted += status is not None
        if status is not None and accepted % checked == 0:
            assert refusals(json.loads(json.dumps(status))) == [], seed
    assert number / 20 < accepted, "most mutations have to reach a decision"


async def a_world_that_trains() -> World:
    world = World()
    await world.apply(JOB)
    await world.pod("demo-prepare-1", ended(0, COUNTED))
    await world.pod("demo-train-1", running())
    return world


def its_report(world: World, rng: random.Random) -> None:
    text = as_text(rng, mutated(rng, encode(FULL))).encode(errors="replace")
    with suppress(ValueError):
        world.controller.report(KEY, from_untrusted_json(Progress, text, longest=PROGRESS_BODY_LIMIT_BYTES))


def its_kubeflow_status(world: World, rng: random.Random) -> None:
    text = as_text(rng, mutated(rng, KUBEFLOW)).encode(errors="replace")
    with suppress(ValueError):
        world.controller.report(KEY, kubeflow_progress(text, 1, world.controller.newest_progress(KEY)))


def its_last_words(world: World, rng: random.Random) -> None:
    status = ended(rng.choice((0, 75, 137)))
    (container,) = status["containerStatuses"]
    container["state"]["terminated"]["message"] = as_text(rng, mutated(rng, encode(TRAINED)))
    world.set_pod("demo-train-1", status)


def its_pod(world: World, rng: random.Random) -> None:
    world.set_pod("demo-train-1", mutated(rng, copy.deepcopy(rng.choice(STATUSES))))


def its_stored_status(world: World, rng: random.Random) -> None:
    """What the API server stores, of whichever operator. A job whose status cannot be read is held, and stays as it is.

    (The server takes a list where a text with a format is asked for, so that not each status that it stores is read.)
    """
    stored = world.cluster.objects[KIND, *KEY]
    changed = {**stored, "status": mutated(rng, stored["status"])}
    with suppress(InvalidJobError, UnicodeEncodeError):
        json.dumps(changed, ensure_ascii=False).encode()
        read_job(changed)
        if refusals(json.loads(json.dumps(changed["status"]))) == []:
            world.cluster.store(changed, "MODIFIED")


@pytest.mark.parametrize(
    ("arrives", "number"),
    [(its_report, 12), (its_kubeflow_status, 8), (its_last_words, 12), (its_pod, 16), (its_stored_status, 12)],
)
async def test_whatever_arrives_the_controller_writes_a_valid_status_and_still_obeys(
    arrives: Callable[[World, random.Random], None], number: int
) -> None:
    for seed in range(SEED, SEED + number * SCALE):
        world = await a_world_that_trains()
        arrives(world, random.Random(seed))
        await world.settle()
        await world.pass_time(INTERVAL_SECONDS)
        await world.change(KEY, suspend=True)
        await world.pass_time(INTERVAL_SECONDS)
        faults = world.metrics.registry.get_sample_value("sftjob_reconcile_errors_total", {"cause": "fault"})
        assert faults == 0, seed
        assert refusals(json.loads(json.dumps(world.status(KEY)))) == [], seed
        pods = {name: body for (kind, _, name), body in world.cluster.objects.items() if kind == "Pod"}
        trains_on = [name for name in world.live_train_pods() if "deletionTimestamp" not in pods[name]["metadata"]]
        assert trains_on == [], seed
