"""One job from apply to Succeeded, looked at as its user does: with kubectl."""

import json
import subprocess
from dataclasses import dataclass
from typing import Any

import pytest

from sftjob_contract.layout import (
    EVAL_RESULTS,
    MANIFEST,
    METRICS,
    OUTPUT_MODEL,
    PREPARED_STATS,
    RUN_CONFIG,
    TRAIN_LOG,
)
from support.faults import faulty, slow
from support.jobs.builders import JobBuilder
from support.jobs.small_jobs import a_small_job, metrics, phase, reach
from support.stacks.running_stack import Lab

NAME = "story"
STEPS = 400


def first_job() -> JobBuilder:
    return a_small_job(NAME).training(max_steps=STEPS).checkpoints(every_steps=100, keep=2).env(**faulty(slow(0.025)))


@dataclass(frozen=True)
class Story:
    """The finished job, and every status that a watcher saw on the way."""

    status: dict[str, Any]
    seen: list[dict[str, Any]]
    watched: str


@pytest.fixture(scope="module")
def story(lab: Lab) -> Story:
    assert lab.apply(first_job()) == f"sftjob.sftjob.dev/{NAME} created\n"
    watch = subprocess.Popen(lab.kubectl.command("get", "sft", NAME, "-w"), stdout=subprocess.PIPE, text=True)
    seen: list[dict[str, Any]] = []

    def ended(status: dict[str, Any]) -> bool:
        seen.append(status)
        return phase("Succeeded", "Failed")(status)

    try:
        status = reach(lab.cluster, NAME, ended)
        watched = printed_until(status["phase"], watch)
    finally:
        watch.terminate()
        watch.communicate(timeout=10)
    return Story(status, seen, watched)


def printed_until(word: str, process: subprocess.Popen[str]) -> str:
    """What a process prints up to the line with `word`, which may come a moment after the API server knows it."""
    lines: list[str] = []
    assert process.stdout is not None
    while not lines or word not in lines[-1]:
        lines.append(process.stdout.readline())
        assert lines[-1], f"it ended without {word}: {lines}"
    return "".join(lines)


def distinct(values: list[Any]) -> list[Any]:
    """`values` without repetitions in a row."""
    return [value for i, value in enumerate(values) if i == 0 or value != values[i - 1]]


def test_its_phases_come_in_order(story: Story) -> None:
    phases = distinct([status["phase"] for status in story.seen if "phase" in status])
    assert phases == ["Pending", "Preparing", "Running", "Succeeded"]


def test_its_step_rises_while_one_watches(story: Story) -> None:
    steps = distinct([status["progress"]["step"] for status in story.seen if "step" in status.get("progress", {})])
    assert steps == sorted(steps)
    assert len(steps) >= 8
    assert steps[-1] == STEPS


def test_its_evaluation_loss_falls(story: Story) -> None:
    found = story.status["output"]["metrics"]
    assert found["evalLoss"] < 0.8 * found["initialEvalLoss"]


def test_its_volume_is_laid_out_as_documented(story: Story, lab: Lab) -> None:
    volume = lab.stack.volume(NAME)
    assert story.status["output"]["uri"] == f"pvc://{NAME}/{OUTPUT_MODEL}"
    for path in (PREPARED_STATS, METRICS, TRAIN_LOG, EVAL_RESULTS, RUN_CONFIG):
        assert (volume / path).stat().st_size > 0, path
    files = {path.name for path in (volume / OUTPUT_MODEL).iterdir()}
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= files
    assert metrics(lab.stack, NAME)[-1]["step"] == STEPS


def test_its_status_lists_the_checkpoints_that_are_there(story: Story, lab: Lab) -> None:
    listed = [checkpoint["uri"] for checkpoint in story.status["checkpoints"]]
    manifests = (lab.stack.volume(NAME) / "checkpoints").glob(f"checkpoint-*/{MANIFEST}")
    assert sorted(listed) == sorted(f"pvc://{NAME}/checkpoints/{path.parent.name}" for path in manifests)
    assert story.status["latestCheckpoint"] == f"pvc://{NAME}/checkpoints/checkpoint-{STEPS}"
    assert story.status["bestCheckpoint"] in listed


def test_its_pods_ask_for_nothing_of_the_cluster(story: Story, lab: Lab) -> None:
    pods = lab.kubectl.json("get", "pods", "-l", f"sftjob.dev/job={NAME}")["items"]
    assert len(pods) == 2
    assert story.status["phase"] == "Succeeded"
    assert all(pod["spec"]["automountServiceAccountToken"] is False for pod in pods)


