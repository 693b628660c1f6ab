"""Each namespace of SFTJOB_NAMESPACES stands alone: one that the server refuses stops no other, and may come back."""

from collections.abc import Iterator
from urllib.request import urlopen

import pytest
import yaml

from sftjob_dev.cluster import Cluster
from support.checks.scrapes import Scrape
from support.clients.kubectl import Kubectl
from support.jobs.builders import a_job
from support.jobs.small_jobs import phase, reach
from support.servers.hostile_api import Asked, Fault
from support.stacks.hostile_stack import HostileFakeStack

PACE = 0.02
MANY = 10_000
SERVED, FORBIDDEN, MISSING = "served", "forbidden", "missing"
REFUSED = {FORBIDDEN: Fault.FORBIDDEN, MISSING: Fault.NOT_FOUND}


class SomeNamespaces(HostileFakeStack):
    """An operator of three namespaces, two of which are refused from before its start until `lift`."""

    def start_sandbox(self) -> None:
        """See Stack."""
        super().start_sandbox()
        self.refused = dict(REFUSED)
        self.api.plan = self._refusal

    def operator_settings(self) -> dict[str, str]:
        """See Stack."""
        return {**super().operator_settings(), "SFTJOB_NAMESPACES": f"{FORBIDDEN},{SERVED},{MISSING}"}

    def refuse(self, *namespaces: str) -> None:
        """Refuse these namespaces and no other; watches that are open end."""
        self.refused = {name: REFUSED[name] for name in namespaces}
        self.api.cut()

    def _refusal(self, asked: Asked) -> Fault | None:
        return self.refused.get(asked.namespace)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SomeNamespaces]:
    with SomeNamespaces(tmp_path_factory.mktemp("stack"), MANY, PACE) as stack:
        yield stack


@pytest.fixture(scope="module")
def kubectl(stack: SomeNamespaces, tmp_path_factory: pytest.TempPathFactory) -> Kubectl:
    kubectl = Kubectl(stack.kubeconfig, tmp_path_factory.mktemp("kubectl-cache"))
    for namespace in (SERVED, FORBIDDEN, MISSING):
        kubectl("create", "namespace", namespace)
    return kubectl


def ends(stack: SomeNamespaces, kubectl: Kubectl, namespace: str, name: str) -> None:
    """Apply a job that must succeed."""
    job = a_job(name, namespace=namespace).resources(gpus=0).manifest()
    kubectl("apply", "-f", "-", text=yaml.safe_dump(job))
    reach(Cluster(stack.kubeconfig, namespace), name, phase("Succeeded"))


def test_namespaces_that_are_refused_stop_no_other_and_are_served_once_they_are_back(
    stack: SomeNamespaces, kubectl: Kubectl
) -> None:
    process = stack.operator_pid
    ends(stack, kubectl, SERVED, "beside-refused-ones")
    with urlopen(stack.metrics_url) as answer:
        assert Scrape(answer.read().decode()).value("sftjob_unserved_namespaces") == 2
    log = stack.operator_log.read_text()
    assert "namespace missing is not served, because the server refuses to list it" in log
    assert "namespace forbidden is not served, because the server refuses to list it" in log

    stack.refuse()
    ends(stack, kubectl, FORBIDDEN, "after-it-came-back")
    ends(stack, kubectl, MISSING, "after-it-came-back")

    stack.refuse(FORBIDDEN, MISSING)
    ends(stack, kubectl, SERVED, "beside-ones-refused-again")
    assert stack.operator_pid == process
    stack.check()
