"""A running job is upgraded and rolled back with trainers at work: each release trains on with what the other left."""

from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from sftjob_contract.layout import OUTPUT_ADAPTER, OUTPUT_MERGED
from sftjob_contract.names import LABEL_JOB, Stage
from sftjob_dev.cluster import Cluster
from sftjob_dev.stack import DEFINITION, IMAGE
from support.clients.kubectl import Kubectl
from support.faults import faulty, slow
from support.jobs.small_jobs import Status, a_small_job, phase, provide_input, reach, trainer
from support.stacks.previous import Previous
from support.stacks.skewed_stack import PREVIOUS_IMAGE, Release, TrainingSkewedStack

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
STEPS = 240
SAVE_STEPS = 10
JOB = "upgraded"


def test_a_run_that_is_upgraded_and_rolled_back_goes_on_from_its_checkpoints(
    tmp_path: Path, previous: Previous
) -> None:
    job = (
        a_small_job(JOB)
        .training(max_steps=STEPS)
        .checkpoints(every_steps=SAVE_STEPS)
        .failure_policy(max_retries=3, backoff_seconds=1)
        .env(**faulty(*(slow(0.25, attempt=attempt) for attempt in (1, 2))))
    )
    with TrainingSkewedStack(tmp_path, previous, DEFINITION, progress_interval_seconds=1) as stack:
        kubectl, cluster = Kubectl(stack.kubeconfig, tmp_path / "kubectl-cache"), Cluster(stack.kubeconfig)
        provide_input(stack, kubectl, rows=200)
        kubectl("apply", "-f", "-", text=yaml.safe_dump(job.manifest()))
        for attempt, release in ((1, Release.THIS), (2, Release.PREVIOUS)):
            before = reach(cluster, JOB, reports(attempt, beyond=0))
            stack.hand_to(release)
            reach(cluster, JOB, reports(attempt, beyond=before["progress"]["step"] + SAVE_STEPS))
            trainer(f"{JOB}-train-{attempt}").kill()
        status = reach(cluster, JOB, phase("Succeeded", "Failed"))

        assert status["phase"] == "Succeeded", status["conditions"]
        assert [attempt["reason"] for attempt in status["attempts"]] == ["Completed", "Killed", "Killed", "Completed"]
        first, second, third = (attempt["fromStep"] for attempt in status["attempts"][1:])
        assert 0 == first < second < third
        pods = kubectl.json("get", "pods", "-l", f"{LABEL_JOB}={JOB}")["items"]
        images = {pod["metadata"]["name"]: pod["spec"]["containers"][0]["image"] for pod in pods}
        assert images == {
            f"{JOB}-prepare-1": PREVIOUS_IMAGE,
            f"{JOB}-train-1": PREVIOUS_IMAGE,
            f"{JOB}-train-2": IMAGE,
            f"{JOB}-train-3": PREVIOUS_IMAGE,
        }


def test_trainers_of_the_previous_release_publish_in_their_train_pods_beside_this_operator(
    tmp_path: Path, previous: Previous
) -> None:
    """One that is at work when the operator is upgraded, and one whose image the job names."""
    job = a_small_job("running").lora(rank=4).output(mergeAdapter=True).training(max_steps=40)
    pinned = a_small_job("pinned").lora(rank=4).output(mergeAdapter=True).training(max_steps=4)
    pinned = pinned.set("image", PREVIOUS_IMAGE)
    with TrainingSkewedStack(tmp_path, previous, DEFINITION, progress_interval_seconds=1) as stack:
        kubectl, cluster = Kubectl(stack.kubeconfig, tmp_path / "kubectl-cache"), Cluster(stack.kubeconfig)
        provide_input(stack, kubectl, rows=200)
        kubectl("apply", "-f", "-", text=yaml.safe_dump(job.env(**faulty(slow(0.25, attempt=1))).manifest()))
        reach(cluster, "running", reports(1, beyond=0))
        stack.hand_to(Release.THIS)
        kubectl("apply", "-f", "-", text=yaml.safe_dump(pinned.manifest()))
        for name in ("running", "pinned"):
            status = reach(cluster, name, phase("Succeeded", "Failed"))

            assert status["phase"] == "Succeeded", status["conditions"]
            assert [(a["stage"], a["reason"]) for a in status["attempts"]] == [
                ("prepare", "Completed"),
                ("train", "Completed"),
            ]
            assert "publishStage" not in status["plan"]
            assert status["output"]["uri"].endswith(OUTPUT_ADAPTER)
            assert (stack.volume(name) / OUTPUT_MERGED / "model.safetensors").is_file()


def reports(attempt: int, *, beyond: int) -> Callable[[Status], bool]:
    """A condition: the trainer of this attempt has got further than the step `beyond`."""

    def holds(status: Status) -> bool:
        train = [each["number"] for each in status.get("attempts", ()) if each["stage"] == Stage.TRAIN]
        return train[-1:] == [attempt] and status.get("progress", {}).get("step", 0) > beyond

    return holds
