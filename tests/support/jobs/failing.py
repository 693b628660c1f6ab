"""Small real jobs that fail, each for a reason of its own, and what has to be done to a running one for that."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from sftjob_contract.names import Stage
from sftjob_contract.reasons import Reason
from support.clients.disruptions import disrupt, remove
from support.faults import faulty, held, let_go, scripted
from support.jobs.builders import JobBuilder
from support.jobs.small_jobs import Status, a_small_job, condition, phase, reach, suspend, trainer
from support.stacks.running_stack import Lab

STEPS: Final = 12
SAVE_STEPS: Final = 5
STEP: Final = 7
"""After this step something happens: two steps later than the newest checkpoint."""
LONG_SECONDS: Final = 600
"""All jobs run at the same time, so that each takes long."""
MEMORY_LIMIT: Final = "2Gi"
MORE_BYTES: Final = 2 << 30
LONG_BACKOFF_SECONDS: Final = 3600
IMPATIENT_SECONDS: Final = 20

Done = Callable[[Lab, str], None]
HAS_ENDED: Final = phase("Succeeded", "Failed")


@dataclass(frozen=True, kw_only=True)
class Case:
    """A job that fails for `reason`, once or for good.

    `told` says what is wrong, in a sentence. `done` is done to the running job, which is then looked at once it is as
    `settled` says: its attempts after a good Prepare, as `STAGE-NUMBER REASON EXIT-CODE at LAST-STEP, N lost` as far as
    known, and its conditions, as `TYPE STATUS REASON`.
    """

    reason: Reason
    told: str
    job: JobBuilder
    done: Done | None = None
    settled: Callable[[Status], bool] = HAS_ENDED
    phase: str = "Failed"
    attempts: tuple[str, ...]
    conditions: tuple[str, ...]

    @property
    def name(self) -> str:
        """Name of the job."""
        return str(self.job.metadata["name"])


def a_failing_job(name: str, *, data: str = "train.jsonl") -> JobBuilder:
    """Twelve steps, a checkpoint every five, and little of the node."""
    return (
        a_small_job(name, data=data)
        .training(max_steps=STEPS)
        .checkpoints(every_steps=SAVE_STEPS)
        .resources(gpus=0, cpu="20m")
    )


def a_held_job(name: str) -> JobBuilder:
    """A job whose first attempt stays where it is until something is done to it."""
    return a_failing_job(name).env(**faulty(held(STEP, attempt=1)))


def a_scripted_job(name: str, stage: Stage = Stage.TRAIN, **how: Any) -> JobBuilder:
    """A job with scripted trainers: see `scripted`."""
    return a_failing_job(name).env(**faulty(scripted(stage, **how)))


def a_refused_job(name: str, reason: Reason, message: str) -> JobBuilder:
    """A job that a scripted Prepare ends."""
    return a_scripted_job(name, Stage.PREPARE, reason=reason, message=message)


def a_waiting_job(name: str, **how: Any) -> JobBuilder:
    """A job whose first trainer, a scripted one, stays after STEP until it is asked to stop."""
    return a_scripted_job(name, attempt=1, step=STEP, waits=True, **how)


def _is_at_the_step(status: Status) -> bool:
    return bool(status.get("attempts")) and status["attempts"][-1].get("reachedStep") == STEP


def stands(kind: str, reason: str) -> Callable[[Status], bool]:
    """A condition: the one of type `kind` has this reason."""
    return lambda status: "conditions" in status and condition(status, kind)["reason"] == reason


def _reach_the_step(lab: Lab, job: str) -> str:
    """Name of the Pod that has reported the step."""
    return str(reach(lab.cluster, job, _is_at_the_step, seconds=LONG_SECONDS)["attempts"][-1]["pod"])


def kill(lab: Lab, job: str) -> None:
    """SIGKILL."""
    trainer(_reach_the_step(lab, job)).kill()


def delete(lab: Lab, job: str) -> None:
    """Delete the Pod, which has its grace period."""
    lab.kubectl("delete", "pod", _reach_the_step(lab, job), "--wait=false")


def delete_by_force(lab: Lab, job: str) -> None:
    """Delete the Pod at once, without a last word."""
    remove(lab.kubectl, _reach_the_step(lab, job))


def disrupted(reason: str, message: str) -> Done:
    """Say why a Pod is taken away, and delete it, as the scheduler, an eviction or the taint manager does."""

    def done(lab: Lab, job: str) -> None:
        disrupt(lab.kubectl, _reach_the_step(lab, job), reason, message)

    return done


def lose_the_node(lab: Lab, job: str) -> None:
    """The node's processes stand still, it is given up, and so is the Pod at last."""
    pod = _reach_the_step(lab, job)
    suspend(pod)
    disrupted("DeletionByTaintManager", "Taint manager: deleting due to NoExecute taint")(lab, job)
    reach(lab.cluster, job, lambda status: status["attempts"][-1].get("reason") == Reason.NODE_LOST)
    remove(lab.kubectl, pod)


def let_it_go(lab: Lab, job: str) -> None:
    """Let a job go on that is held."""
    _reach_the_step(lab, job)
    let_go(lab.stack.volume(job))


def miss_the_deadline(lab: Lab, job: str) -> None:
    """Give the job a deadline that is over already."""
    _reach_the_step(lab, job)
    lab.kubectl("patch", "sft", job, "--type=merge", "-p", json.dumps({"spec": {"deadlineSeconds": 1}}))
