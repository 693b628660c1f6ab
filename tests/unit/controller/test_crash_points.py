"""The operator is killed before and after every single write of a whole life; another one ends it the same."""

from typing import Any

import pytest

from sftjob_contract.names import Stage
from sftjob_contract.progress import Activity, Checkpoint
from sftjob_operator.effects.cluster import Object
from support.builders import JobBuilder, a_job
from support.crash_points import CrashPoint, Life, Moment, MortalWorld, final_state, live
from support.fake_cluster import an_outcome, ended
from support.progress import a_progress

KEY = ("team", "demo")
PREEMPTED = {
    "type": "DisruptionTarget",
    "status": "True",
    "reason": "PreemptionByScheduler",
    "message": "preempting to accommodate a higher priority pod",
}


def retried() -> JobBuilder:
    return a_job().failure_policy(max_retries=2, backoff_seconds=10)


def stopped(code: int, reason: str, attempt: int = 1) -> Object:
    """Status of a trainer's Pod that ended at step 40, where it had saved a checkpoint."""
    checkpoint = Checkpoint(step=40, path="checkpoints/checkpoint-40", bytes=1000, time="2026-03-01T12:00:00Z")
    progress = a_progress(40, attempt, activity=Activity.SAVING, checkpoints=(checkpoint,))
    return ended(code, an_outcome(Stage.TRAIN, code, reason=reason, message="As told.", progress=progress))


def setting(**spec: Any) -> Any:
    """What the user patches."""

    async def act(world: MortalWorld) -> None:
        await world.change(KEY, **spec)

    return act


async def node_goes(world: MortalWorld) -> None:
    """The Pod that trains vanishes without a word."""
    name = world.live_train_pods()[0]
    world.cluster.remove("Pod", "team", name)
    await world.settle()


LIVES = {
    "success": Life(a_job()),
    "killed, then success": Life(retried(), {"demo-train-1": ended(137)}),
    "killed until no retry is left": Life(retried(), {f"demo-train-{n}": ended(137) for n in (1, 2, 3)}),
    "asked to stop by the cluster": Life(retried(), {"demo-train-1": stopped(75, "Interrupted")}),
    "preempted": Life(retried(), {"demo-train-1": ended(143) | {"conditions": [PREEMPTED]}}),
    "out of GPU memory": Life(retried(), {"demo-train-1": stopped(76, "GpuOutOfMemory")}),
    "diverged": Life(retried(), {"demo-train-1": stopped(77, "Diverged")}),
    "bad data": Life(
        a_job(),
        {"demo-prepare-1": ended(65, an_outcome(Stage.PREPARE, 65, reason="DataInvalid", message="Row 3 is empty."))},
    ),
    "prepared at the second try": Life(retried(), {"demo-prepare-1": ended(70)}),
    "suspended and resumed": Life(
        retried(),
        {"demo-train-1": stopped(75, "Interrupted")},
        {3: setting(suspend=True), 6: setting(suspend=False)},
        frozenset({"demo-train-1"}),
    ),
    "over its deadline": Life(
        retried().set("deadlineSeconds", 200),
        {"demo-train-1": stopped(75, "Interrupted")},
        stuck=frozenset({"demo-train-1"}),
    ),
    "cleaned up after its end": Life(a_job().set("ttlSecondsAfterFinished", 60)),
    "a node is lost": Life(retried(), acts={3: node_goes}, stuck=frozenset({"demo-train-1"})),
    "several nodes": Life(retried().resources(nodes=3)),
    "one of several nodes fails": Life(
        retried().resources(nodes=2), {"demo-train-1-1": ended(137), "demo-train-1": ended(143)}
    ),
    "an impossible spec": Life(a_job().set("method", "dance")),
}


@pytest.mark.parametrize("name", LIVES)
async def test_whenever_the_operator_is_killed_the_end_is_the_same(name: str) -> None:
    life = LIVES[name]
    undisturbed = await live(life)
    expected = final_state(undisturbed)
    assert undisturbed.status(KEY)["phase"] in ("Succeeded", "Failed")
    assert undisturbed.mortal.writes, "nothing was written, so nothing is tested"
    differing = []
    for number, what in enumerate(undisturbed.mortal.writes, start=1):
        for moment in Moment:
            world = await live(life, CrashPoint(number, moment))
            if final_state(world) != expected or twice(world):
                differing.append(f"{moment} write {number} ({what}): {twice(world) or 'another end'}")
    assert differing == []


def twice(world: MortalWorld) -> list[str]:
    """What was created twice, and whether two attempts ever trained at the same time."""
    several = ["two attempts"] if world.mortal.most_attempts > 1 else []
    return several + [what for what, times in world.mortal.created.items() if times > 1]