def test_get_prints_the_story(story: Story, lab: Lab) -> None:
    header, row = (line.split() for line in lab.kubectl("get", "sftjobs", NAME).splitlines())
    assert header == ["NAME", "PHASE", "REASON", "STEP", "PROGRESS", "LOSS", "EVAL", "ETA", "GPUS", "AGE"]
    assert row[:5] == [NAME, "Succeeded", "Completed", str(STEPS), "100%"]
    assert float(row[5]) == pytest.approx(story.status["progress"]["loss"], rel=1e-3)
    assert " ".join(row[6:9]) == story.status["progress"]["evalLossChange"]
    wide = lab.kubectl("get", "sft", NAME, "-o", "wide").splitlines()[0].split()
    assert wide == [*header, "MODEL", "METHOD", "TOK/S"]


def test_get_watch_prints_a_line_for_each_change(story: Story) -> None:
    lines = [line.split() for line in story.watched.splitlines()[1:]]
    assert distinct([line[1] for line in lines if len(line) > 2])[-2:] == ["Running", "Succeeded"]
    assert len(lines) >= 8


def test_describe_tells_conditions_and_events(story: Story, lab: Lab) -> None:
    text = lab.kubectl("describe", "sft", NAME)
    for expected in ("Phase:", "Succeeded", "Latest Checkpoint:", "Conditions:", "Events:"):
        assert expected in text
    assert story.status["conditions"][-1]["message"][:40] in text
    events = text.split("Events:")[1]
    assert 3 <= len(events.strip().splitlines()) <= 12, events


def test_explain_prints_every_field_with_its_description(lab: Lab) -> None:
    text = lab.kubectl("explain", "sftjob.spec.training")
    assert "KIND:       SFTJob" in text
    assert "learningRate\t<number>" in text
    assert "gradientAccumulationSteps\t<integer>" in text
    assert "num_train_epochs" in text


def test_logs_prints_what_the_trainer_said(story: Story, lab: Lab) -> None:
    assert story.status["phase"] == "Succeeded"
    assert str(STEPS) in lab.kubectl("logs", f"{NAME}-train-1")
    assert "tokens" in lab.kubectl("logs", f"{NAME}-prepare-1")


def test_wait_returns_at_once_when_the_job_has_succeeded(story: Story, lab: Lab) -> None:
    assert story.status["phase"] == "Succeeded"
    waited = lab.kubectl("wait", "--for=condition=Succeeded", f"sft/{NAME}", "--timeout=5s")
    assert waited == f"sftjob.sftjob.dev/{NAME} condition met\n"


def test_applying_it_again_changes_nothing_and_starts_nothing(story: Story, lab: Lab) -> None:
    before = lab.kubectl.json("get", "sft", NAME)
    assert lab.apply(first_job()) == f"sftjob.sftjob.dev/{NAME} unchanged\n"
    assert lab.kubectl.json("get", "sft", NAME) == before
    pods = lab.kubectl("get", "pods", "-l", f"sftjob.dev/job={NAME}", "-o", "name").split()
    assert story.status["phase"] == "Succeeded"
    assert pods == [f"pod/{NAME}-prepare-1", f"pod/{NAME}-train-1"]


def test_its_spec_can_not_be_changed(story: Story, lab: Lab) -> None:
    assert story.status["phase"] == "Succeeded"
    patch = json.dumps({"spec": {"training": {"maxSteps": 700}}})
    refused = lab.kubectl.run("patch", "sft", NAME, "--type=merge", "-p", patch)
    assert refused.returncode != 0
    assert 'spec.training: Invalid value: "object": is immutable' in refused.stderr


def test_delete_removes_its_children_and_its_volume(lab: Lab) -> None:
    lab.apply(a_small_job("leaving").training(max_steps=5000))
    reach(lab.cluster, "leaving", phase("Running"))
    assert lab.kubectl("delete", "sft", "leaving") == 'sftjob.sftjob.dev "leaving" deleted\n'
    for kind in ("pod", "configmap", "pvc"):
        lab.kubectl("wait", kind, "-l", "sftjob.dev/job=leaving", "--for=delete", "--timeout=60s", timeout=70)
        assert lab.kubectl("get", kind, "-l", "sftjob.dev/job=leaving", "-o", "name") == ""
    assert not lab.stack.volume("leaving").exists()
