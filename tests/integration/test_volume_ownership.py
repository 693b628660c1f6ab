"""A job created again on a volume that has another run's files neither resumes from them nor loses them."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from sftjob_contract.layout import CHECKPOINTS, METRICS, OWNER
from support.jobs.builders import JobBuilder
from support.jobs.failing import STEP, a_held_job
from support.jobs.small_jobs import a_small_job, beyond, condition, phase, reach
from support.stacks.running_stack import Lab

pytestmark = pytest.mark.slow
CLAIM = "kept-results"
STEPS = 6


@pytest.fixture(scope="module")
def claim(lab: Lab) -> Path:
    """A claim of the user's, which several jobs work on; the directory behind it."""
    spec = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Gi"}}}
    body = {"apiVersion": "v1", "kind": "PersistentVolumeClaim", "metadata": {"name": CLAIM}, "spec": spec}
    lab.kubectl("apply", "-f", "-", text=yaml.safe_dump(body))
    return lab.stack.volume(CLAIM)


def again(learning_rate: float, **storage: Any) -> JobBuilder:
    return (
        a_small_job("again")
        .training(max_steps=STEPS, learning_rate=learning_rate, scheduler="constant")
        .storage(existing_claim=CLAIM, **storage)
    )


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def deleted(lab: Lab, name: str) -> None:
    lab.kubectl("delete", "sft", name)
    lab.kubectl("wait", "pod", "-l", f"sftjob.dev/job={name}", "--for=delete", "--timeout=60s", timeout=70)


def learning_rates(root: Path) -> set[float]:
    lines = (yaml.safe_load(line) for line in (root / METRICS).read_text(encoding="utf-8").splitlines())
    return {round(line["learningRate"], 6) for line in lines if "learningRate" in line}


def test_a_job_created_again_with_another_learning_rate_does_not_resume(lab: Lab, claim: Path) -> None:
    lab.apply(again(1e-3))
    first = reach(lab.cluster, "again", phase("Succeeded", "Failed"))
    assert first["phase"] == "Succeeded", first
    uid = lab.kubectl.json("get", "sft", "again")["metadata"]["uid"]
    left = files(claim / "again")
    deleted(lab, "again")

    lab.apply(again(5e-4))
    refused = reach(lab.cluster, "again", phase("Succeeded", "Failed"))

    ended = condition(refused, "Succeeded")
    assert (refused["phase"], ended["reason"]) == ("Failed", "ConfigInvalid")
    assert [(attempt["stage"], attempt["exitCode"]) for attempt in refused["attempts"]] == [("prepare", 65)]
    assert f"pvc://{CLAIM}/again cannot be used by SFTJob default/again" in ended["message"]
    assert f"it belongs to SFTJob default/again (uid {uid})" in ended["message"]
    assert "storage.existingContent: MoveAside" in ended["message"]
    assert files(claim / "again") == left
    deleted(lab, "again")

    lab.apply(again(5e-4, existing_content="MoveAside"))
    third = reach(lab.cluster, "again", phase("Succeeded", "Failed"))

    assert third["phase"] == "Succeeded", third
    now = lab.kubectl.json("get", "sft", "again")["metadata"]["uid"]
    assert third["attempts"][-1].get("fromStep", 0) == 0
    assert third["progress"]["step"] == STEPS
    assert learning_rates(claim / "again") == {5e-4}
    assert files(claim / f"again.moved-aside-{now}") == left
    place = f"pvc://{CLAIM}/again.moved-aside-{now}"
    assert f"Files of SFTJob default/again (uid {uid})" in third["movedAside"]
    assert place in condition(third, "Prepared")["message"]
    assert place in lab.kubectl("get", "events", "--field-selector=reason=MovedAside", "-o", "wide")
    assert learning_rates(claim / f"again.moved-aside-{now}") == {1e-3}


@pytest.mark.parametrize(("existing", "ends"), [("Refuse", "Failed"), ("MoveAside", "Succeeded")])
def test_a_running_job_that_is_replaced_is_not_continued_by_the_new_one(
    lab: Lab, claim: Path, existing: str, ends: str
) -> None:
    """Both have the same name, so that the Pods of the old one are deleted before the new one gets its own."""
    name = f"replaced-{existing.lower()}"
    lab.apply(a_held_job(name).storage(existing_claim=CLAIM))
    reach(lab.cluster, name, beyond(STEP - 1))
    old = lab.kubectl.json("get", "sft", name)["metadata"]["uid"]

    fresh = a_small_job(name).training(max_steps=STEPS).storage(existing_claim=CLAIM, existing_content=existing)
    lab.kubectl("replace", "--force", "-f", "-", text=yaml.safe_dump(fresh.manifest()), timeout=120)
    status = reach(lab.cluster, name, phase("Succeeded", "Failed"))

    new = lab.kubectl.json("get", "sft", name)["metadata"]["uid"]
    assert new != old
    assert status["phase"] == ends, status
    assert all(attempt.get("fromStep", 0) == 0 for attempt in status["attempts"])
    kept = claim / (name if existing == "Refuse" else f"{name}.moved-aside-{new}")
    assert old in (kept / OWNER).read_text(encoding="utf-8")
    assert [path.name for path in (kept / CHECKPOINTS).iterdir() if path.name.startswith("checkpoint-")] != []
    if existing == "MoveAside":
        steps = {path.name for path in (claim / name / CHECKPOINTS).iterdir()}
        assert f"checkpoint-{STEPS}" in steps
        assert not any(old in path.read_text(encoding="utf-8") for path in (claim / name).rglob("sftjob-*.json"))
