"""Kinds that are checked and kept, and that nothing here acts on: every answer to a write says so."""

import pytest

from support.clients.http_api import HttpApi, Object

DEPLOYMENT: Object = {
    "metadata": {"name": "a"},
    "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {"metadata": {"labels": {"a": "b"}}, "spec": {"containers": [{"name": "main", "image": "x:1"}]}},
    },
}
POLICY: Object = {"metadata": {"name": "a"}, "spec": {"podSelector": {}}}
ROLE: Object = {"metadata": {"name": "a"}, "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}]}
RBAC = "/apis/rbac.authorization.k8s.io/v1"


def bound_to(kind: str) -> Object:
    return {"metadata": {"name": "a"}, "roleRef": {"kind": kind, "name": "a"}}


@pytest.mark.parametrize(
    ("path", "body", "notice"),
    [
        ("/apis/apps/v1/namespaces/default/deployments", DEPLOYMENT, "makes no Pods of them"),
        ("/apis/networking.k8s.io/v1/namespaces/default/networkpolicies", POLICY, "does not isolate Pods"),
        (f"{RBAC}/namespaces/default/roles", ROLE, "authorizes nothing by them"),
        (f"{RBAC}/namespaces/default/rolebindings", bound_to("Role"), "authorizes nothing by them"),
        (f"{RBAC}/clusterroles", ROLE, "authorizes nothing by them"),
        (f"{RBAC}/clusterrolebindings", bound_to("ClusterRole"), "authorizes nothing by them"),
    ],
)
async def test_an_object_is_kept_with_a_warning(api: HttpApi, path: str, body: Object, notice: str) -> None:
    created = await api("POST", path, body)
    assert created.status == 201
    (warning,) = created.warnings
    assert notice in warning
    read = await api("GET", f"{path}/a")
    assert (read.body, read.warnings) == (created.body, [])
    assert (await api("DELETE", f"{path}/a")).status == 200
