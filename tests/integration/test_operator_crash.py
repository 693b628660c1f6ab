"""The operator dies by SIGKILL, once in mid-run and once for the rest of the run; the job does not mind."""

import pytest

from support.faults import faulty, held, let_go
from support.jobs.small_jobs import a_small_job, beyond, phase, reach
from support.stacks.running_stack import Lab

pytestmark = pytest.mark.slow
STEPS = 60
FIRST, SECOND = 20, 40
"""Steps at which the trainer waits, so that the operator dies in the middle of the run on a machine of any speed."""


def test_an_operator_that_was_down_loses_nothing_and_starts_nothing_twice(lab: Lab) -> None:
    waits = faulty(held(FIRST, until="first"), held(SECOND, until="second"))
    lab.apply(a_small_job("orphan").training(max_steps=STEPS).env(**waits))
    volume = lab.stack.volume("orphan")
    reach(lab.cluster, "orphan", beyond(FIRST - 1))

    lab.stack.kill_operator()
    lab.stack.start_operator()
    let_go(volume, "first")
    after = reach(lab.cluster, "orphan", beyond(SECOND - 1))
    assert after["phase"] == "Running"

    lab.stack.kill_operator()
    let_go(volume, "second")
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
