"""Roles, their bindings and NetworkPolicies."""

import pytest

from support.kube_schemas import Object, changed, create_refusals, schema_of, stored, update_refusals

META = {"name": "a:b", "namespace": "team-a"}
RBAC = "rbac.authorization.k8s.io"
ROLE: Object = {
    "apiVersion": f"{RBAC}/v1",
    "kind": "Role",
    "metadata": META,
    "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["get"]}],
}
CLUSTER_ROLE: Object = {
    "apiVersion": f"{RBAC}/v1",
    "kind": "ClusterRole",
    "metadata": {"name": "a:b"},
    "rules": [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}],
}
BINDING: Object = {
    "apiVersion": f"{RBAC}/v1",
    "kind": "RoleBinding",
    "metadata": META,
    "roleRef": {"apiGroup": RBAC, "kind": "Role", "name": "a:b"},
    "subjects": [{"kind": "ServiceAccount", "name": "operator", "namespace": "system"}],
}
CLUSTER_BINDING: Object = {
    "apiVersion": f"{RBAC}/v1",
    "kind": "ClusterRoleBinding",
    "metadata": {"name": "a:b"},
    "roleRef": {"apiGroup": RBAC, "kind": "ClusterRole", "name": "a:b"},
    "subjects": [{"kind": "User", "name": "ann"}],
}
POLICY: Object = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "a", "namespace": "team-a"},
    "spec": {"podSelector": {}, "ingress": [{"from": [{"podSelector": {}}], "ports": [{"port": "progress"}]}]},
}


@pytest.mark.parametrize(
    ("obj", "change", "said"),
    [
        (ROLE, {}, []),
        (
            ROLE,
            {"rules": [{"apiGroups": [""], "resources": ["pods"]}, {"verbs": ["get"]}]},
            [
                "FieldValueRequired rules[0].verbs: Required value: verbs must contain at least one value",
                (
                    "FieldValueRequired rules[1].apiGroups: Required value: resource rules must supply at "
                    "least one api group"
                ),
                (
                    "FieldValueRequired rules[1].resources: Required value: resource rules must supply at "
                    "least one resource"
                ),
            ],
        ),
        (
            ROLE,
            {"rules": [{"nonResourceURLs": ["/metrics"], "verbs": ["get"]}]},
            [
                (
                    'FieldValueInvalid rules[0].nonResourceURLs: Invalid value: []string{"/metrics"}: '
                    "namespaced rules cannot apply to non-resource URLs"
                )
            ],
        ),
        (CLUSTER_ROLE, {}, []),
        (
            CLUSTER_ROLE,
            {"rules": [{"nonResourceURLs": ["/metrics"], "resources": ["pods"], "verbs": ["get"]}]},
            [
                (
                    'FieldValueInvalid rules[0].nonResourceURLs: Invalid value: []string{"/metrics"}: rules '
                    "cannot apply to both regular resources and non-resource URLs"
                )
            ],
        ),
        (BINDING, {}, []),
        (
            BINDING,
            {"roleRef": {"apiGroup": "apps", "kind": "Group", "name": ""}},
            [
                (
                    'FieldValueNotSupported roleRef.apiGroup: Unsupported value: "apps": supported values: '
                    '"rbac.authorization.k8s.io"'
                ),
                (
                    'FieldValueNotSupported roleRef.kind: Unsupported value: "Group": supported values: '
                    '"Role", "ClusterRole"'
                ),
                "FieldValueRequired roleRef.name: Required value",
            ],
        ),
        (
            BINDING,
            {"subjects": [{"kind": "ServiceAccount", "name": "", "apiGroup": "x"}, {"kind": "Robot", "name": "r"}]},
            [
                "FieldValueRequired subjects[0].name: Required value",
                ('FieldValueNotSupported subjects[0].apiGroup: Unsupported value: "x": supported values: ""'),
                (
                    'FieldValueNotSupported subjects[1].kind: Unsupported value: "Robot": supported values: '
                    '"ServiceAccount", "User", "Group"'
                ),
            ],
        ),
        (CLUSTER_BINDING, {}, []),
        (
            CLUSTER_BINDING,
            {"roleRef": {"kind": "Role"}, "subjects": [{"kind": "ServiceAccount", "name": "operator"}]},
            [
                ('FieldValueNotSupported roleRef.kind: Unsupported value: "Role": supported values: "ClusterRole"'),
                "FieldValueRequired subjects[0].namespace: Required value",
            ],
        ),
        (POLICY, {}, []),
        (
            POLICY,
            {"spec": {"ingress": [{"from": [{}], "ports": [{"port": 0}, {"protocol": "ICMP"}]}]}},
            [
                (
                    "FieldValueInvalid spec.ingress[0].ports[0].port: Invalid value: 0: must be between 1 "
                    "and 65535, inclusive"
                ),
                (
                    'FieldValueNotSupported spec.ingress[0].ports[1].protocol: Unsupported value: "ICMP": '
                    'supported values: "SCTP", "TCP", "UDP"'
                ),
                "FieldValueRequired spec.ingress[0].from[0]: Required value: must specify a peer",
            ],
        ),
        (
            POLICY,
            {"spec": {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}, "podSelector": {}}]}]}},
            [("FieldValueForbidden spec.egress[0].to[0]: Forbidden: may not specify both ipBlock and another peer")],
        ),
        (
            POLICY,
            {"spec": {"egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.1"}}]}]}},
            [
                (
                    'FieldValueInvalid spec.egress[0].to[0].ipBlock.cidr: Invalid value: "10.0.0.1": must be '
                    "a valid CIDR value, (e.g. 10.9.8.0/24 or 2001:db8::/64)"
                )
            ],
        ),
        (
            POLICY,
            {
                "spec": {
                    "egress": [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["11.0.0.0/8", "10.1.0.0/16"]}}]}]
                }
            },
            [
                (
                    'FieldValueInvalid spec.egress[0].to[0].ipBlock.except[0]: Invalid value: "11.0.0.0/8": '
                    "must be a strict subset of `cidr` 10.0.0.0/8"
                )
            ],
        ),
        (
            POLICY,
            {"spec": {"ingress": [{"ports": [{"port": "web", "endPort": 90}, {"port": 80, "endPort": 70}]}]}},
            [
                (
                    "FieldValueInvalid spec.ingress[0].ports[0].endPort: Invalid value: 90: may not be "
                    "specified when `port` is non-numeric"
                ),
                (
                    "FieldValueInvalid spec.ingress[0].ports[1].endPort: Invalid value: 70: must be greater "
                    "than or equal to `port`"
                ),
            ],
        ),
        (
            POLICY,
            {"spec": {"policyTypes": ["Sideways"]}},
            [
                (
                    'FieldValueNotSupported spec.policyTypes[0]: Unsupported value: "Sideways": supported '
                    'values: "Egress", "Ingress"'
                )
            ],
        ),
    ],
)
def test_new_objects(obj: Object, change: Object, said: list[str]) -> None:
    assert create_refusals(changed(obj, change)) == said


