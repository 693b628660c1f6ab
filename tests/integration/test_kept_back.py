"""What keeps the real operator from acting is in the job's conditions, ends nothing, and is over once it is mended.

What it did not see happen is mended too: a Pod that appears after its job has ended.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import Cluster
from fake_node import STEADY
from sftjob_contract.names import LABEL_ATTEMPT
from support.builders import JobBuilder, a_job
from support.hostile_api import Asked, Fault, no_faults
from support.hostile_stack import HostileFakeStack
from support.jobs import phase, reach
from support.kubectl import Kubectl
from support.wait import wait_until

pytestmark = pytest.mark.slow
PACE = 0.02
MANY = 10_000


def apply(kubectl: Kubectl, job: JobBuilder) -> None:
    kubectl("apply", "-f", "-", text=yaml.safe_dump(job.manifest()))


def reasons(status: dict[str, Any]) -> set[str]:
    return {condition["reason"] for condition in status.get("conditions") or ()}


def no_pods(asked: Asked) -> Fault | None:
    """A plan: no Pod may be created, as with a webhook that does not answer."""
    return Fault.UNAVAILABLE if (asked.verb, asked.resource) == ("create", "pods") else None


def newer_definition(kubectl: Kubectl) -> None:
    """A CRD with a field more in spec and status, and a phase more."""
    definition = kubectl.json("get", "crd", "sftjobs.sftjob.dev")
    parts = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]["properties"]
    parts["spec"]["properties"]["futureOption"] = {"type": "string"}
    parts["status"]["properties"]["futureField"] = {"type": "string"}
    parts["status"]["properties"]["phase"]["enum"].append("Publishing")
    kubectl("replace", "-f", "-", text=yaml.safe_dump(definition))


def test_a_newer_definition_and_a_webhook_that_is_away_keep_jobs_back_and_end_none(tmp_path: Path) -> None:
    with HostileFakeStack(tmp_path, MANY, PACE) as stack:
        kubectl, cluster = Kubectl(stack.kubeconfig, tmp_path / "kubectl-cache"), Cluster(stack.kubeconfig, "default")
        apply(kubectl, a_job("held", "default").set("suspend", True))
        before = reach(cluster, "held", phase("Suspended"))
        newer_definition(kubectl)
        newer = '{"status":{"futureField":"kept","phase":"Publishing"}}'
        kubectl("patch", "sft", "held", "--subresource=status", "--type=merge", "-p", newer)
        kubectl("patch", "sft", "held", "--type=merge", "-p", '{"spec":{"futureOption":"x","suspend":false}}')
        status = reach(cluster, "held", lambda status: "InvalidSpec" in reasons(status))
        assert status["futureField"] == "kept"
        assert status["startTime"] == before["startTime"]
        told = kubectl("describe", "sft", "held")
        assert "spec.futureOption is a field that this version of the operator does not have" in told
        assert kubectl.json("get", "pods")["items"] == []
        stack.api.plan = no_pods
        apply(kubectl, a_job("denied", "default"))
        reach(cluster, "denied", lambda status: "ServerUnavailable" in reasons(status))
        assert kubectl.json("get", "sft", "denied")["status"]["phase"] == "Pending"
        stack.api.plan = no_faults
        kubectl("patch", "sft", "held", "--type=merge", "-p", '{"spec":{"futureOption":null}}')
        assert reach(cluster, "held", phase("Succeeded"))["futureField"] == "kept"
        reach(cluster, "denied", phase("Succeeded"))


def pods(kubectl: Kubectl) -> dict[str, str]:
    """Uids of Pods that are not being deleted, by their names."""
    found = (pod["metadata"] for pod in kubectl.json("get", "pods")["items"])
    return {pod["name"]: pod["uid"] for pod in found if "deletionTimestamp" not in pod}


def test_a_run_trains_on_while_its_spec_and_status_are_of_a_newer_definition(tmp_path: Path) -> None:
    with HostileFakeStack(tmp_path, MANY, PACE) as stack:
        kubectl, cluster = Kubectl(stack.kubeconfig, tmp_path / "kubectl-cache"), Cluster(stack.kubeconfig, "default")
        apply(kubectl, a_job(STEADY, "default"))
        before, running = reach(cluster, STEADY, phase("Running")), pods(kubectl)
        newer_definition(kubectl)
        kubectl("patch", "sft", STEADY, "--type=merge", "-p", '{"spec":{"futureOption":"x"}}')
        newer = '{"status":{"futureField":"kept","phase":"Publishing"}}'
        kubectl("patch", "sft", STEADY, "--subresource=status", "--type=merge", "-p", newer)
        reach(cluster, STEADY, lambda status: "InvalidSpec" in reasons(status))
        stack.kill_operator()
        kubectl("patch", "sft", STEADY, "--type=merge", "-p", '{"spec":{"futureOption":"y"}}')
        stack.start_operator()
        held = reach(cluster, STEADY, lambda status: status["conditions"][-1].get("observedGeneration") == 3)
        assert (held["futureField"], held["phase"], held["attempts"]) == ("kept", "Publishing", before["attempts"])
        assert pods(kubectl) == running
        kubectl("patch", "sft", STEADY, "--type=merge", "-p", '{"spec":{"futureOption":null}}')
        status = reach(cluster, STEADY, phase("Running"))
        assert (status["futureField"], status["attempts"]) == ("kept", before["attempts"])
        assert pods(kubectl) == running
        kubectl("patch", "sft", STEADY, "--type=merge", "-p", '{"spec":{"suspend":true}}')
        assert reach(cluster, STEADY, phase("Suspended"))["futureField"] == "kept"


@pytest.mark.parametrize("operator_is_down", [False, True], ids=["at once", "while the operator is down"])
def test_a_pod_that_appears_after_its_job_has_ended_is_deleted(tmp_path: Path, operator_is_down: bool) -> None:
    with HostileFakeStack(tmp_path, MANY, PACE) as stack:
        kubectl, cluster = Kubectl(stack.kubeconfig, tmp_path / "kubectl-cache"), Cluster(stack.kubeconfig, "default")
        apply(kubectl, a_job(STEADY, "default"))
        reach(cluster, STEADY, phase("Running"))
        late = kubectl.json("get", "pod", f"{STEADY}-train-1")
        kubectl("patch", "sft", STEADY, "--type=merge", "-p", '{"spec":{"deadlineSeconds":1}}')
        assert reach(cluster, STEADY, phase("Failed"))["conditions"][-1]["reason"] == "DeadlineExceeded"
        late["metadata"] = {key: late["metadata"][key] for key in ("labels", "ownerReferences")}
        late["metadata"] |= {"name": f"{STEADY}-train-2", "labels": {**late["metadata"]["labels"], LABEL_ATTEMPT: "2"}}
        late["spec"].pop("nodeName")
        if operator_is_down:
            stack.kill_operator()
        kubectl("create", "-f", "-", text=yaml.safe_dump(late))
        if operator_is_down:
            stack.start_operator()
        wait_until(lambda: f"{STEADY}-train-2" not in pods(kubectl), "the late Pod trains on")
        assert kubectl.json("get", "sft", STEADY)["status"]["phase"] == "Failed"
