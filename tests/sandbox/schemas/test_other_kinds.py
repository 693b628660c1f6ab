"""Namespaces, Events, Leases, Services and Deployments."""

import pytest

from sftjob_sandbox.schemas import builtin_schema
from support.kube_schemas import Object, changed, create_refusals, schema_of, stored, told, update_refusals

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
        (
            LEASE,
            {"spec": {"leaseDurationSeconds": 0, "leaseTransitions": -1}},
            [
                "FieldValueInvalid spec.leaseDurationSeconds: Invalid value: 0: must be greater than 0",
                "FieldValueInvalid spec.leaseTransitions: Invalid value: -1: must be greater than or equal to 0",
            ],
        ),
        (SERVICE, {}, []),
        (
            SERVICE,
            {"spec": {"type": "Portal"}},
            [
                (
                    'FieldValueNotSupported spec.type: Unsupported value: "Portal": supported values:'
                    ' "ClusterIP", "ExternalName", "LoadBalancer", "NodePort"'
                ),
            ],
        ),
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
        (
            DEPLOYMENT,
            {"spec": {"replicas": -1}},
            ["FieldValueInvalid spec.replicas: Invalid value: -1: must be greater than or equal to 0"],
        ),
        (DEPLOYMENT, {"spec": {"selector": None}}, ["FieldValueRequired spec.selector: Required value"]),
        (
            DEPLOYMENT,
            {"spec": {"template": {"spec": {"restartPolicy": "Never"}}}},
            [
                (
                    'FieldValueNotSupported spec.template.spec.restartPolicy: Unsupported value: "Never":'
                    ' supported values: "Always"'
                ),
            ],
        ),
        (
            DEPLOYMENT,
            {"spec": {"template": {"spec": {"containers": None}}}},
            ["FieldValueRequired spec.template.spec.containers: Required value"],
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


def test_the_phase_of_a_namespace_follows_its_deletion() -> None:
    schema = builtin_schema("", "v1", "Namespace")
    live = stored({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "a", "resourceVersion": "7"}})
    ending = changed(live, {"status": {"phase": "Terminating"}})
    assert told(schema.validate_status(live, live)) == []
    assert told(schema.validate_status(ending, live)) == [
        (
            'FieldValueInvalid status.Phase: Invalid value: "Terminating":'
            " may only be 'Active' if `deletionTimestamp` is empty"
        )
    ]
    deleted = changed(live, {"metadata": {"deletionTimestamp": "2026-01-02T03:04:05Z"}})
    assert told(schema.validate_status(changed(deleted, {"status": {"phase": "Active"}}), deleted)) == [
        (
            'FieldValueInvalid status.Phase: Invalid value: "Active":'
            " may only be 'Terminating' if `deletionTimestamp` is not empty"
        )
    ]


def test_kinds_that_are_not_served_have_no_schema() -> None:
    with pytest.raises(KeyError):
        builtin_schema("batch", "v1", "Job")


@pytest.mark.parametrize("obj", [EVENT, LEASE, SERVICE, DEPLOYMENT])
def test_every_kind_publishes_its_own_schema(obj: Object) -> None:
    schema = schema_of(obj)
    published = schema.openapi()[schema.component]
    group, _, version = obj["apiVersion"].rpartition("/")
    wanted = {"group": group, "version": version, "kind": obj["kind"]}
    assert wanted in published["x-kubernetes-group-version-kind"]
    assert "metadata" in published["properties"]
