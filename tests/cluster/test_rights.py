"""Who may do what: the operator what the chart says, a training Pod nothing, a foreign Pod not even report."""

import json
from pathlib import Path
from typing import Final

import pytest

from sftjob_contract.names import ENV_KUBEFLOW_URL, LABEL_JOB, TOKEN_AUDIENCE
from support.any_cluster import helper_pods
from support.any_cluster.bed import Bed
from support.any_cluster.release import NAME
from support.checks.rbac import EVERYWHERE, grants
from support.clients.kubectl import Kubectl
from support.jobs.small_jobs import beyond

Right = tuple[str, str, str, str]
"""Verb, group, resource, and the name that it is limited to or nothing."""
TRUE_STEP: Final = 5
FORGED_STEP: Final = 7
STEPS: Final = 10
POST: Final = (helper_pods.INSIDE / "post.py").read_text(encoding="utf-8")


def kubectl_as(bed: Bed, account: str, namespace: str, folder: Path) -> Kubectl:
    """kubectl with the token of a ServiceAccount and nothing else."""
    token = bed.kubectl(namespace)("create", "token", account).strip()
    config = bed.kubectl().json("config", "view", "--raw", "--minify", "--flatten")
    config["users"] = [{"name": account, "user": {"token": token}}]
    config["contexts"][0]["context"]["user"] = account
    path = folder / f"{account}.kubeconfig"
    path.write_text(json.dumps(config), encoding="utf-8")
    path.chmod(0o600)
    return Kubectl(path, folder / "kubectl-cache")


def rights(kubectl: Kubectl, namespace: str) -> set[Right]:
    """What SelfSubjectRulesReview says about a namespace."""
    review = {
        "apiVersion": "authorization.k8s.io/v1",
        "kind": "SelfSubjectRulesReview",
        "spec": {"namespace": namespace},
    }
    path = "/apis/authorization.k8s.io/v1/selfsubjectrulesreviews"
    status = json.loads(kubectl("create", "--raw", path, "-f", "-", text=json.dumps(review)))["status"]
    unlisted = status.get("evaluationError", "no reason given")
    if status["incomplete"] and "node authorizer" not in unlisted:  # that one gives rights to kubelets only
        pytest.skip(f"the server cannot list all rights: {unlisted}")
    return {
        (verb, group, resource, name)
        for rule in status["resourceRules"]
        for group in rule.get("apiGroups") or ()
        for resource in rule.get("resources") or ()
        for verb in rule["verbs"]
        for name in rule.get("resourceNames") or ("",)
    }


@pytest.fixture(scope="module")
def everybodys(bed: Bed, tmp_path_factory: pytest.TempPathFactory) -> set[Right]:
    """What any ServiceAccount may do, such as ask for its own rights."""
    if bed.server.is_sandbox:
        pytest.skip(f"{bed.server.version} authorizes nothing by Roles")
    bed.kubectl(bed.open)("create", "serviceaccount", "nobody")
    return rights(kubectl_as(bed, "nobody", bed.open, tmp_path_factory.mktemp("nobody")), bed.open)


def test_the_operator_has_exactly_the_rights_of_the_chart(bed: Bed, tmp_path: Path, everybodys: set[Right]) -> None:
    own = kubectl_as(bed, NAME, bed.release.namespace, tmp_path)
    granted = grants(bed.release.objects(), NAME, bed.release.namespace)
    for namespace in (bed.namespace, bed.second, bed.release.namespace, bed.open, "kube-system"):
        wanted = {grant for grant in granted if grant.namespace in (EVERYWHERE, namespace)}
        expected = {(grant.verb, grant.group, grant.resource, grant.name) for grant in wanted}
        assert rights(own, namespace) - everybodys == expected - everybodys, namespace


def test_the_service_account_of_training_pods_has_no_rights(bed: Bed, tmp_path: Path, everybodys: set[Right]) -> None:
    account = kubectl_as(bed, "default", bed.namespace, tmp_path)
    assert rights(account, bed.namespace) - everybodys == set()


def body(step: int) -> str:
    """A report in Kubeflow's form."""
    told = {"current_step": step, "total_steps": STEPS}
    metrics = [{"name": name, "value": str(value)} for name, value in told.items()]
    status = {"lastUpdatedTime": "2026-03-01T12:00:00+00:00", "progressPercentage": 10 * step, "metrics": metrics}
    return json.dumps({"trainerStatus": status})


def test_only_the_pod_that_trains_a_job_reports_for_it(bed: Bed) -> None:
    own = ("own", f"$({ENV_KUBEFLOW_URL})", "$(KUBEFLOW_TRAINER_SERVER_TOKEN)")
    bed.apply(bed.a_command("victim", POST, *own).env(BODY=body(TRUE_STEP), STAY_SECONDS="3600"))
    bed.reach("victim", beyond(TRUE_STEP - 1))
    pod = bed.kubectl().json("get", "pod", "victim-train-1")
    url = next(entry["value"] for entry in pod["spec"]["containers"][0]["env"] if entry["name"] == ENV_KUBEFLOW_URL)

    cases = {
        "no token": "-",
        "no such token": "made-up",
        "a token for the API server": "$(TOKENS)/api",
        "a token of a Pod of no job": "$(TOKENS)/right",
    }
    arguments = [word for label, token in cases.items() for word in (label, url, token)]
    answers = bed.run(
        "stranger",
        "post.py",
        *arguments,
        env={"BODY": body(FORGED_STEP)},
        audiences={"api": "https://kubernetes.default.svc", "right": TOKEN_AUDIENCE},
        labels={LABEL_JOB: "stranger"},  # the chart's NetworkPolicy lets Pods of jobs come so far
    )
    assert json.loads(answers) == {
        "no token": 401,
        "no such token": 401,
        "a token for the API server": 401,
        "a token of a Pod of no job": 403,
    }

    bed.apply(bed.a_command("spy", POST, "another's", url, own[2]).env(BODY=body(FORGED_STEP)))
    bed.end("spy")
    assert json.loads(bed.kubectl()("logs", "spy-train-1")) == {"another's": 403}
    assert bed.status("victim")["progress"]["step"] == TRUE_STEP
    bed.delete("victim", "spy")
