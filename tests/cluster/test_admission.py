"""What admission refuses or adds: a job waits with the server's words, goes on once it may, and ends as it should."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import pytest
import yaml

from support.any_cluster.bed import Bed
from support.any_cluster.helper_pods import CONTAINER_SECURITY, helper_pod
from support.any_cluster.server import wait_until
from support.any_cluster.setup import PART_OF
from support.jobs.small_jobs import Status

PODS: Final = {"apiGroups": [""], "apiVersions": ["v1"], "operations": ["CREATE"], "resources": ["pods"]}
DONE: Final = "print('done')"
NEEDS_TEAM: Final = "every Pod of this namespace needs a label team"
SIDECAR: Final = "injected"
STAY: Final = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(0)); time.sleep(3600)"


@contextmanager
def present(bed: Bed, *objects: Mapping[str, Any]) -> Iterator[None]:
    """The objects are there, and are removed again."""
    kubectl = bed.kubectl(bed.guarded)
    text = yaml.safe_dump_all(objects)
    kubectl("create", "-f", "-", text=text)
    try:
        yield
    finally:
        kubectl("delete", "--ignore-not-found", "-f", "-", text=text)


def policy(bed: Bed, kind: str, api_version: str, spec: Mapping[str, Any], binding: Mapping[str, Any]) -> Iterator[Any]:
    """An admission policy and its binding to the guarded namespace."""
    metadata = {"name": f"{bed.prefix}-{kind.lower()}", "labels": {PART_OF: bed.prefix}}
    here = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": bed.guarded}}}
    rules = {"failurePolicy": "Fail", "matchConstraints": {"resourceRules": [PODS]}}
    bound = {"policyName": metadata["name"], "matchResources": here, **binding}
    yield {"apiVersion": api_version, "kind": kind, "metadata": metadata, "spec": {**rules, **spec}}
    yield {"apiVersion": api_version, "kind": f"{kind}Binding", "metadata": metadata, "spec": bound}


def admitted(bed: Bed) -> dict[str, Any] | None:
    """A Pod as admission lets it through now; None if it does not."""
    pod = helper_pod("probe", bed.image, "listing.py", labels={"sftjob.dev/job": "probe"})
    del pod["spec"]["containers"][0]["resources"]
    pod["spec"]["containers"][0]["resources"] = {"requests": {"cpu": "100m"}}
    done = bed.kubectl(bed.guarded).run("create", "--dry-run=server", "-o", "json", "-f", "-", text=json.dumps(pod))
    return None if done.returncode else dict(json.loads(done.stdout))


def refuses(bed: Bed) -> None:
    """Wait until admission knows of a rule that refuses Pods: it learns of one a moment after it was created."""
    wait_until(lambda: admitted(bed) is None, "no Pod is refused")


def waits_for(bed: Bed, job: str, words: str) -> Status:
    """A status of the job that has the server's words; it has not ended."""

    def told(status: Status) -> bool:
        return any(words in entry.get("message", "") for entry in status.get("conditions", ()))

    return bed.reach(job, told, bed.guarded)


def succeeds(bed: Bed, job: str) -> None:
    status = bed.end(job, bed.guarded)
    assert status["phase"] == "Succeeded", status


def test_a_pod_that_a_policy_refuses_is_waited_for_in_the_policy_s_words(bed: Bed) -> None:
    version = bed.server.admission_version("validatingadmissionpolicies")
    rule = {"expression": "has(object.metadata.labels) && 'team' in object.metadata.labels", "message": NEEDS_TEAM}
    objects = policy(
        bed, "ValidatingAdmissionPolicy", version, {"validations": [rule]}, {"validationActions": ["Deny"]}
    )
    with present(bed, *objects):
        refuses(bed)
        bed.apply(bed.a_command("without-team", DONE, namespace=bed.guarded))
        waits_for(bed, "without-team", NEEDS_TEAM)
        labelled = bed.a_command("with-team", DONE, namespace=bed.guarded)
        bed.apply(labelled.set("podMetadata", {"labels": {"team": "blue"}}))
        succeeds(bed, "with-team")
    succeeds(bed, "without-team")


