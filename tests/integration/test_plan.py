"""What the plan says of a run, and what the run then does."""

from typing import Any

import pytest

from support.jobs.builders import JobBuilder
from support.jobs.small_jobs import a_small_job, condition, metrics, phase, reach
from support.stacks.running_stack import Lab

pytestmark = pytest.mark.slow
EPOCHS = 2
TOKENIZER_BYTES = 200_000
"""More than the tokenizer of the tests, and all else that a checkpoint holds beside weights and optimizer."""


def epochs(name: str) -> JobBuilder:
    return a_small_job(name).set("training.maxSteps", None).training(epochs=EPOCHS, per_device_batch_size=4)


@pytest.fixture(scope="module")
def statuses(lab: Lab) -> dict[str, dict[str, Any]]:
    """The statuses of both jobs at their end; they run at the same time."""
    names = {"plan-unpacked": False, "plan-packed": True}
    for name, packing in names.items():
        lab.apply(epochs(name).training(packing=packing))
    return {name: {**reach(lab.cluster, name, phase("Succeeded", "Failed")), "name": name} for name in names}


@pytest.fixture(params=["unpacked", "packed"])
def status(request: pytest.FixtureRequest, statuses: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The status of one of them."""
    ended = statuses[f"plan-{request.param}"]
    assert ended["phase"] == "Succeeded"
    return ended


def test_the_planned_steps_are_those_that_are_taken(status: dict[str, Any], lab: Lab) -> None:
    steps = status["plan"]["steps"]
    assert steps == EPOCHS * status["plan"]["stepsPerEpoch"]
    assert (status["progress"]["maxSteps"], status["progress"]["step"]) == (steps, steps)
    assert metrics(lab.stack, status["name"])[-1]["step"] == steps


def test_the_planned_tokens_are_those_of_an_epoch(status: dict[str, Any]) -> None:
    assert status["progress"]["tokens"] == EPOCHS * status["plan"]["tokens"]


def test_the_planned_model_is_the_one_that_is_trained(status: dict[str, Any]) -> None:
    plan, memory = status["plan"], status["plan"]["memory"]
    assert plan["parameters"] == plan["trainableParameters"] > 10_000
    assert plan["trainablePercent"] == 100
    assert memory["weights"] == memory["gradients"] == 4 * plan["parameters"]
    assert memory["optimizer"] == 8 * plan["parameters"]
    assert memory["total"] == sum(size for part, size in memory.items() if part != "total")
    assert plan["hostMemoryBytes"] > memory["total"]
    assert "gpuMemoryBytes" not in plan


def test_a_checkpoint_has_the_planned_size(status: dict[str, Any]) -> None:
    planned = status["plan"]["checkpointBytes"]
    for checkpoint in status["checkpoints"]:
        assert planned <= checkpoint["bytes"] <= planned + TOKENIZER_BYTES


def test_the_volume_holds_what_was_planned(status: dict[str, Any], lab: Lab) -> None:
    files = [path for path in lab.stack.volume(status["name"]).rglob("*") if path.is_file()]
    used = sum(path.stat().st_size for path in files)
    kept = len(status["checkpoints"]) + 1
    assert used <= status["plan"]["diskBytes"] + kept * TOKENIZER_BYTES


def test_a_run_that_can_not_fit_ends_before_a_gpu_is_asked_for(lab: Lab) -> None:
    lab.apply(a_small_job("too-large").resources(gpus=1, gpu_memory="1Mi"))
    status = reach(lab.cluster, "too-large", phase("Queued", "Running", "Succeeded", "Failed"))
    ended = condition(status, "Succeeded")
    assert (status["phase"], ended["status"], ended["reason"]) == ("Failed", "False", "ConfigInvalid")
    assert ended["message"].startswith("The run cannot fit: training needs about ")
    assert "(resources.gpuMemory: 1Mi)" in ended["message"]
    assert status["plan"]["misfit"] == ended["message"]
    pods = lab.kubectl("get", "pods", "-l", "sftjob.dev/job=too-large", "-o", "name").split()
    assert pods == ["pod/too-large-prepare-1"]
