"""Kinds that are only stored: what they lack is refused, and what may not change."""

import pytest

from sftjob_sandbox.kinds.builtin import builtin_schema
from support.checks.kube_schemas import Object, changed, create_refusals, schema_of, update_refusals

META = {"name": "a", "namespace": "team-a"}
EVENT: Object = {
    "apiVersion": "v1",
    "kind": "Event",
    "metadata": META,
    "involvedObject": {"kind": "Pod", "namespace": "team-a", "name": "p", "apiVersion": "v1"},
    "reason": "Started",
    "type": "Normal",
}
LEASE: Object = {
    "apiVersion": "coordination.k8s.io/v1",
    "kind": "Lease",
    "metadata": META,
    "spec": {"holderIdentity": "me", "leaseDurationSeconds": 15},
}
SERVICE: Object = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": META,
    "spec": {"ports": [{"port": 80}], "selector": {"a": "b"}},
}
DEPLOYMENT: Object = {
    "apiVersion": "apps/v1",
    "kind": "Deployment",
    "metadata": META,
    "spec": {
        "selector": {"matchLabels": {"a": "b"}},
        "template": {
            "metadata": {"labels": {"a": "b"}},
            "spec": {"containers": [{"name": "main", "image": "x:1"}]},
        },
    },
}


RBAC = "rbac.authorization.k8s.io"
ROLE: Object = {
    "apiVersion": f"{RBAC}/v1",
    "kind": "Role",
    "metadata": {**META, "name": "a:b"},
    "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}],
}
BINDING: Object = {
    "apiVersion": f"{RBAC}/v1",
    "kind": "RoleBinding",
    "metadata": META,
    "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": "a:b"},
    "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": "system"}],
}
POLICY: Object = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": META,
    "spec": {"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": "progress"}]}]},
}


@pytest.mark.parametrize(
    ("obj", "change", "said"),
    [
        (EVENT, {}, []),
        (
            EVENT,
            {"involvedObject": {"namespace": "other"}},
            [
                'FieldValueInvalid involvedObject.namespace: Invalid value: "other": does not match event.namespace',
            ],
        ),
        (EVENT, {"involvedObject": {"kind": "Node", "namespace": None}, "metadata": {"namespace": "default"}}, []),
        (LEASE, {}, []),
        (SERVICE, {}, []),
        (SERVICE, {"spec": {"ports": None}}, ["FieldValueRequired spec.ports: Required value"]),
        (
            SERVICE,
            {"spec": {"ports": [{"port": 80}, {"port": 0, "name": "x"}]}},
            [
                "FieldValueRequired spec.ports[0].name: Required value",
                "FieldValueInvalid spec.ports[1].port: Invalid value: 0: must be between 1 and 65535, inclusive",
            ],
        ),
        (DEPLOYMENT, {}, []),
        (DEPLOYMENT, {"spec": {"selector": None}}, ["FieldValueRequired spec.selector: Required value"]),
        (
            DEPLOYMENT,
            {"spec": {"template": {"spec": {"containers": None}}}},
            ["FieldValueRequired spec.template.spec.containers: Required value"],
        ),
        (ROLE, {}, []),
        (ROLE, {"rules": [{"apiGroups": [""]}]}, ["FieldValueRequired rules[0].verbs: Required value"]),
        (BINDING, {}, []),
        (
            BINDING,
            {"roleRef": {"name": ""}, "subjects": [{"name": "a"}]},
            [
                "FieldValueRequired roleRef.name: Required value",
                "FieldValueRequired subjects[0].kind: Required value",
            ],
        ),
        (POLICY, {}, []),
        (
            POLICY,
            {"spec": {"egress": [{"to": [{"ipBlock": {}}]}]}},
            ["FieldValueRequired spec.egress[0].to[0].ipBlock.cidr: Required value"],
        ),
    ],
)
def test_new_objects(obj: Object, change: Object, said: list[str]) -> None:
    assert create_refusals(changed(obj, change)) == said


def test_a_selector_matches_its_own_template() -> None:
    (line,) = create_refusals(changed(DEPLOYMENT, {"spec": {"template": {"metadata": {"labels": {"a": "c"}}}}}))
    assert line.startswith("FieldValueInvalid spec.template.metadata.labels: Invalid value: ")
    assert line.endswith(": `selector` does not match template `labels`")


def test_a_selector_and_a_cluster_address_stay() -> None:
    (line,) = update_refusals(DEPLOYMENT, changed(DEPLOYMENT, {
        "spec": {"selector": {"matchLabels": {"a": "c"}}, "template": {"metadata": {"labels": {"a": "c"}}}},
    }))  # fmt: skip
    assert line.startswith("FieldValueInvalid spec.selector: Invalid value: ")
    assert line.endswith(": field is immutable")
    service = changed(SERVICE, {"spec": {"clusterIP": "10.0.0.1"}})
    assert update_refusals(service, changed(service, {"spec": {"clusterIP": "10.0.0.2"}})) == [
        'FieldValueInvalid spec.clusterIP: Invalid value: "10.0.0.2": field is immutable'
    ]


def test_the_role_of_a_binding_stays() -> None:
    (line,) = update_refusals(BINDING, changed(BINDING, {"roleRef": {"name": "c"}}))
    assert line.startswith("FieldValueInvalid roleRef: Invalid value: ")
    assert line.endswith(": cannot change roleRef")


@pytest.mark.parametrize("name", ["a/b", "a%b", ".."])
def test_the_name_of_a_role_fits_into_a_path(name: str) -> None:
    (line,) = create_refusals(changed(ROLE, {"metadata": {"name": name}}))
    assert line.startswith(f'FieldValueInvalid metadata.name: Invalid value: "{name}": may not ')


def test_kinds_that_are_not_served_have_no_schema() -> None:
    with pytest.raises(KeyError):
        builtin_schema("batch", "v1", "Job")


@pytest.mark.parametrize("obj", [EVENT, LEASE, SERVICE, DEPLOYMENT, ROLE, BINDING, POLICY])
def test_every_kind_publishes_its_own_schema(obj: Object) -> None:
    schema = schema_of(obj)
    published = schema.openapi()[schema.component]
    group, _, version = obj["apiVersion"].rpartition("/")
    wanted = {"group": group, "version": version, "kind": obj["kind"]}
    assert wanted in published["x-kubernetes-group-version-kind"]
    assert "metadata" in published["properties"]
