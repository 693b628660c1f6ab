"""`kubectl describe` of a job in mid-run: conditions before the curve, and the curve short."""

import json
from typing import Any

import pytest

from sftjob_contract.names import Stage
from sftjob_contract.reports.progress import HISTORY_LIMIT, Checkpoint, HistoryPoint
from support.clients.kubectl import Kubectl
from support.fakes.fake_cluster import World, an_outcome, ended, moment, running
from support.fakes.progress import a_progress
from support.jobs.builders import a_job
from support.jobs.manifests import ROOT

SAMPLE = ROOT / "crds" / "samples" / "lora.yaml"


async def status_in_mid_run() -> dict[str, Any]:
    """What the operator writes of a job that reports as many points as a report holds."""
    world = World()
    key = await world.apply(a_job())
    await world.pod("demo-prepare-1", running())
    await world.pod("demo-prepare-1", ended(0, an_outcome(Stage.PREPARE)))
    await world.pod("demo-train-1", running())
    history = tuple(HistoryPoint(step=step, loss=2.0 - step / 100) for step in range(HISTORY_LIMIT))
    checkpoints = tuple(
        Checkpoint(step=step, path=f"checkpoints/checkpoint-{step}", bytes=10, time=moment(step), eval_loss=None)
        for step in (20, 30, 40)
    )
    world.controller.report(key, a_progress(48, loss=1.5, history=history, checkpoints=checkpoints))
    await world.pass_time(10)
    return world.status(key)


@pytest.fixture
async def described(kubectl: Kubectl) -> list[str]:
    """The lines of the status that real kubectl prints."""
    described = kubectl.within("described")
    kubectl("create", "namespace", "described")
    described("apply", "-f", str(SAMPLE))
    patch = json.dumps({"status": await status_in_mid_run()})
    described("patch", "-f", str(SAMPLE), "--subresource=status", "--type=merge", "-p", patch)
    return described("describe", "-f", str(SAMPLE)).partition("\nStatus:\n")[2].splitlines()


async def test_describe_prints_conditions_before_a_short_curve(described: list[str]) -> None:
    curve = described.index("  History:")
    assert described.index("  Conditions:") < curve
    points = described[curve + 1 : described.index(next_section(described, curve))]
    assert 2 < len(points) <= 24
    assert len(described) <= 110
    assert [line.split()[-1] for line in described if line.lstrip().startswith("Reason:")][-1] == "Training"


def next_section(lines: list[str], at: int) -> str:
    """The first line after `at` that is indented as little as it."""
    return next(line for line in lines[at + 1 :] if not line.startswith("   "))
