"""Lives of a job that cover every way it can go: what its Pods end with, and what its user and the cluster do."""

from dataclasses import replace
from typing import Any, Final

from sftjob_contract.names import Stage
from sftjob_contract.reports.progress import Activity, Checkpoint
from sftjob_operator.effects.cluster import Object
from support.fakes.crash_points import Life, MortalWorld
from support.fakes.decisions import STATS
from support.fakes.fake_cluster import an_outcome, ended
from support.fakes.progress import a_progress
from support.jobs.builders import JobBuilder, a_job

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
    "an impossible spec": Life(a_job().training(extra={"output_dir": "/elsewhere"})),
}


def publishing() -> JobBuilder:
    return retried().lora().output(mergeAdapter=True)


KNOWS: Final = {
    "demo-prepare-1": ended(0, an_outcome(Stage.PREPARE, prepared=replace(STATS, publish_stage=True))),
    "demo-train-1": ended(0, an_outcome(Stage.TRAIN, unpublished=True)),
}
"""How the Pods of a trainer end that has the stage publish."""
PUBLISHED_LIVES: Final = {
    "published by a stage": Life(publishing(), KNOWS),
    "published at the second try": Life(publishing(), {**KNOWS, "demo-publish-1": ended(70)}),
    "published by no retry": Life(publishing(), {**KNOWS, **{f"demo-publish-{n}": ended(137) for n in (1, 2, 3)}}),
    "suspended while it is published": Life(
        publishing(),
        {**KNOWS, "demo-publish-1": ended(143)},
        {6: setting(suspend=True), 9: setting(suspend=False)},
        frozenset({"demo-publish-1"}),
    ),
    "over its deadline while it is published": Life(
        publishing().set("deadlineSeconds", 300),
        {**KNOWS, "demo-publish-1": ended(143)},
        stuck=frozenset({"demo-publish-1"}),
    ),
}
"""Lives with the stage publish, which the previous release does not know."""
