"""What Argo CD and Flux are told about a job in every state that it can be in."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from lupa import lua51

from sftjob_contract.names import KIND, Stage
from sftjob_contract.reasons import Reason
from sftjob_operator.api import Condition, ConditionStatus, ConditionType, Phase, SFTJobStatus
from sftjob_operator.effects.cluster import ClusterError, ForbiddenError, InvalidError
from support.checks.gitops import Health, argo_health, flux_status
from support.fakes.fake_cluster import (
    INTERVAL_SECONDS,
    World,
    an_outcome,
    ended,
    gated,
    moment,
    running,
    unschedulable,
    waiting,
)
from support.fakes.job_lives import KNOWS, publishing
from support.fakes.progress import a_progress
from support.jobs.builders import JobBuilder, a_job

Object = dict[str, Any]
Step = Callable[[World], Awaitable[None]]
KEY = ("team", "demo")


@dataclass(frozen=True)
class State:
    """A job, what the API server says to its first Pod, and what happens then."""

    job: JobBuilder
    steps: tuple[Step, ...]
    refusal: ClusterError | None = None

    async def played(self) -> Object:
        """The stored job after all of it, as a real controller left it."""
        world = World()
        if self.refusal is not None:
            world.cluster.fail("create", "Pod", self.refusal)
        await world.apply(self.job)
        for step in self.steps:
            await step(world)
        return world.cluster.objects[KIND, *KEY]


def after(*steps: Step, job: JobBuilder | None = None, refusal: ClusterError | None = None) -> State:
    return State(job or a_job(), steps, refusal)


def pod(name: str, status: Object) -> Step:
    async def step(world: World) -> None:
        await world.pod(f"demo-{name}", status)

    return step


def change(**spec: Any) -> Step:
    async def step(world: World) -> None:
        await world.change(KEY, **spec)

    return step


def unseen(**spec: Any) -> Step:
    """The spec is changed while the operator is down."""

    async def step(world: World) -> None:
        stored = world.cluster.objects[KIND, *KEY]
        metadata = stored["metadata"] | {"generation": stored["metadata"]["generation"] + 1}
        world.cluster.store({**stored, "metadata": metadata, "spec": {**stored["spec"], **spec}}, "MODIFIED")

    return step


async def stopped(world: World) -> None:
    await world.pod_leaves("demo-train-1", ended(75, an_outcome(Stage.TRAIN, 75, reason="Interrupted")))


async def restart(world: World) -> None:
    await world.restart_operator()


async def later(world: World) -> None:
    """What is not urgent is written by now."""
    await world.pass_time(INTERVAL_SECONDS)


async def report(world: World) -> None:
    progress = a_progress(40, 1, 5, max_steps=96, tokens=4000)
    world.controller.report(KEY, progress)
    await world.settle()


PREPARED = (pod("prepare-1", running()), pod("prepare-1", ended(0, an_outcome(Stage.PREPARE))))
TRAINING = (*PREPARED, pod("train-1", running()))
DONE = (*TRAINING, pod("train-1", ended(0, an_outcome(Stage.TRAIN))))
BAD_DATA = ended(65, an_outcome(Stage.PREPARE, 65, reason="DataInvalid", message="train.jsonl:17: no column 'text'."))
NAN = ended(77, an_outcome(Stage.TRAIN, 77, reason="Diverged", message="The loss is NaN at step 3."))

PROGRESSING = ("Progressing", "InProgress")
SUSPENDED = ("Suspended", "Current")
HEALTHY = ("Healthy", "Current")
DEGRADED = ("Degraded", "Failed")

WORDS = "a valid label must be an empty string or consist of alphanumeric characters"
CAUSE = ("spec.nodeSelector", f'Invalid value: "a b": {WORDS}')
REJECTED = InvalidError(f'Pod "demo-prepare-1" is invalid: {CAUSE[0]}: {CAUSE[1]}', (CAUSE,))

STATES = {
    "created": (after(), "Pending", PROGRESSING, "Pending: Pod demo-prepare-1 was created"),
    "no quota for a Pod": (
        after(refusal=ForbiddenError("exceeded quota")),
        "Pending",
        PROGRESSING,
        "Pending: exceeded quota",
    ),
    "no node for Prepare": (
        after(pod("prepare-1", unschedulable("0/3 nodes are available")), later),
        "Pending",
        PROGRESSING,
        "Pending: Pod demo-prepare-1 cannot be scheduled: 0/3 nodes are available",
    ),
    "preparing": (
        after(pod("prepare-1", running())),
        "Preparing",
        PROGRESSING,
        "Preparing: Attempt 1 runs in Pod demo-prepare-1.",
    ),
    "prepared": (after(*PREPARED, later), "Preparing", PROGRESSING, "Preparing: Pod demo-train-1 was created"),
    "no GPU is free": (
        after(*PREPARED, pod("train-1", unschedulable("Insufficient nvidia.com/gpu")), later),
        "Queued",
        PROGRESSING,
        "Queued: Pod demo-train-1 cannot be scheduled: Insufficient nvidia.com/gpu",
    ),
    "its queue holds it back": (
        after(*PREPARED, pod("train-1", gated()), job=a_job().scheduling(queue_name="gpus")),
        "Queued",
        PROGRESSING,
        "Queued: Pod demo-train-1 waits until queue gpus admits it.",
    ),
    "the image cannot be pulled": (
        after(*PREPARED, pod("train-1", waiting("ImagePullBackOff", "not found")), later),
        "Preparing",
        PROGRESSING,
        "Preparing: Pod demo-train-1 waits with ImagePullBackOff: not found",
    ),
    "training": (after(*TRAINING), "Running", PROGRESSING, "Running: Attempt 1 runs in Pod demo-train-1."),
    "training with reports": (
        after(*TRAINING, report),
        "Running",
        PROGRESSING,
        "Running: step 40 of 96 (41 %) at 2026-03-01T12:00:00Z. Attempt 1 runs in Pod demo-train-1.",
    ),
    "publishing": (
        after(
            pod("prepare-1", running()),
            pod("prepare-1", KNOWS["demo-prepare-1"]),
            pod("train-1", running()),
            pod("train-1", KNOWS["demo-train-1"]),
            pod("publish-1", running()),
            later,
            job=publishing(),
        ),
        "Publishing",
        PROGRESSING,
        "Training is complete; the Publish stage comes next. Attempt 1 runs in Pod demo-publish-1.",
    ),
    "waiting to try again": (
        after(*TRAINING, report, pod("train-1", ended(137))),
        "Restarting",
        PROGRESSING,
        "Restarting: step 40 of 96 (41 %) at 2026-03-01T12:00:00Z. Attempt 1 ended with Killed",
    ),
    "stopping to be suspended": (
        after(*TRAINING, change(suspend=True)),
        "Running",
        PROGRESSING,
        "Running: The job is being suspended (spec.suspend).",
    ),
    "suspended from the start": (
        after(job=a_job().set("suspend", True)),
        "Suspended",
        SUSPENDED,
        "The job is suspended. Nothing has been prepared yet.",
    ),
    "suspended at a step": (
        after(*TRAINING, report, change(suspend=True), stopped),
        "Suspended",
        SUSPENDED,
        "The job is suspended. Training reached step 40 of 96",
    ),
    "to go on, not seen yet": (
        after(*TRAINING, change(suspend=True), stopped, unseen(suspend=False)),
        "Suspended",
        PROGRESSING,
        "The operator has not seen this spec yet.",
    ),
    "gone on": (
        after(*TRAINING, change(suspend=True), stopped, change(suspend=False), pod("train-2", running())),
        "Running",
        PROGRESSING,
        "Running: Attempt 2 runs in Pod demo-train-2.",
    ),
    "done": (after(*DONE), "Succeeded", HEALTHY, "Training is complete"),
    "done and changed, not seen yet": (
        after(*DONE, unseen(ttlSecondsAfterFinished=60)),
        "Succeeded",
        ("Healthy", "InProgress"),
        "Training is complete",
    ),
    "done and changed": (after(*DONE, change(deadlineSeconds=60), later), "Succeeded", HEALTHY, "Training is complete"),
    "done and changed with no operator": (
        after(*DONE, unseen(suspend=True), restart, later),
        "Succeeded",
        HEALTHY,
        "Training is complete",
    ),
    "done and cleaned up": (
        after(*DONE, change(ttlSecondsAfterFinished=0)),
        "Succeeded",
        HEALTHY,
        "Its Pods and volume were deleted after 0 s",
    ),
    "bad data": (
        after(pod("prepare-1", running()), pod("prepare-1", BAD_DATA)),
        "Failed",
        DEGRADED,
        "DataInvalid: train.jsonl:17: no column 'text'.",
    ),
    "diverged": (
        after(*TRAINING, pod("train-1", NAN)),
        "Failed",
        DEGRADED,
        "Diverged: The loss is NaN at step 3.",
    ),
    "failed and changed": (
        after(*TRAINING, pod("train-1", NAN), change(suspend=True), later),
        "Failed",
        DEGRADED,
        "Diverged: The loss is NaN at step 3.",
    ),
    "no retry left": (
        after(*TRAINING, pod("train-1", ended(137)), job=a_job().failure_policy(max_retries=0)),
        "Failed",
        DEGRADED,
        "Killed: Signal 9 ended the trainer.",
    ),
    "a Pod is called invalid": (
        after(job=a_job().scheduling(node_selector={"tier": "a b"}), refusal=REJECTED),
        "Failed",
        DEGRADED,
        'ConfigInvalid: The API server rejected the Pod demo-prepare-1: Pod "demo-prepare-1" is invalid: spec.node',
    ),
    "the stored spec does not parse": (
        after(job=a_job().set("method", None)),
        "Pending",
        PROGRESSING,
        "Pending: spec must have model, dataset and method, or command. This version of the operator cannot read",
    ),
}


@pytest.mark.parametrize(("state", "phase", "health", "message"), STATES.values(), ids=STATES.keys())
async def test_every_state_has_a_health_and_a_sentence(
    state: State, phase: str, health: tuple[str, str], message: str
) -> None:
    job = await state.played()
    argo = argo_health(job)
    assert job["status"]["phase"] == phase
    assert (argo.status, flux_status(job)) == health
    assert message in argo.message


def test_the_table_has_every_phase_and_every_health() -> None:
    assert {row[1] for row in STATES.values()} == {str(phase) for phase in Phase}
    assert {row[2] for row in STATES.values()} >= {PROGRESSING, SUSPENDED, HEALTHY, DEGRADED}


@pytest.mark.parametrize(
    ("status", "flux"),
    [(None, "Unknown"), ({}, "InProgress"), ({"conditions": []}, "InProgress")],
    ids=["no status", "an empty one", "no conditions"],
)
def test_a_job_that_no_operator_has_seen_is_progressing(status: Object | None, flux: str) -> None:
    job = {name: part for name, part in {**a_job().body(), "status": status}.items() if part is not None}
    assert argo_health(job) == Health("Progressing", "The operator has not seen this spec yet.")
    assert flux_status(job) == flux  # Flux waits on both


@pytest.mark.parametrize("reason", list(Reason))
def test_every_failure_is_degraded_and_named(reason: Reason) -> None:
    condition = Condition(
        type=ConditionType.SUCCEEDED,
        status=ConditionStatus.FALSE,
        last_transition_time=moment(0),
        reason=reason,
        message="What to do about it.",
    )
    status = SFTJobStatus(phase=Phase.FAILED, observed_generation=1, conditions=(condition,))
    job = a_job().with_status(status).body()
    assert argo_health(job) == Health("Degraded", f"{reason}: What to do about it.")
    assert flux_status(job) == "Failed"


@pytest.mark.parametrize("name", ["string", "math", "io", "debug", "dofile", "python"])
def test_the_script_runs_without_what_argo_cd_does_not_give(name: str) -> None:
    nothing = argo_health({}, f"return {{ status = 'Healthy', message = type({name}) }}")
    assert nothing.message == "nil"
    with pytest.raises(lua51.LuaError):
        argo_health({}, "return ('text'):upper()")


async def test_children_carry_no_mark_by_which_a_tool_would_take_them_for_its_own() -> None:
    marks = {"app.kubernetes.io/instance": "app", "kustomize.toolkit.fluxcd.io/name": "sftjobs"}
    tracked = a_job().meta(labels=marks, annotations={"argocd.argoproj.io/tracking-id": "app:sftjob.dev/SFTJob"})
    world = World()
    await world.apply(tracked)
    for step in TRAINING:
        await step(world)
    children = [request.body["metadata"] for request in world.requests("create") if request.kind != "Event"]
    found = {mark for child in children for mark in (*child["labels"], *child.get("annotations", {}))}
    assert len(children) == 4
    assert not [mark for mark in found if "instance" in mark or "argocd" in mark or "fluxcd" in mark]