def test_the_role_of_a_binding_stays() -> None:
    (line,) = update_refusals(BINDING, changed(BINDING, {"roleRef": {"name": "c"}}))
    assert line.startswith("FieldValueInvalid roleRef: Invalid value: ")
    assert line.endswith(": cannot change roleRef")


def test_what_is_left_out_gets_its_default() -> None:
    assert stored(CLUSTER_BINDING)["subjects"] == [{"kind": "User", "name": "ann", "apiGroup": RBAC}]
    spec = stored(changed(POLICY, {"spec": {"egress": [{"ports": [{"port": 443}]}]}}))["spec"]
    assert spec["policyTypes"] == ["Ingress", "Egress"]
    assert spec["egress"] == [{"ports": [{"port": 443, "protocol": "TCP"}]}]
    assert stored(POLICY)["spec"]["policyTypes"] == ["Ingress"]


@pytest.mark.parametrize("name", ["a/b", "a%b", ".."])
def test_a_name_fits_into_a_path(name: str) -> None:
    (line,) = create_refusals(changed(ROLE, {"metadata": {"name": name}}))
    assert line.startswith(f'FieldValueInvalid metadata.name: Invalid value: "{name}": may not ')


@pytest.mark.parametrize("obj", [ROLE, CLUSTER_ROLE, BINDING, CLUSTER_BINDING, POLICY], ids=lambda obj: obj["kind"])
def test_every_kind_publishes_its_own_schema(obj: Object) -> None:
    schema = schema_of(obj)
    assert "metadata" in schema.openapi()[schema.component]["properties"]
