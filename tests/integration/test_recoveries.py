"""What a job changes by itself when it runs out of GPU memory: the losses stay the same."""

import pytest

from sftjob_contract.layout import TRAIN_LOG
from support.faults import faulty, oom
from support.jobs.builders import JobBuilder
from support.jobs.small_jobs import a_small_job, condition, losses, phase, reach
from support.stacks.running_stack import Lab

pytestmark = pytest.mark.slow
STEPS = 20


def a_run(name: str) -> JobBuilder:
    return a_small_job(name).training(per_device_batch_size=4, max_steps=STEPS).checkpoints(every_steps=5)


@pytest.fixture(scope="module")
def undisturbed(lab: Lab) -> dict[int, float]:
    """Losses of the run with enough memory."""
    lab.apply(a_run("ample"))
    assert reach(lab.cluster, "ample", phase("Succeeded", "Failed"))["phase"] == "Succeeded"
    return losses(lab.stack, "ample")


def test_a_run_that_is_out_of_gpu_memory_goes_on_with_a_smaller_micro_batch_and_the_same_losses(
    lab: Lab, undisturbed: dict[int, float]
) -> None:
    lab.apply(a_run("short").failure_policy(max_retries=0).env(**faulty(oom(7, above=1))))

    status = reach(lab.cluster, "short", phase("Succeeded", "Failed"))
    assert status["phase"] == "Succeeded", condition(status, "Succeeded")
    sizes = [(entry["attempt"], entry["perDeviceBatchSize"]) for entry in status["adjustments"]]
    assert sizes == [(2, {"from": 4, "to": 2}), (3, {"from": 2, "to": 1})]
    ends = [(entry["reason"], entry.get("lostSteps")) for entry in status["attempts"][1:]]
    assert ends == [("GpuOutOfMemory", 2), ("GpuOutOfMemory", 2), ("Completed", None)]
    assert losses(lab.stack, "short") == pytest.approx(undisturbed, abs=1e-5)


def test_what_the_plan_left_out_is_switched_on_when_memory_runs_out_with_the_same_losses(
    lab: Lab, undisturbed: dict[int, float]
) -> None:
    job = a_run("roomy").set("training.gradientCheckpointing", None).resources(memory="4Gi")
    lab.apply(job.failure_policy(max_retries=0).env(**faulty(oom(7, above=1, attempt=1))))

    status = reach(lab.cluster, "roomy", phase("Succeeded", "Failed"))
    assert status["phase"] == "Succeeded", condition(status, "Succeeded")
    assert status["plan"]["gradientCheckpointing"] is False
    (adjustment,) = status["adjustments"]
    assert (adjustment["attempt"], adjustment["gradientCheckpointing"]) == (2, True)
    assert "perDeviceBatchSize" not in adjustment
    log = (lab.stack.volume("roomy") / TRAIN_LOG).read_text(encoding="utf-8")
    said = [
        line.partition("gradient checkpointing ")[2] for line in log.splitlines() if "gradient checkpointing" in line
    ]
    assert [line.partition(":")[0] for line in said] == ["off", "on"]
    assert losses(lab.stack, "roomy") == pytest.approx(undisturbed, abs=1e-5)
