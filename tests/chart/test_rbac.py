"""The operator's rights: the requests that its code makes, where it makes them, and no other."""

from typing import Any

import pytest

from sftjob_contract.names import GROUP, KIND, PLURAL
from sftjob_operator.effects import kube
from support.checks.rbac import EVERYWHERE, Grant, grants
from support.clients.helm import Helm

RELEASE = {"name": "sftjob-operator", "namespace": "sftjob-system"}
SECRET = "sftjob-operator-progress-tls"
# kopf and the listings: list, watch. effects/children.py: create, and get, update and delete by name. execute.py: get
# of a job whose status write met a conflict, status by merge patch, Events.
JOB_REQUESTS = {
    (GROUP, PLURAL): {"get", "list", "watch"},
    (GROUP, f"{PLURAL}/status"): {"patch"},
    ("", "pods"): {"create", "delete", "get", "list", "watch"},
    ("", "configmaps"): {"create", "delete", "get", "update"},
    ("", "persistentvolumeclaims"): {"create", "delete", "get"},
    ("", "services"): {"create", "delete", "get"},
    ("", "events"): {"create", "list"},
}
REVIEW = Grant("create", "authentication.k8s.io", "tokenreviews", EVERYWHERE)
LEASES = {Grant("create", "coordination.k8s.io", "leases", "sftjob-system")} | {
    Grant(verb, "coordination.k8s.io", "leases", "sftjob-system", "sftjob-operator") for verb in ("get", "update")
}
ALWAYS = {REVIEW, *LEASES}
CERTIFICATE = {Grant(verb, "", "secrets", "sftjob-system", SECRET) for verb in ("get", "update")}


def in_namespaces(*namespaces: str) -> set[Grant]:
    return {
        Grant(verb, group, resource, namespace)
        for (group, resource), verbs in JOB_REQUESTS.items()
        for verb in verbs
        for namespace in namespaces
    }


OTHER_CERTIFICATE = {"progress": {"tls": {"existingSecret": "company-tls"}}}


@pytest.mark.parametrize(
    ("values", "wanted"),
    [
        ({}, in_namespaces(EVERYWHERE) | CERTIFICATE | ALWAYS),
        ({"namespaces": ["team-a", "team-b"]}, in_namespaces("team-a", "team-b") | CERTIFICATE | ALWAYS),
        (OTHER_CERTIFICATE, in_namespaces(EVERYWHERE) | ALWAYS),
        ({"namespaces": ["team-a"], **OTHER_CERTIFICATE}, in_namespaces("team-a") | ALWAYS),
    ],
    ids=["cluster", "namespaces", "cluster, given certificate", "namespace, given certificate"],
)
def test_the_role_grants_what_the_operator_asks_for(helm: Helm, values: dict[str, Any], wanted: set[Grant]) -> None:
    assert grants(helm.objects(values, **RELEASE), "sftjob-operator", "sftjob-system") == wanted


def test_every_kind_that_the_operator_can_name_is_in_the_table() -> None:
    named = {resource for _, resource in kube._PATHS.values()}
    assert named == {resource.partition("/")[0] for _, resource in JOB_REQUESTS} | {"secrets", "leases"}
    assert kube._PATHS[KIND][1] == PLURAL


def test_the_account_of_somebody_else_gets_the_same_rights(helm: Helm) -> None:
    values = {"serviceAccount": {"create": False, "name": "existing"}}
    objects = helm.objects(values, **RELEASE)
    assert grants(objects, "existing", "sftjob-system") == in_namespaces(EVERYWHERE) | CERTIFICATE | ALWAYS
    assert not grants(objects, "sftjob-operator", "sftjob-system")


def test_no_rule_has_a_wildcard(helm: Helm) -> None:
    for role in helm.objects({"namespaces": ["team-a"]}, **RELEASE):
        for rule in role.get("rules") or ():
            assert "*" not in [*rule["verbs"], *rule["resources"], *rule["apiGroups"]]