def test_a_limit_below_the_request_is_waited_out_and_a_cpu_limit_of_the_job_s_own_meets_it(bed: Bed) -> None:
    bed.server.require("limitranges")
    limits = [{"type": "Container", "default": {"cpu": "50m"}, "defaultRequest": {"cpu": "50m"}}]
    with present(
        bed, {"apiVersion": "v1", "kind": "LimitRange", "metadata": {"name": "low"}, "spec": {"limits": limits}}
    ):
        refuses(bed)
        bed.apply(bed.a_command("above-the-limit", DONE, namespace=bed.guarded))
        waits_for(bed, "above-the-limit", "must be less than or equal to cpu limit")
        bed.apply(bed.a_command("with-a-limit", DONE, namespace=bed.guarded).resources(cpu_limit="200m"))
        succeeds(bed, "with-a-limit")
    succeeds(bed, "above-the-limit")


def test_a_job_waits_while_a_quota_is_exhausted_and_goes_on_when_it_is_raised(bed: Bed) -> None:
    bed.server.require("resourcequotas")
    quota = {"apiVersion": "v1", "kind": "ResourceQuota", "metadata": {"name": "none"}, "spec": {"hard": {"pods": "0"}}}
    with present(bed, quota):
        refuses(bed)
        bed.apply(bed.a_command("over-quota", DONE, namespace=bed.guarded))
        waits_for(bed, "over-quota", "exceeded quota")
        more = json.dumps({"spec": {"hard": {"pods": "50"}}})
        bed.kubectl(bed.guarded)("patch", "resourcequota", "none", "--type=merge", "-p", more)
        succeeds(bed, "over-quota")


def test_an_injected_sidecar_that_never_ends_does_not_keep_a_job_from_ending(bed: Bed) -> None:
    version = bed.server.admission_version("mutatingadmissionpolicies")
    here = "Object.spec.containers"
    security = f"{here}.securityContext"
    assert CONTAINER_SECURITY == {"allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}}
    container = (
        f'{here}{{name: "{SIDECAR}", image: "{bed.image}", command: ["python", "-c", "{STAY}"], '
        f"securityContext: {security}{{allowPrivilegeEscalation: false, "
        f'capabilities: {security}.capabilities{{drop: ["ALL"]}}}}}}'
    )
    mutation = {
        "patchType": "ApplyConfiguration",
        "applyConfiguration": {"expression": f"Object{{spec: Object.spec{{containers: [{container}]}}}}"},
    }
    of_a_job = {"name": "of-a-job", "expression": "'sftjob.dev/job' in object.metadata.?labels.orValue({})"}
    spec = {"reinvocationPolicy": "Never", "matchConditions": [of_a_job], "mutations": [mutation]}
    with present(bed, *policy(bed, "MutatingAdmissionPolicy", version, spec, {})):
        wait_until(lambda: SIDECAR in json.dumps(admitted(bed)), "no sidecar is injected")
        bed.apply(bed.a_command("beside-a-sidecar", DONE, namespace=bed.guarded))
        succeeds(bed, "beside-a-sidecar")

    def running() -> bool:
        pods = bed.kubectl(bed.guarded).json("get", "pods", "-l", "sftjob.dev/job=beside-a-sidecar")["items"]
        return any(pod["status"]["phase"] == "Running" for pod in pods)

    wait_until(lambda: not running(), lambda: bed.account("beside-a-sidecar", bed.guarded))


@pytest.fixture(scope="module", autouse=True)
def _cleared(bed: Bed) -> Iterator[None]:
    yield
    bed.kubectl(bed.guarded)("delete", "sft", "--all", "--wait=false")
