"""What keeps the real operator from acting is in the job's conditions, ends nothing, and is over once it is mended."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from cluster import Cluster
from support.builders import JobBuilder, a_job
from support.hostile_api import Asked, Fault, no_faults
from support.hostile_stack import HostileFakeStack
from support.jobs import phase, reach
from support.kubectl import Kubectl

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
