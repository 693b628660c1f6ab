"""The trainer dies by SIGKILL, and what it wrote last is broken; the job goes on exactly all the same."""

from pathlib import Path

import pytest

from sftjob_contract.layout import CHECKPOINTS, MANIFEST, checkpoint_step
from support.faults import faulty, slow
from support.jobs.small_jobs import a_small_job, losses, metrics, phase, reach, trainer
from support.stacks.running_stack import Lab

pytestmark = pytest.mark.slow
STEPS = 240


def newest_checkpoint(volume: Path) -> Path:
    """The newest complete checkpoint on a volume."""
    complete = [path.parent for path in (volume / CHECKPOINTS).glob(f"checkpoint-*/{MANIFEST}")]
    return max(complete, key=lambda path: checkpoint_step(path.name) or 0)


def test_a_killed_trainer_goes_on_exactly_where_its_newest_good_checkpoint_is(lab: Lab) -> None:
    lab.apply(a_small_job("steady").training(max_steps=STEPS))
    lab.apply(
        a_small_job("bumpy")
        .training(max_steps=STEPS)
        .checkpoints(every_steps=20, keep=4)
        .failure_policy(max_retries=3, backoff_seconds=3)
        .env(**faulty(slow(0.05, attempt=1), slow(0.05, attempt=2)))
    )
    volume = lab.stack.volume("bumpy")

    reach(lab.cluster, "bumpy", lambda status: len(status.get("checkpoints", [])) >= 1)
    trainer("bumpy-train-1").kill()
    resumed_from = checkpoint_step(newest_checkpoint(volume).name)
    reach(lab.cluster, "bumpy", phase("Restarting"))
    second = reach(
        lab.cluster,
        "bumpy",
        lambda status: (
            len(status["attempts"]) == 3 and "fromStep" in status["attempts"][-1] and len(status["checkpoints"]) >= 3
        ),
    )
    assert second["attempts"][-1]["fromStep"] == resumed_from

    trainer("bumpy-train-2").kill()
    broken = newest_checkpoint(volume)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    good = newest_checkpoint_before(volume, broken)

    status = reach(lab.cluster, "bumpy", phase("Succeeded", "Failed"))
    assert status["phase"] == "Succeeded"
    prepare, first, second, third = status["attempts"]
    assert prepare["stage"] == "prepare"
    assert [(a["number"], a["exitCode"], a["reason"]) for a in (first, second)] == [
        (1, 137, "Killed"),
        (2, 137, "Killed"),
    ]
    assert third["fromStep"] == checkpoint_step(good.name)
    assert broken.name in third["message"]
    assert "model.safetensors" in third["message"]

    assert reach(lab.cluster, "steady", phase("Succeeded", "Failed"))["phase"] == "Succeeded"
    assert losses(lab.stack, "bumpy") == pytest.approx(losses(lab.stack, "steady"), abs=1e-6)
    assert sorted(losses(lab.stack, "bumpy")) == list(range(1, STEPS + 1))
    assert metrics(lab.stack, "steady")[-1]["step"] == STEPS


def newest_checkpoint_before(volume: Path, broken: Path) -> Path:
    """The newest complete checkpoint that is older than `broken`."""
    limit = checkpoint_step(broken.name) or 0
    complete = [path.parent for path in (volume / CHECKPOINTS).glob(f"checkpoint-*/{MANIFEST}")]
    older = [path for path in complete if (checkpoint_step(path.name) or 0) < limit]
    return max(older, key=lambda path: checkpoint_step(path.name) or 0)
