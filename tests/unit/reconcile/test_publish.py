"""The Publish stage: when it begins, what follows from its Pods, and what an earlier version left."""

from dataclasses import replace as replace_stats
from typing import Any

import pytest

from sftjob_contract.layout import OUTPUT_ADAPTER
from sftjob_contract.names import LABEL_STAGE, Stage
from sftjob_contract.reports.outcome import Output
from sftjob_contract.reports.progress import Checkpoint
from sftjob_operator.api import to_dict
from sftjob_operator.metrics.jobs import goodput
from sftjob_operator.reconcile import Create, Decision, Observed, PodPhase, PodView, decide_stop
from support.fakes.decisions import STATS, a_pod, acts, an_ended_pod, created, decided, message, said
from support.fakes.fake_cluster import SETTINGS, START, an_outcome, moment
from support.fakes.progress import a_progress
from support.jobs.builders import JobBuilder, a_job

KNOWS = an_ended_pod(
    Stage.PREPARE, 0, outcome=an_outcome(Stage.PREPARE, prepared=replace_stats(STATS, publish_stage=True))
)
"""The Prepare Pod of a trainer that has the stage."""
KNOWS_NOT = an_ended_pod(Stage.PREPARE, 0, outcome=an_outcome(Stage.PREPARE, prepared=STATS))
TRAINED = an_ended_pod(Stage.TRAIN, 0, outcome=an_outcome(Stage.TRAIN, unpublished=True), seconds=100)
OUTPUT = Output(path=OUTPUT_ADAPTER, metrics={"evalLoss": 1.5}, uploaded=("hf://team/bot",))
ALL_IN_TRAIN = an_ended_pod(Stage.TRAIN, 0, outcome=an_outcome(Stage.TRAIN, output=OUTPUT), seconds=100)
"""What a trainer leaves that an earlier operator started: it has published."""
PUBLISHED = an_ended_pod(Stage.PUBLISH, 0, outcome=an_outcome(Stage.PUBLISH, output=OUTPUT), seconds=160)
TOKEN = {"name": "hub-write", "key": "token"}


def publishing(**output: Any) -> JobBuilder:
    return a_job().lora().output(**(output or {"hub": {"repository": "team/bot", "tokenSecretRef": TOKEN}}))


@pytest.mark.parametrize(
    ("pods", "phase", "actions"),
    [
        ((KNOWS, a_pod(Stage.TRAIN)), "Running", []),
        ((KNOWS, TRAINED), "Publishing", ["ConfigMap/demo-config", "Pod/demo-publish-1"]),
        ((KNOWS, an_ended_pod(Stage.TRAIN, 0)), "Publishing", ["ConfigMap/demo-config", "Pod/demo-publish-1"]),
        ((KNOWS, TRAINED, a_pod(Stage.PUBLISH, PodPhase.PENDING)), "Publishing", []),
        ((KNOWS, TRAINED, a_pod(Stage.PUBLISH)), "Publishing", []),
        ((KNOWS, a_pod(Stage.PUBLISH)), "Publishing", []),
        ((KNOWS, TRAINED, PUBLISHED), "Succeeded", []),
        ((KNOWS, PUBLISHED), "Succeeded", []),
        (
            (KNOWS, TRAINED, an_ended_pod(Stage.PUBLISH, 70)),
            "Restarting",
            ["ConfigMap/demo-config", "Pod/demo-publish-2"],
        ),
        ((KNOWS, TRAINED, an_ended_pod(Stage.PUBLISH, 66)), "Failed", []),
        ((KNOWS, ALL_IN_TRAIN), "Succeeded", []),
        ((KNOWS_NOT, ALL_IN_TRAIN), "Succeeded", []),
        ((KNOWS_NOT, an_ended_pod(Stage.TRAIN, 0)), "Succeeded", []),
    ],
)
def test_the_phase_and_the_actions_follow_from_the_pods(
    pods: tuple[PodView, ...], phase: str, actions: list[str]
) -> None:
    decision = decided(*pods, job=publishing(), seconds=170)

    assert (decision.status.phase, created(decision)) == (phase, actions)


@pytest.mark.parametrize(
    "output",
    [
        {"mergeAdapter": True},
        {"upload": {"uri": "s3://lab/bot"}},
        {"hub": {"repository": "a/b", "tokenSecretRef": TOKEN}},
    ],
)
def test_each_kind_of_copying_has_the_stage_and_a_plain_output_has_none(output: dict[str, Any]) -> None:
    assert decided(KNOWS, TRAINED, job=a_job().lora().output(**output)).status.phase == "Publishing"
    assert decided(KNOWS, an_ended_pod(Stage.TRAIN, 0), job=a_job().lora()).status.phase == "Succeeded"


def pod_in(decision: Decision) -> dict[str, Any]:
    (body,) = [a.body for a in decision.actions if isinstance(a, Create) and a.body["kind"] == "Pod"]
    return dict(body)


def test_the_status_shows_the_stage_in_phase_condition_and_attempts() -> None:
    running = a_pod(Stage.PUBLISH, started=moment(110), node="cpu-1")
    decision = decided(KNOWS, TRAINED, running, job=publishing(), seconds=120)

    status = to_dict(decision.status)
    assert [(a["stage"], a["number"], a["pod"]) for a in status["attempts"]][-1] == ("publish", 1, "demo-publish-1")
    assert said(decision, "Running") == ("False", "Publishing")
    assert said(decision, "Succeeded") == ("Unknown", "Publishing")
    assert "Attempt 1 of stage publish runs in Pod demo-publish-1 on node cpu-1." in [
        e.message for e in decision.events
    ]


