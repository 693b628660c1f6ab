"""The real operator asks the API server for what the chart's role grants: nothing else, and nothing less."""

import http.client
import ssl
from pathlib import Path
from typing import Any

import pytest
import yaml

from bench.operator.fake_node import STEADY, STUCK
from sftjob_contract.names import CA_KEY, CONFIG_KEY, PLURAL, TOKEN_AUDIENCE, progress_path
from sftjob_dev.cluster import Cluster
from support.checks.exposure import exposed
from support.checks.rbac import grants
from support.checks.rights import not_asked, not_granted
from support.clients.helm import Helm
from support.clients.kubectl import Kubectl
from support.clients.wait import wait_until
from support.jobs.builders import a_job
from support.jobs.small_jobs import phase, reach
from support.servers.hostile_api import Asked, Fault
from support.stacks.hostile_stack import HostileFakeStack

PACE = 0.02
MANY = 10_000
TEAMS = ("team-a", "team-b")
RELEASE = {"name": "sftjob-operator", "namespace": "sftjob-system"}
EVENTS = ("list", "events")
SECRET = "sftjob-operator-progress-tls"


class InstalledStack(HostileFakeStack):
    """An operator with the settings that the chart gives it, watching `namespaces`, or all if there are none."""

    def __init__(self, data: Path, namespaces: tuple[str, ...]) -> None:
        super().__init__(data, MANY, PACE)
        self._namespaces = namespaces

    def start_sandbox(self) -> None:
        """See Stack. What is there before the operator: namespaces, and the Secret that it keeps its certificate in."""
        super().start_sandbox()
        kubectl = Kubectl(self.kubeconfig, self.data / "kubectl-cache")
        for namespace in (*TEAMS, RELEASE["namespace"]):
            kubectl("create", "namespace", namespace)
        kubectl("create", "secret", "generic", SECRET, "-n", RELEASE["namespace"])

    def operator_settings(self) -> dict[str, str]:
        """See Stack."""
        settings = {
            key: value for key, value in super().operator_settings().items() if key != "SFTJOB_PROGRESS_TLS_DIR"
        }
        where = {"SFTJOB_PROGRESS_TLS_SECRET": f"{RELEASE['namespace']}/{SECRET}"}
        where["SFTJOB_LEASE"] = f"{RELEASE['namespace']}/{RELEASE['name']}"
        return {**settings, **where, "SFTJOB_NAMESPACES": ",".join(self._namespaces)}


class Once:
    """A plan: once in each namespace a status write conflicts, and the answer to a Pod's creation is lost.

    Until the operator has looked for that Pod by its name, no list and no watch tells it of Pods.
    """

    def __init__(self) -> None:
        self._blind = set(TEAMS)
        self._befallen: set[Asked] = set()

    def __call__(self, asked: Asked) -> Fault | None:
        """See Plan."""
        what = (asked.verb, asked.resource)
        if what == ("get", "pods"):
            self._blind.discard(asked.namespace)
        while_blind = {("watch", "pods"): Fault.WATCH_SILENT, ("list", "pods"): Fault.UNAVAILABLE}
        if self._blind and what in while_blind:
            return while_blind[what]
        once = {("create", "pods"): Fault.ANSWER_LOST, ("patch", PLURAL): Fault.CONFLICT}
        if what not in once or asked in self._befallen:
            return None
        self._befallen.add(asked)
        return once[what]


def begin(kubectl: Kubectl, namespace: str) -> None:
    """Apply a job that has every kind of child, and whose time to live is over soon after its end.

    Nothing but an Event could say why the Pod of another one does not start.
    """
    kubectl("apply", "-f", "-", text=yaml.safe_dump(a_job(STUCK, namespace).manifest()))
    job = a_job("demo", namespace).resources(gpus=1, nodes=2).storage(access_modes=["ReadWriteMany"])
    kubectl("apply", "-f", "-", text=yaml.safe_dump(job.set("ttlSecondsAfterFinished", 1).manifest()))


