"""The real operator behind an API server that fails in every way: each job ends well, and nothing exists twice."""

from collections.abc import Iterator

import pytest
import yaml

from sftjob_contract.names import GROUP, PLURAL
from sftjob_dev.cluster import Cluster
from support.checks.exposure import exposed
from support.checks.rbac import Grant
from support.checks.rights import not_granted
from support.clients.kubectl import Kubectl
from support.jobs.builders import a_job
from support.jobs.small_jobs import phase, reach
from support.servers.hostile_api import ON_REQUESTS, ON_WATCHES, WRITES, Asked, Fault, no_faults
from support.stacks.hostile_stack import HostileFakeStack

PACE = 0.1
"""Times of a Pod's life, as a part of lifelike ones."""
MANY = 10_000
CHILDREN = ["configmap/demo-config", "persistentvolumeclaim/demo", "pod/demo-prepare-1", "pod/demo-train-1"]


class OncePerWrite:
    """A plan: in the namespace of its name, every fault befalls the first write of each kind."""

    def __init__(self) -> None:
        self.befallen: set[Asked] = set()

    def __call__(self, asked: Asked) -> Fault | None:
        """See Plan."""
        fault = next((fault for fault in ON_REQUESTS if namespace(fault) == asked.namespace), None)
        if fault is None or asked.verb not in WRITES or asked in self.befallen:
            return None
        if fault == Fault.INVALID and asked.verb == "create":
            return None  # what a server calls invalid is no passing failure
        self.befallen.add(asked)
        return fault


class EveryWatchOnce:
    """A plan: `fault` befalls the next watch of each resource."""

    def __init__(self, fault: Fault) -> None:
        self.befallen: set[str] = set()
        self._fault = fault

    def __call__(self, asked: Asked) -> Fault | None:
        """See Plan."""
        if asked.verb != "watch" or asked.resource in self.befallen:
            return None
        self.befallen.add(asked.resource)
        return self._fault


def namespace(fault: Fault) -> str:
    return fault.name.lower().replace("_", "-")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, granted: set[Grant]) -> Iterator[HostileFakeStack]:
    """Shared by all tests. After the last of them: it kept to its rights and showed no secret, whatever befell it."""
    with HostileFakeStack(tmp_path_factory.mktemp("hostile"), MANY, PACE) as running:
        yield running
        assert not_granted(running.api.asked, granted) == set()
        assert exposed(running, Kubectl(running.kubeconfig, running.data / "kubectl-cache")) == []


@pytest.fixture(scope="module")
def kubectl(stack: HostileFakeStack) -> Kubectl:
    return Kubectl(stack.kubeconfig, stack.data / "kubectl-cache")


@pytest.fixture(scope="module")
def befallen(stack: HostileFakeStack, kubectl: Kubectl) -> set[Asked]:
    """What failed once, after a job was created in a namespace for each fault."""
    stack.api.plan = plan = OncePerWrite()
    for fault in ON_REQUESTS:
        kubectl("create", "namespace", namespace(fault))
        apply(kubectl, namespace(fault))
    return plan.befallen


def apply(kubectl: Kubectl, where: str) -> None:
    kubectl("apply", "-f", "-", text=yaml.safe_dump(a_job("demo", where).manifest()))


def ends_well(stack: HostileFakeStack, kubectl: Kubectl, where: str) -> None:
    """The job succeeds at the first attempt of each stage, and has the children that it needs."""
    status = reach(Cluster(stack.kubeconfig, where), "demo", phase("Succeeded", "Failed"))
    assert status["phase"] == "Succeeded"
    assert [attempt["number"] for attempt in status["attempts"]] == [1, 1]
    found = kubectl("get", "configmaps,persistentvolumeclaims,pods", "-n", where, "-o", "name").split()
    assert [name for name in sorted(found) if "kube-root-ca" not in name] == CHILDREN


@pytest.mark.parametrize("fault", ON_REQUESTS, ids=namespace)
def test_a_request_that_fails_is_made_good(
    stack: HostileFakeStack, kubectl: Kubectl, befallen: set[Asked], fault: Fault
) -> None:
    ends_well(stack, kubectl, namespace(fault))
    failed = {f"{asked.verb} {asked.resource}" for asked in befallen if asked.namespace == namespace(fault)}
    patched = {f"patch {PLURAL}"}
    created = {"create configmaps", "create persistentvolumeclaims", "create pods", "create events"}
    assert failed == patched if fault == Fault.INVALID else patched | created


@pytest.mark.parametrize("fault", ON_WATCHES, ids=namespace)
def test_a_watch_that_fails_is_begun_anew(stack: HostileFakeStack, kubectl: Kubectl, fault: Fault) -> None:
    where = namespace(fault)
    kubectl("create", "namespace", where)
    stack.api.plan = plan = EveryWatchOnce(fault)
    stack.api.cut()
    apply(kubectl, where)
    ends_well(stack, kubectl, where)
    assert plan.befallen == {PLURAL, "pods"}
    stack.check()


def test_every_request_is_remembered_as_what_it_needs_a_right_for(stack: HostileFakeStack, kubectl: Kubectl) -> None:
    stack.api.plan = no_faults
    kubectl("create", "namespace", "quiet")
    apply(kubectl, "quiet")
    ends_well(stack, kubectl, "quiet")
    asked = set(stack.api.asked)
    assert Asked(verb="watch", group=GROUP, resource=PLURAL) in asked
    assert {entry for entry in asked if entry.namespace == "quiet" and entry.is_write} == {
        Asked(verb="create", group="", resource="configmaps", namespace="quiet"),
        Asked(verb="create", group="", resource="events", namespace="quiet"),
        Asked(verb="create", group="", resource="persistentvolumeclaims", namespace="quiet"),
        Asked(verb="create", group="", resource="pods", namespace="quiet"),
        Asked(verb="patch", group=GROUP, resource=PLURAL, subresource="status", namespace="quiet"),
    }