def test_output_and_copies_are_those_of_the_publish_pod() -> None:
    decision = decided(KNOWS, TRAINED, PUBLISHED, job=publishing(), seconds=170)

    status = to_dict(decision.status)
    assert status["output"]["uploaded"] == ["hf://team/bot"]
    assert status["completionTime"] == moment(160)


def test_a_failed_push_is_tried_again_without_a_gpu_and_by_a_budget_of_its_own() -> None:
    job = publishing().failure_policy(max_retries=1, backoff_seconds=0).resources(gpus=8)
    pods = (KNOWS, an_ended_pod(Stage.TRAIN, 1, 1), an_ended_pod(Stage.TRAIN, 0, 2, outcome=TRAINED.outcome))
    first = an_ended_pod(Stage.PUBLISH, 70, 1, seconds=10)

    again = decided(*pods, first, job=job, seconds=20)
    assert created(again) == ["ConfigMap/demo-config", "Pod/demo-publish-2"]
    assert "nvidia.com/gpu" not in str(pod_in(again)["spec"]["containers"][0]["resources"])

    spent = decided(*pods, first, an_ended_pod(Stage.PUBLISH, 70, 2, seconds=30), job=job, seconds=40)
    assert said(spent, "Succeeded") == ("False", "RetriesExhausted")
    assert "All 2 attempts of stage publish failed" in message(spent, "Succeeded")


NEWEST = Checkpoint(step=96, path="checkpoints/checkpoint-96", bytes=7, time=moment(90))


@pytest.mark.parametrize(
    ("output", "prepare", "advice"),
    [
        ({"mergeAdapter": True}, {"memory": "2Gi"}, "Raise spec.resources.memory."),
        ({"upload": {"uri": "s3://lab/bot"}}, {"memory": "2Gi"}, "Raise spec.resources.prepare.memory."),
        ({"upload": {"uri": "s3://lab/bot"}}, {}, "Raise spec.resources.memory."),
    ],
)
def test_a_publish_pod_without_memory_ends_the_job_at_the_second_time_with_the_checkpoint_and_the_field(
    output: dict[str, Any], prepare: dict[str, Any], advice: str
) -> None:
    job = publishing(**output).resources(memory="64Gi", prepare=prepare)
    word = an_outcome(Stage.TRAIN, unpublished=True, progress=a_progress(96, max_steps=96, checkpoints=(NEWEST,)))
    trained = an_ended_pod(Stage.TRAIN, 0, outcome=word)
    killed = [an_ended_pod(Stage.PUBLISH, 137, number, reason="OOMKilled") for number in (1, 2)]

    decision = decided(KNOWS, trained, *killed, job=job, seconds=1000)

    assert said(decision, "Succeeded") == ("False", "HostOutOfMemory")
    kept = "Training is complete; its newest checkpoint is pvc://demo/checkpoints/checkpoint-96."
    assert f"{kept} {advice} Log: kubectl logs -n team demo-publish-2" in message(decision, "Succeeded")
    assert created(decision) == []


def test_suspending_ends_the_publish_pod_and_resuming_starts_another() -> None:
    job = publishing()
    held = decided(KNOWS, TRAINED, a_pod(Stage.PUBLISH), job=job.set("suspend", True), seconds=120)
    rests = decided(KNOWS, TRAINED, job=job.set("suspend", True), seconds=120)

    assert [action.name for action in held.actions] == ["demo-publish-1"]
    assert (rests.status.phase, rests.actions) == ("Suspended", ())
    assert "Training is complete; the Publish stage comes next." in str(rests.status.conditions)


def test_no_publish_pod_is_created_while_a_train_pod_is_left() -> None:
    """A claim that one node has at a time is still attached there."""
    two = publishing().resources(nodes=2)
    ended = an_ended_pod(Stage.TRAIN, 0, rank=0, outcome=TRAINED.outcome)

    assert created(decided(KNOWS, ended, a_pod(Stage.TRAIN, rank=1), job=two)) == []


def test_time_in_the_stage_is_shown_apart() -> None:
    ran = replace_stats(PUBLISHED, started=moment(110))
    status = decided(KNOWS, TRAINED, ran, job=publishing(), seconds=170).status

    assert goodput(status, moment(0), START)["publishing"] == 50.0


def test_only_the_pod_that_publishes_has_the_credentials() -> None:
    job = publishing(
        hub={"repository": "a/b", "tokenSecretRef": TOKEN}, upload={"uri": "s3://l/b", "secretRef": {"name": "store"}}
    )
    train, publish = decided(KNOWS, job=job), decided(KNOWS, TRAINED, job=job)
    older = decided(KNOWS_NOT, job=job)

    for decision, stage, has in ((train, "train", False), (publish, "publish", True), (older, "train", True)):
        body = pod_in(decision)
        assert body["metadata"]["labels"][LABEL_STAGE] == stage
        assert ("hub-write" in str(body), "'store'" in str(body)) == (has, has)
        assert ("SFTJOB_PUBLISH_STAGE" in str(body)) == (decision is train)


def test_a_job_that_can_be_read_in_part_only_is_stopped_while_it_is_published_and_kept_after_that() -> None:
    job = publishing().set("suspend", True).build()

    stops = decide_stop(Observed(job=job, pods=(KNOWS, TRAINED, a_pod(Stage.PUBLISH))), SETTINGS, START, "Upgrade.")
    done = decide_stop(Observed(job=job, pods=(KNOWS, TRAINED, PUBLISHED)), SETTINGS, START, "Upgrade.")

    assert stops is not None
    assert acts(stops) == ["delete Pod/demo-publish-1"]
    assert done is None
