"""The operator process is killed before and after a job's first writes, or each create is refused before it is done.

The job ends as an undisturbed one does. tests/unit/controller/test_crash_points.py has every write of a job's life.
"""

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import yaml

from sftjob_dev.cluster import Cluster
from support.checks.exposure import exposed
from support.checks.rbac import Grant
from support.checks.rights import not_granted
from support.clients.kubectl import Kubectl
from support.fakes.crash_points import without_times
from support.fakes.denials import Denial
from support.jobs.builders import a_job
from support.jobs.small_jobs import phase, reach
from support.servers.hostile_api import Admission, Asked
from support.stacks.hostile_stack import HostileFakeStack

pytestmark = pytest.mark.slow
PACE = 0.02
MANY = 10_000
CHILDREN = ("persistentvolumeclaims/demo", "configmaps/demo-config", "pods/demo-prepare-1", "pods/demo-train-1")
POINTS = {"status 0", *(f"create {child}" for child in CHILDREN)}


class Shots:
    """Shoots the operator once before and once after each of POINTS in a namespace.

    Status writes are numbered by how many were done.
    """

    def __init__(self, stack: HostileFakeStack, namespace: str) -> None:
        self.before: list[str] = []
        self.after: list[str] = []
        self._stack = stack
        self._namespace = namespace
        self._status_writes = 0

    def before_write(self, asked: Asked, name: str) -> bool:
        return asked.namespace == self._namespace and self._shoot(self.before, self._what(asked, name))

    def after_write(self, asked: Asked, name: str) -> bool:
        if asked.namespace != self._namespace:
            return False
        what = self._what(asked, name)
        self._status_writes += asked.verb == "patch"
        return self._shoot(self.after, what)

    def _what(self, asked: Asked, name: str) -> str:
        return f"status {self._status_writes}" if asked.verb == "patch" else f"{asked.verb} {asked.resource}/{name}"

    def _shoot(self, shot: list[str], what: str) -> bool:
        if what in shot or what not in POINTS:
            return False
        shot.append(what)
        return self._stack.shoot_operator()


class RefusedOnce:
    """A plan: in a namespace, each create is refused once, in a way that is drawn, before it is done."""

    def __init__(self, namespace: str) -> None:
        self.refused: Counter[str] = Counter()
        self._asked: Counter[str] = Counter()
        self._namespace = namespace
        self._admission = Admission(seed=1, rate=1.0)

    def __call__(self, asked: Asked) -> Denial | None:
        """See Plan."""
        if asked.namespace != self._namespace or (denial := self._admission(asked)) is None:
            return None
        self._asked[asked.resource] += 1
        if self._asked[asked.resource] % 2 == 0:
            return None
        self.refused[asked.resource] += 1
        return denial


def apply(kubectl: Kubectl, where: str) -> None:
    kubectl("create", "namespace", where)
    kubectl("apply", "-f", "-", text=yaml.safe_dump(a_job("demo", where).manifest()))


def left(kubectl: Kubectl, where: str) -> dict[str, Any]:
    """The job's status and what belongs to it."""
    status = kubectl.json("get", "sft", "demo", "-n", where)["status"]
    del status["provenance"]["configHash"]  # the config names the namespace
    children = kubectl("get", "configmaps,persistentvolumeclaims,pods,services", "-n", where, "-o", "name").split()
    return {"status": without_times(status), "children": sorted(children)}


def test_whenever_the_operator_process_is_killed_the_end_is_the_same(tmp_path: Path, granted: set[Grant]) -> None:
    with HostileFakeStack(tmp_path, MANY, PACE) as stack:
        kubectl = Kubectl(stack.kubeconfig, tmp_path / "kubectl-cache")
        apply(kubectl, "calm")
        reach(Cluster(stack.kubeconfig, "calm"), "demo", phase("Succeeded"))

        stack.api.plan = plan = RefusedOnce("refused")
        apply(kubectl, "refused")
        reach(Cluster(stack.kubeconfig, "refused"), "demo", phase("Succeeded", "Failed"))
        assert set(plan.refused) >= {"persistentvolumeclaims", "configmaps", "pods"}
        assert left(kubectl, "refused") == left(kubectl, "calm")

        shots = Shots(stack, "shot")
        stack.api.before_write, stack.api.after_write = shots.before_write, shots.after_write
        apply(kubectl, "shot")
        stack.keep_operator(
            until=lambda: kubectl("get", "sft", "demo", "-n", "shot", "-o", "jsonpath={.status.phase}") == "Succeeded"
        )

        assert set(shots.before) == set(shots.after) == POINTS
        shot, calm = left(kubectl, "shot"), left(kubectl, "calm")
        assert shot["children"] == calm["children"]
        assert shot["status"] == calm["status"]
        assert not_granted(stack.api.asked, granted) == set()
        assert exposed(stack, kubectl) == []
