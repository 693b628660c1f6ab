"""Operators of the previous release and of this one hand running jobs back and forth, as upgrades and rollbacks do."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from sftjob_contract.names import LABEL_JOB
from sftjob_dev.cluster import Cluster
from sftjob_dev.stack import DEFINITION
from support.clients.kubectl import Kubectl
from support.fakes.puppets import Puppets
from support.jobs.builders import a_job
from support.jobs.small_jobs import Status, beyond, phase, reach
from support.stacks.paths import missing_paths
from support.stacks.previous import TAKE_OVER, Previous
from support.stacks.skewed_stack import FrozenSkewedStack, Release

pytestmark = pytest.mark.slow
JOBS = ("preparing", "training", "retried", "suspended", "ended")
SECONDS = 60


class Handovers:
    """Jobs in several states, and a comparison of everything about them before and after a handover."""

    def __init__(self, stack: FrozenSkewedStack, read_by_previous: Callable[[Any], Any]) -> None:
        self.stack = stack
        self.kubectl = Kubectl(stack.kubeconfig, stack.data / "kubectl-cache")
        self.puppets = Puppets(stack, self.kubectl)
        self._cluster = Cluster(stack.kubeconfig)
        self._read_by_previous = read_by_previous
        self._handovers = 0

    def apply(self, name: str) -> None:
        job = a_job(name, "default").failure_policy(max_retries=3, backoff_seconds=1)
        self.kubectl("apply", "-f", "-", text=yaml.safe_dump(job.manifest()))

    def reach(self, job: str, condition: Callable[[Status], bool]) -> Status:
        return reach(self._cluster, job, condition, seconds=SECONDS)

    def train(self, job: str, step: int) -> None:
        """Apply a job, and get it to where its first trainer has reported `step`."""
        self.apply(job)
        self.reach(job, has_attempt("prepare", 1))
        self.puppets.finish(f"{job}-prepare-1")
        self.reach(job, has_attempt("train", 1))
        self.puppets.run(f"{job}-train-1")
        self.reach(job, phase("Running"))
        self.puppets.report(f"{job}-train-1", step)
        self.reach(job, beyond(step - 1))

    def hand_to(self, release: Release) -> None:
        """Let the operator of `release` take over, and compare once it has looked at every job."""
        before = {job: self.body(job) for job in JOBS}
        pods = self.pods()
        self.stack.hand_to(release)
        self._handovers += 1
        canary = f"canary-{self._handovers}"
        self.apply(canary)
        self.reach(canary, has_attempt("prepare", 1))  # jobs are looked at in turn: the others came before it
        for job, was in before.items():
            now = self.body(job)["status"]
            kept = was["status"] if release is Release.THIS else self._read_by_previous(was)
            assert missing_paths(kept, now) == [], f"{job}, taken over by {release}"
            assert outline(now) == outline(was["status"]), f"{job}, taken over by {release}"
        assert {pod: uid for pod, uid in self.pods().items() if not pod.startswith("canary")} == pods

    def body(self, job: str) -> dict[str, Any]:
        body: dict[str, Any] = self.kubectl.json("get", "sft", job)
        return body

    def pods(self) -> dict[str, str]:
        """Name and uid of every Pod but those of canaries."""
        found = self.kubectl.json("get", "pods", "-l", LABEL_JOB)["items"]
        pods = {pod["metadata"]["name"]: pod["metadata"]["uid"] for pod in found}
        return {name: uid for name, uid in pods.items() if not name.startswith("canary")}


def has_attempt(stage: str, number: int) -> Callable[[Status], bool]:
    return lambda status: any(
        (attempt["stage"], attempt["number"]) == (stage, number) for attempt in status.get("attempts", ())
    )


def outline(status: Status) -> dict[str, Any]:
    """What a handover must not change."""
    return {name: status.get(name) for name in ("phase", "attempts", "checkpoints", "history", "startTime")}


@pytest.mark.parametrize("crd", Release)
def test_jobs_that_are_handed_back_and_forth_lose_nothing_and_succeed(
    tmp_path: Path, previous: Previous, crd: Release
) -> None:
    definition = DEFINITION if crd is Release.THIS else previous.definition
    with previous.asked(TAKE_OVER) as take_over, FrozenSkewedStack(tmp_path, previous, definition) as stack:
        jobs = Handovers(stack, take_over)
        puppets = jobs.puppets
        for name in ("training", "retried", "suspended", "ended"):
            jobs.train(name, step=20)
        jobs.apply("preparing")
        jobs.reach("preparing", has_attempt("prepare", 1))
        puppets.run("preparing-prepare-1")
        puppets.finish("ended-train-1")
        jobs.reach("ended", phase("Succeeded"))
        puppets.kill("retried-train-1")
        jobs.reach("retried", has_attempt("train", 2))
        jobs.kubectl("patch", "sft", "suspended", "--type=merge", "-p", '{"spec": {"suspend": true}}')
        jobs.reach("suspended", phase("Suspended"))

        jobs.hand_to(Release.THIS)
        puppets.report("training-train-1", 40)
        jobs.reach("training", beyond(39))
        puppets.run("retried-train-2")
        jobs.reach("retried", phase("Running"))

        jobs.hand_to(Release.PREVIOUS)
        puppets.kill("training-train-1")
        jobs.reach("training", has_attempt("train", 2))
        puppets.report("retried-train-2", 50)
        jobs.reach("retried", beyond(49))

        jobs.hand_to(Release.THIS)
        jobs.kubectl("patch", "sft", "suspended", "--type=merge", "-p", '{"spec": {"suspend": false}}')
        jobs.reach("suspended", has_attempt("train", 2))
        puppets.run("training-train-2")
        jobs.reach("training", phase("Running"))
        puppets.report("training-train-2", 60)
        jobs.reach("training", beyond(59))

        puppets.finish("preparing-prepare-1")
        jobs.reach("preparing", has_attempt("train", 1))
        for job, last in (("preparing", 1), ("training", 2), ("retried", 2), ("suspended", 2)):
            puppets.finish(f"{job}-train-{last}")
            jobs.reach(job, phase("Succeeded"))
            assert [pod for pod in jobs.pods() if pod.startswith(f"{job}-train-")][-1] == f"{job}-train-{last}"