def resume_with_an_old_config(kubectl: Kubectl, name: str, namespace: str) -> None:
    """Create a job whose ConfigMap, as an earlier operator wrote it, has to be brought up to date."""
    kubectl("apply", "-f", "-", text=yaml.safe_dump(a_job(name, namespace).set("suspend", True).manifest()))
    job = kubectl.json("get", "sft", name, "-n", namespace)
    owner = {"apiVersion": job["apiVersion"], "kind": job["kind"], "name": name, "uid": job["metadata"]["uid"]}
    metadata = {"name": f"{name}-config", "namespace": namespace, "ownerReferences": [{**owner, "controller": True}]}
    old = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata, "data": {CONFIG_KEY: "{}"}}
    kubectl("create", "-f", "-", text=yaml.safe_dump(old))
    kubectl("patch", "sft", name, "-n", namespace, "--type=merge", "-p", '{"spec":{"suspend":false}}')


def trainer_token(stack: InstalledStack, kubectl: Kubectl, namespace: str) -> str:
    """The token of a Pod that trains the job STEADY."""
    kubectl("apply", "-f", "-", text=yaml.safe_dump(a_job(STEADY, namespace).manifest()))
    reach(Cluster(stack.kubeconfig, namespace), STEADY, phase("Running"))
    bound = ("--bound-object-kind=Pod", f"--bound-object-name={STEADY}-train-1")
    return kubectl("create", "token", "default", "-n", namespace, f"--audience={TOKEN_AUDIENCE}", *bound).strip()


def report(stack: InstalledStack, authority: str, namespace: str, token: str) -> int:
    """HTTP status of a report for the job STEADY that says nothing."""
    settings = stack.operator_settings()
    host, _, port = settings["SFTJOB_PROGRESS_ADDRESS"].rpartition(":")
    context = ssl.create_default_context(cadata=authority)
    connection = http.client.HTTPSConnection(host, int(port), context=context, timeout=30)
    connection.request("POST", progress_path(namespace, STEADY), b"{}", {"Authorization": f"Bearer {token}"})
    status = connection.getresponse().status
    connection.close()
    return status


def reads_events(stack: InstalledStack) -> set[str]:
    """Namespaces in which Events were listed."""
    return {asked.namespace for asked in stack.api.asked if (asked.verb, asked.resource) == EVENTS}


@pytest.mark.parametrize(
    "namespaces",
    [pytest.param((), id="all namespaces", marks=pytest.mark.slow), pytest.param(TEAMS, id="two namespaces")],
)
def test_the_operator_uses_exactly_the_rights_that_the_chart_grants(
    tmp_path: Path, helm: Helm, namespaces: tuple[str, ...]
) -> None:
    values: dict[str, Any] = {"namespaces": list(namespaces)}
    granted = grants(helm.objects(values, **RELEASE), RELEASE["name"], RELEASE["namespace"])
    with InstalledStack(tmp_path, namespaces) as stack:
        kubectl = Kubectl(stack.kubeconfig, tmp_path / "kubectl-cache")
        stack.api.plan = Once()
        stack.api.cut()
        for namespace in TEAMS:
            begin(kubectl, namespace)
        for namespace in TEAMS:
            status = reach(Cluster(stack.kubeconfig, namespace), "demo", lambda status: "cleanupTime" in status)
            assert status["phase"] == "Succeeded"
        for namespace in TEAMS:
            resume_with_an_old_config(kubectl, "stays", namespace)
        for namespace in TEAMS:
            reach(Cluster(stack.kubeconfig, namespace), "stays", phase("Succeeded"))
        authority = kubectl.json("get", "configmap", "stays-config", "-n", "team-a")["data"][CA_KEY]
        for namespace in TEAMS:
            assert report(stack, authority, namespace, "made-up") == 401
            assert report(stack, authority, namespace, trainer_token(stack, kubectl, namespace)) == 400
        wait_until(lambda: reads_events(stack) == set(TEAMS), "it asked nobody why the stuck Pods do not start")
        asked = set(stack.api.asked)
        assert exposed(stack, kubectl) == []
    assert not_granted(asked, granted) == set()
    assert not_asked(asked, granted) == set()
