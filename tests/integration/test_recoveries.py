"""What a job does by itself when memory is short, and what it says of a Pod that can not start."""

import pytest

from sftjob_contract.layout import TRAIN_LOG
from support.faults import faulty, oom
from support.jobs import a_small_job, condition, losses, phase, reach, says
from support.lab import Lab

pytestmark = pytest.mark.slow
STEPS = 20


def test_a_run_that_is_out_of_gpu_memory_goes_on_with_a_smaller_micro_batch_and_the_same_losses(lab: Lab) -> None:
    job = a_small_job("short").training(per_device_batch_size=4, max_steps=STEPS).checkpoints(every_steps=5)
    lab.apply(a_small_job("ample").training(per_device_batch_size=4, max_steps=STEPS).checkpoints(every_steps=5))
    lab.apply(job.failure_policy(max_retries=0).env(**faulty(oom(7, above=1))))

    status = reach(lab.cluster, "short", phase("Succeeded", "Failed"))
    assert status["phase"] == "Succeeded", condition(status, "Succeeded")
    sizes = [(entry["attempt"], entry["perDeviceBatchSize"]) for entry in status["adjustments"]]
    assert sizes == [(2, {"from": 4, "to": 2}), (3, {"from": 2, "to": 1})]
    ends = [(entry["reason"], entry.get("lostSteps")) for entry in status["attempts"][1:]]
    assert ends == [("GpuOutOfMemory", 2), ("GpuOutOfMemory", 2), ("Completed", None)]

    assert reach(lab.cluster, "ample", phase("Succeeded", "Failed"))["phase"] == "Succeeded"
    assert losses(lab.stack, "short") == pytest.approx(losses(lab.stack, "ample"), abs=1e-5)


def test_what_the_plan_left_out_is_switched_on_when_memory_runs_out_with_the_same_losses(lab: Lab) -> None:
    job = a_small_job("roomy").set("training.gradientCheckpointing", None).resources(memory="4Gi")
    job = job.training(per_device_batch_size=4, max_steps=STEPS).checkpoints(every_steps=5)
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

    storing = a_small_job("storing").training(per_device_batch_size=4, max_steps=STEPS).checkpoints(every_steps=5)
    lab.apply(storing)
    assert reach(lab.cluster, "storing", phase("Succeeded", "Failed"))["phase"] == "Succeeded"
    assert losses(lab.stack, "roomy") == pytest.approx(losses(lab.stack, "storing"), abs=1e-5)


def test_an_image_that_is_not_there_is_told_in_the_kubelets_words(lab: Lab) -> None:
    lab.apply(a_small_job("typo").set("image", "registry.example/no-such-trainer:1"))
    status = reach(lab.cluster, "typo", says("Prepared", "ImagePullFailed"))
    assert status["phase"] == "Pending"
    assert "registry.example/no-such-trainer:1" in condition(status, "Prepared")["message"]
