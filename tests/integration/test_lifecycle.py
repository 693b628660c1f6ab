"""A job is suspended and goes on, is cleaned up after its end, or misses its deadline: all by kubectl patch."""

import json
from typing import Any

import pytest

from sftjob_contract.layout import CHECKPOINTS, MANIFEST, checkpoint_name
from support.faults import faulty, slow
from support.jobs.builders import JobBuilder
from support.jobs.failing import STEP, a_held_job
from support.jobs.small_jobs import a_small_job, beyond, condition, losses, phase, reach
from support.stacks.running_stack import Lab

STEPS = 200


def pausing() -> JobBuilder:
    return (
        a_small_job("pausing")
        .training(max_steps=STEPS)
        .checkpoints(every_steps=100, keep=4)
        .failure_policy(max_retries=0, backoff_seconds=600)
        .env(**faulty(slow(0.1, attempt=1)))
    )


def patch(lab: Lab, job: str, **spec: Any) -> None:
    lab.kubectl("patch", "sft", job, "--type=merge", "-p", json.dumps({"spec": spec}))


def gone(lab: Lab, job: str, *kinds: str) -> None:
    for kind in kinds:
        lab.kubectl("wait", kind, "-l", f"sftjob.dev/job={job}", "--for=delete", "--timeout=60s", timeout=70)


def names(lab: Lab, job: str, kinds: str) -> list[str]:
    return lab.kubectl("get", kinds, "-l", f"sftjob.dev/job={job}", "-o", "name").split()


def test_a_suspended_job_frees_its_pod_and_goes_on_where_it_was(lab: Lab) -> None:
    lab.apply(pausing())
    reach(lab.cluster, "pausing", beyond(20))

    patch(lab, "pausing", suspend=True)
    rests = reach(lab.cluster, "pausing", phase("Suspended", "Failed", "Succeeded"))
    assert rests["phase"] == "Suspended"
    lab.kubectl("wait", "pod/pausing-train-1", "--for=delete", "--timeout=60s", timeout=70)
    assert names(lab, "pausing", "pods") == ["pod/pausing-prepare-1"]
    step = rests["progress"]["step"]
    first = rests["attempts"][-1]
    assert (first["reason"], first["exitCode"], first["reachedStep"]) == ("Suspended", 75, step)
    assert 20 < step < STEPS
    assert rests["latestCheckpoint"] == f"pvc://pausing/{CHECKPOINTS}/{checkpoint_name(step)}"
    assert (lab.stack.volume("pausing") / CHECKPOINTS / checkpoint_name(step) / MANIFEST).exists()
    assert condition(rests, "Running")["reason"] == "Suspended"
    assert f"step {step} of {STEPS}" in condition(rests, "Running")["message"]
    row = lab.kubectl("get", "sft", "pausing", "-o", "wide").splitlines()[1].split()
    assert row[1:3] == ["Suspended", "Suspended"]

    patch(lab, "pausing", suspend=False)
    status = reach(lab.cluster, "pausing", phase("Succeeded", "Failed"))
    assert status["phase"] == "Succeeded"
    assert status["progress"]["step"] == STEPS
    assert status["attempts"][-1]["fromStep"] == step
    assert sorted(losses(lab.stack, "pausing")) == list(range(1, STEPS + 1))


def test_a_finished_job_is_cleaned_up_and_never_runs_again(lab: Lab) -> None:
    reach(lab.cluster, "pausing", phase("Succeeded"))

    patch(lab, "pausing", ttlSecondsAfterFinished=1)
    status = reach(lab.cluster, "pausing", lambda status: "cleanupTime" in status)
    gone(lab, "pausing", "pod", "configmap", "pvc")
    assert not lab.stack.volume("pausing").exists()
    assert status["phase"] == "Succeeded"
    assert "Its Pods and volume were deleted after 1 s" in condition(status, "Succeeded")["message"]

    lab.stack.kill_operator()
    lab.stack.start_operator()
    lab.apply(pausing())
    lab.apply(a_small_job("sentinel").set("suspend", True))
    reach(lab.cluster, "sentinel", phase("Suspended"))  # the operator has seen everything that came before
    assert names(lab, "pausing", "pods,configmaps,pvc") == []
    assert lab.kubectl.json("get", "sft", "pausing")["status"] == status


def test_a_job_that_is_deleted_lets_its_trainer_save(lab: Lab) -> None:
    """Step 8 is the one at hand when the request to stop comes."""
    lab.apply(a_held_job("dropped").storage(retain=True))
    reach(lab.cluster, "dropped", beyond(STEP - 1))

    lab.kubectl("delete", "sft", "dropped")
    gone(lab, "dropped", "pod")
    assert (lab.stack.volume("dropped") / CHECKPOINTS / checkpoint_name(STEP + 1) / MANIFEST).exists()
    lab.kubectl("delete", "pvc", "dropped")


def test_a_job_that_is_created_suspended_has_no_children(lab: Lab) -> None:
    lab.apply(a_small_job("patient").set("suspend", True))
    status = reach(lab.cluster, "patient", phase("Suspended"))
    assert "Nothing has been prepared yet." in condition(status, "Running")["message"]
    assert names(lab, "patient", "pods,configmaps,pvc") == []


@pytest.mark.slow
def test_a_job_that_misses_its_deadline_fails_and_keeps_its_checkpoint(lab: Lab) -> None:
    lab.apply(a_small_job("late").training(max_steps=100_000).set("deadlineSeconds", 3600))
    reach(lab.cluster, "late", beyond(20))

    patch(lab, "late", deadlineSeconds=1)
    status = reach(lab.cluster, "late", phase("Failed", "Succeeded"))
    ended = condition(status, "Succeeded")
    assert (status["phase"], ended["reason"]) == ("Failed", "DeadlineExceeded")
    step = status["progress"]["step"]
    assert f"step {step:,} of 100,000" in ended["message"]
    assert f"pvc://late/{CHECKPOINTS}/{checkpoint_name(step)}" in ended["message"]
    assert (status["attempts"][-1]["reason"], status["attempts"][-1]["exitCode"]) == ("DeadlineExceeded", 75)
    lab.kubectl("wait", "pod/late-train-1", "--for=delete", "--timeout=60s", timeout=70)
    assert names(lab, "late", "pods") == ["pod/late-prepare-1"]
