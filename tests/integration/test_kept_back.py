"""What keeps the real operator from acting is in the job's conditions, ends nothing, and is over once it is mended.

What it did not see happen is mended too: a Pod that appears after its job has ended.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from bench.operator.fake_node import STEADY
from sftjob_contract.names import LABEL_ATTEMPT, LABEL_JOB
from sftjob_dev.cluster import Cluster
from support.clients.kubectl import Kubectl
from support.clients.wait import wait_until
from support.jobs.builders import JobBuilder, a_job
from support.jobs.small_jobs import phase, reach
from support.servers.hostile_api import Asked, Fault, no_faults
from support.stacks.hostile_stack import HostileFakeStack

pytestmark = pytest.mark.slow
PACE = 0.02
MANY = 10_000
FUTURE_PHASE = "Archiving"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[HostileFakeStack]:
    with HostileFakeStack(tmp_path_factory.mktemp("kept-back"), MANY, PACE) as running:
        yield running


@pytest.fixture(scope="module")
def kubectl(stack: HostileFakeStack) -> Kubectl:
    return Kubectl(stack.kubeconfig, stack.data / "kubectl-cache")


@pytest.fixture(scope="module")
def cluster(stack: HostileFakeStack) -> Cluster:
    return Cluster(stack.kubeconfig, "default")


@pytest.fixture(scope="module")
def newer_definition(kubectl: Kubectl) -> None:
    """A CRD with a field more in spec and status, and a phase more."""
    definition = kubectl.json("get", "crd", "sftjobs.sftjob.dev")
    parts = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    parts["spec"]["properties"]["futureOption"] = {"type": "string"}
    parts["status"]["properties"]["futureField"] = {"type": "string"}
    parts["status"]["properties"]["phase"]["enum"].append(FUTURE_PHASE)
    kubectl("replace", "-f", "-", text=yaml.safe_dump(definition))


def apply(kubectl: Kubectl, job: JobBuilder) -> None:
    kubectl("apply", "-f", "-", text=yaml.safe_dump(job.manifest()))


def reasons(status: dict[str, Any]) -> set[str]:
    return {condition["reason"] for condition in status.get("conditions") or ()}


def no_pods(asked: Asked) -> Fault | None:
    """A plan: no Pod may be created, as with a webhook that does not answer."""
    return Fault.UNAVAILABLE if (asked.verb, asked.resource) == ("create", "pods") else None


def write_newer_status(kubectl: Kubectl, job: str) -> None:
    newer = json.dumps({"status": {"futureField": "kept", "phase": FUTURE_PHASE}})
    kubectl("patch", "sft", job, "--subresource=status", "--type=merge", "-p", newer)


def pods(kubectl: Kubectl, job: str) -> dict[str, str]:
    """Uids of a job's Pods that are not being deleted, by their names."""
    found = (pod["metadata"] for pod in kubectl.json("get", "pods", "-l", f"{LABEL_JOB}={job}")["items"])
    return {pod["name"]: pod["uid"] for pod in found if "deletionTimestamp" not in pod}


def test_a_newer_definition_and_a_webhook_that_is_away_keep_jobs_back_and_end_none(
    stack: HostileFakeStack, kubectl: Kubectl, cluster: Cluster, request: pytest.FixtureRequest
) -> None:
    apply(kubectl, a_job("held", "default").set("suspend", True))
    before = reach(cluster, "held", phase("Suspended"))
    request.getfixturevalue("newer_definition")
    write_newer_status(kubectl, "held")
    kubectl("patch", "sft", "held", "--type=merge", "-p", '{"spec":{"futureOption":"x","suspend":false}}')
    status = reach(cluster, "held", lambda status: "InvalidSpec" in reasons(status))
    assert status["futureField"] == "kept"
    assert status["startTime"] == before["startTime"]
    told = kubectl("describe", "sft", "held")
    assert "spec.futureOption is a field that this version of the operator does not know" in told
    assert pods(kubectl, "held") == {}
    stack.api.plan = no_pods
    apply(kubectl, a_job("denied", "default"))
    reach(cluster, "denied", lambda status: "ServerUnavailable" in reasons(status))
    assert kubectl.json("get", "sft", "denied")["status"]["phase"] == "Pending"
    stack.api.plan = no_faults
    kubectl("patch", "sft", "held", "--type=merge", "-p", '{"spec":{"futureOption":null}}')
    assert reach(cluster, "held", phase("Succeeded"))["futureField"] == "kept"
    reach(cluster, "denied", phase("Succeeded"))


def test_a_run_trains_on_while_its_spec_and_status_are_of_a_newer_definition(
    stack: HostileFakeStack, kubectl: Kubectl, cluster: Cluster, request: pytest.FixtureRequest
) -> None:
    job = f"{STEADY}-on"
    apply(kubectl, a_job(job, "default"))
    before, running = reach(cluster, job, phase("Running")), pods(kubectl, job)
    request.getfixturevalue("newer_definition")
    kubectl("patch", "sft", job, "--type=merge", "-p", '{"spec":{"futureOption":"x"}}')
    write_newer_status(kubectl, job)
    reach(cluster, job, lambda status: "InvalidSpec" in reasons(status))
    stack.kill_operator()
    kubectl("patch", "sft", job, "--type=merge", "-p", '{"spec":{"futureOption":"y"}}')
    stack.start_operator()
    held = reach(cluster, job, lambda status: status["conditions"][-1].get("observedGeneration") == 3)
    assert (held["futureField"], held["phase"], held["attempts"]) == ("kept", FUTURE_PHASE, before["attempts"])
    assert pods(kubectl, job) == running
    kubectl("patch", "sft", job, "--type=merge", "-p", '{"spec":{"futureOption":null}}')
    status = reach(cluster, job, phase("Running"))
    assert (status["futureField"], status["attempts"]) == ("kept", before["attempts"])
    assert pods(kubectl, job) == running
    kubectl("patch", "sft", job, "--type=merge", "-p", '{"spec":{"suspend":true}}')
    assert reach(cluster, job, phase("Suspended"))["futureField"] == "kept"


@pytest.mark.parametrize("operator_is_down", [False, True], ids=["at once", "while the operator is down"])
def test_a_pod_that_appears_after_its_job_has_ended_is_deleted(
    stack: HostileFakeStack, kubectl: Kubectl, cluster: Cluster, operator_is_down: bool
) -> None:
    job = f"{STEADY}-{operator_is_down}".lower()
    apply(kubectl, a_job(job, "default"))
    reach(cluster, job, phase("Running"))
    late = kubectl.json("get", "pod", f"{job}-train-1")
    kubectl("patch", "sft", job, "--type=merge", "-p", '{"spec":{"deadlineSeconds":1}}')
    assert reach(cluster, job, phase("Failed"))["conditions"][-1]["reason"] == "DeadlineExceeded"
    late["metadata"] = {key: late["metadata"][key] for key in ("labels", "ownerReferences")}
    late["metadata"] |= {"name": f"{job}-train-2", "labels": {**late["metadata"]["labels"], LABEL_ATTEMPT: "2"}}
    late["spec"].pop("nodeName")
    if operator_is_down:
        stack.kill_operator()
    kubectl("create", "-f", "-", text=yaml.safe_dump(late))
    if operator_is_down:
        stack.start_operator()
    wait_until(lambda: f"{job}-train-2" not in pods(kubectl, job), "the late Pod trains on")
    assert kubectl.json("get", "sft", job)["status"]["phase"] == "Failed"
