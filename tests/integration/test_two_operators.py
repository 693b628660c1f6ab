"""Two operators at once: the one without the Lease writes nothing, whatever it believed when it last ran."""

import os
import signal
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import yaml

from sftjob_dev.cluster import Cluster
from sftjob_dev.stack import free_port
from sftjob_operator.__main__ import EXIT_LEASE_LOST
from support.clients.kubectl import Kubectl
from support.jobs.builders import a_job
from support.jobs.small_jobs import phase, reach
from support.servers.hostile_api import Asked, Fault
from support.stacks.hostile_stack import HostileFakeStack

pytestmark = pytest.mark.slow
PACE = 0.02
MANY = 10_000
LEASE = ("get", "lease", "sftjob-operator", "-n", "default")


def apply(kubectl: Kubectl, name: str) -> None:
    kubectl("apply", "-f", "-", text=yaml.safe_dump(a_job(name, "default").manifest()))


@contextmanager
def another_operator(stack: HostileFakeStack, pod: str) -> Iterator[str]:
    """A second operator of the same cluster in a Pod of its own; gives the address of its health."""
    port, health = free_port(), f"127.0.0.1:{free_port()}"
    own = {
        "SFTJOB_POD_NAME": pod,
        "SFTJOB_PROGRESS_ADDRESS": f"127.0.0.1:{port}",
        "SFTJOB_LIVENESS_ADDRESS": health,
        "SFTJOB_METRICS_ADDRESS": f"127.0.0.1:{free_port()}",
    }
    settings = {**os.environ, **stack.operator_settings(), **own}
    with (stack.data / "another.log").open("ab") as log:
        process = subprocess.Popen([sys.executable, "-m", "sftjob_operator"], env=settings, stdout=log, stderr=log)
    try:
        yield f"http://{health}/healthz"
    finally:
        process.terminate()
        process.wait(60)


def answers(url: str) -> bool:
    try:
        with urllib.request.urlopen(url, timeout=1) as answer:
            return bool(answer.status == 200)
    except (urllib.error.URLError, OSError):
        return False


def wait_for(url: str) -> None:
    """Wait until an operator works."""
    began = time.monotonic()
    while not answers(url):
        assert time.monotonic() - began < 120
        time.sleep(0.2)


class Writes:
    """A plan without faults that notes what is written, but for Leases."""

    def __init__(self) -> None:
        self.seen: list[Asked] = []

    def __call__(self, asked: Asked) -> Fault | None:
        """See Plan."""
        if asked.is_write and asked.resource != "leases":
            self.seen.append(asked)
        return None


def test_an_operator_that_was_stopped_past_its_lease_writes_nothing_and_ends(tmp_path: Path) -> None:
    with HostileFakeStack(tmp_path, MANY, PACE) as stack:
        kubectl, cluster = Kubectl(stack.kubeconfig, tmp_path / "kubectl-cache"), Cluster(stack.kubeconfig, "default")
        apply(kubectl, "first")
        reach(cluster, "first", phase("Succeeded"))
        before = kubectl.json(*LEASE)["spec"]["holderIdentity"]
        assert before.startswith("sftjob-operator_")
        os.kill(stack.operator_pid, signal.SIGSTOP)
        with another_operator(stack, "another") as health:
            assert not answers(health)
            wait_for(health)
            lease = kubectl.json(*LEASE)["spec"]
            assert lease["holderIdentity"].startswith("another_")
            assert lease["leaseTransitions"] == 2
            apply(kubectl, "late")
            reach(cluster, "late", phase("Succeeded"))
            versions = kubectl("get", "sft,pods", "-o", "jsonpath={.items[*].metadata.resourceVersion}")
            stack.api.plan = writes = Writes()
            os.kill(stack.operator_pid, signal.SIGCONT)
            assert stack._operator is not None
            assert stack._operator.wait(30) == EXIT_LEASE_LOST
            stack._operator = None
            assert writes.seen == []
            assert kubectl("get", "sft,pods", "-o", "jsonpath={.items[*].metadata.resourceVersion}") == versions
            apply(kubectl, "later")
            reach(cluster, "later", phase("Succeeded"))
        assert kubectl.json(*LEASE)["spec"]["holderIdentity"] == ""


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostileFakeStack]:
    """Shared by the tests whose operators end well or are started again."""
    with HostileFakeStack(tmp_path_factory.mktemp("two-operators"), MANY, PACE) as running:
        yield running


def test_a_container_that_is_started_again_takes_the_lease_of_its_pod_at_once(stack: HostileFakeStack) -> None:
    kubectl = Kubectl(stack.kubeconfig, stack.data / "kubectl-cache")
    before = kubectl.json(*LEASE)["spec"]["holderIdentity"]
    stack.kill_operator()
    log = len(stack.operator_log.read_text())
    stack.start_operator()
    assert "waiting for it" not in stack.operator_log.read_text()[log:]
    after = kubectl.json(*LEASE)["spec"]["holderIdentity"]
    assert after != before
    assert after.startswith("sftjob-operator_")


def test_a_second_operator_waits_and_takes_over_as_soon_as_the_first_ends_well(stack: HostileFakeStack) -> None:
    kubectl, cluster = Kubectl(stack.kubeconfig, stack.data / "kubectl-cache"), Cluster(stack.kubeconfig, "default")
    with another_operator(stack, "another") as health:
        apply(kubectl, "first")
        reach(cluster, "first", phase("Succeeded"))
        assert not answers(health)
        stack.stop_operator()
        assert not kubectl.json(*LEASE)["spec"]["holderIdentity"].startswith("sftjob-operator_")
        wait_for(health)
        apply(kubectl, "second")
        reach(cluster, "second", phase("Succeeded"))
