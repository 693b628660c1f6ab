"""The operator dies by SIGKILL, once in mid-run and once for the rest of the run; the job does not mind."""

import pytest

from support.faults import faulty, slow
from support.jobs import a_small_job, beyond, phase, reach
from support.lab import Lab

pytestmark = pytest.mark.slow
STEPS = 500


def test_an_operator_that_was_down_loses_nothing_and_starts_nothing_twice(lab: Lab) -> None:
    lab.apply(a_small_job("orphan").training(max_steps=STEPS).env(**faulty(slow(0.04))))
    before = reach(lab.cluster, "orphan", beyond(20))

    lab.stack.kill_operator()
    lab.stack.start_operator()
    after = reach(lab.cluster, "orphan", beyond(before["progress"]["step"] + 20))
    assert after["phase"] == "Running"

    lab.stack.kill_operator()
    lab.kubectl("wait", "pod/orphan-train-1", "--for=jsonpath={.status.phase}=Succeeded", "--timeout=150s", timeout=160)
    missed = lab.kubectl.json("get", "sft", "orphan")["status"]
    assert missed["phase"] == "Running"

    lab.stack.start_operator()
    status = reach(lab.cluster, "orphan", phase("Succeeded", "Failed"))
    assert status["phase"] == "Succeeded"
    assert status["progress"]["step"] == STEPS
    assert status["output"]["metrics"]["evalLoss"] < status["output"]["metrics"]["initialEvalLoss"]
    pods = lab.kubectl("get", "pods", "-l", "sftjob.dev/job=orphan", "-o", "name").split()
    assert pods == ["pod/orphan-prepare-1", "pod/orphan-train-1"]
