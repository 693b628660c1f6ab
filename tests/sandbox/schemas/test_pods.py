"""What is said about bad Pods. Each row: a merge patch of a good Pod, and the causes."""

from typing import Any

import pytest

from support.checks.kube_schemas import POD, Object, changed, create_refusals, update_refusals

NAME = "FieldValueInvalid spec.containers[0].name: Invalid value"
LABEL = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with"
    " an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is"
    " '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)


def main(**changes: Any) -> Object:
    """A change of the Pod's only container."""
    return {"spec": {"containers": [changed(POD["spec"]["containers"][0], changes)]}}


def resources(**resources: Object) -> Object:
    return main(resources=resources)


def volumes(*volumes: Object, mounts: list[Object] | None = None) -> Object:
    return changed(main(volumeMounts=mounts or []), {"spec": {"volumes": list(volumes)}})


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"spec": {"containers": []}}, ["FieldValueRequired spec.containers: Required value"]),
        (main(name=None), ["FieldValueRequired spec.containers[0].name: Required value"]),
        (main(name="Main"), [f'{NAME}: "Main": {LABEL}']),
        (main(image=None), ["FieldValueRequired spec.containers[0].image: Required value"]),
        (
            main(image=" trainer:1"),
            [
                (
                    'FieldValueInvalid spec.containers[0].image: Invalid value: " trainer:1":'
                    " must not have leading or trailing whitespace"
                )
            ],
        ),
        (
            main(imagePullPolicy="Sometimes"),
            [
                (
                    'FieldValueNotSupported spec.containers[0].imagePullPolicy: Unsupported value: "Sometimes":'
                    ' supported values: "Always", "IfNotPresent", "Never"'
                )
            ],
        ),
        (
            main(terminationMessagePolicy="Log"),
            [
                (
                    'FieldValueNotSupported spec.containers[0].terminationMessagePolicy: Unsupported value: "Log":'
                    ' supported values: "File", "FallbackToLogsOnError"'
                )
            ],
        ),
        (
            {"spec": {"containers": [{"name": "a", "image": "x:1"}, {"name": "a", "image": "x:1"}]}},
            ['FieldValueDuplicate spec.containers[1].name: Duplicate value: "a"'],
        ),
        (
            {"spec": {"nodeSelector": {"a b": "c"}}},
            [
                (
                    'FieldValueInvalid spec.nodeSelector: Invalid value: "a b": name part must consist of alphanumeric'
                    " characters, '-', '_' or '.', and must start and end with an"
                    " alphanumeric character (e.g. 'MyName', "
                    " or 'my.name',  or '123-abc', regex used for validation is"
                    " '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
                )
            ],
        ),
        (
            {"spec": {"tolerations": [{"key": "gpu", "operator": "Is"}]}},
            [
                (
                    'FieldValueNotSupported spec.tolerations[0].operator: Unsupported value: "Is":'
                    ' supported values: "Equal", "Exists"'
                )
            ],
        ),
        (
            {"spec": {"tolerations": [{"value": "x", "effect": "Never"}]}},
            [
                (
                    'FieldValueInvalid spec.tolerations[0].operator: Invalid value: "": operator must be'
                    " Exists when `key`"
                    ' is empty, which means "match all values and all keys"'
                ),
                (
                    'FieldValueNotSupported spec.tolerations[0].effect: Unsupported value: "Never":'
                    ' supported values: "NoSchedule", "PreferNoSchedule", "NoExecute"'
                ),
            ],
        ),
        (
            {"spec": {"restartPolicy": "Always"}},
            ['FieldValueNotSupported spec.restartPolicy: Unsupported value: "Always": supported values: "Never"'],
        ),
        (
            {"spec": {"dnsPolicy": "Default"}},
            ['FieldValueNotSupported spec.dnsPolicy: Unsupported value: "Default": supported values: "ClusterFirst"'],
        ),
        (
            {"spec": {"automountServiceAccountToken": None}},
            [
                (
                    "FieldValueNotSupported spec.automountServiceAccountToken: Unsupported value: true:"
                    ' supported values: "false"'
                )
            ],
        ),
    ],
)
def test_pods(change: Object, said: list[str]) -> None:
    assert create_refusals(changed(POD, change)) == said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (resources(requests={"cpu": "1", "memory": "1Gi"}, limits={"cpu": "1", "memory": "2Gi"}), []),
        (resources(limits={"nvidia.com/gpu": 1}), []),
        (
            resources(requests={"cpu": "2"}, limits={"cpu": "1500m"}),
            [
                (
                    'FieldValueInvalid spec.containers[0].resources.requests: Invalid value: "2":'
                    " must be less than or equal to cpu limit of 1500m"
                )
            ],
        ),
        (
            resources(requests={"nvidia.com/gpu": 1}, limits={"nvidia.com/gpu": 2}),
            [
                (
                    'FieldValueInvalid spec.containers[0].resources.requests: Invalid value: "1":'
                    " must be equal to nvidia.com/gpu limit of 2"
                )
            ],
        ),
        (
            resources(requests={"nvidia.com/gpu": 1}),
            [
                (
                    "FieldValueRequired spec.containers[0].resources.limits: Required value: Limit must be set for non"
                    " overcommitable resources"
                )
            ],
        ),
        (
            resources(limits={"nvidia.com/gpu": "1500m"}),
            [
                (
                    'FieldValueInvalid spec.containers[0].resources.limits[nvidia.com/gpu]: Invalid value: "1500m":'
                    " must be an integer"
                ),
                (
                    'FieldValueInvalid spec.containers[0].resources.requests[nvidia.com/gpu]: Invalid value: "1500m":'
                    " must be an integer"
                ),
            ],
        ),
        (
            resources(limits={"memory": "-1Gi"}, requests={"memory": "-1Gi"}),
            [
                (
                    'FieldValueInvalid spec.containers[0].resources.limits[memory]: Invalid value: "-1Gi":'
                    " must be greater than or equal to 0"
                ),
                (
                    'FieldValueInvalid spec.containers[0].resources.requests[memory]: Invalid value: "-1Gi":'
                    " must be greater than or equal to 0"
                ),
            ],
        ),
    ],
)
def test_resources(change: Object, said: list[str]) -> None:
    assert create_refusals(changed(POD, change)) == said


@pytest.mark.parametrize(
    ("variable", "said"),
    [
        ({"name": "A", "value": "1"}, []),
        ({"name": "a.b-c"}, []),
        ({"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}, []),
        ({"value": "1"}, ["FieldValueRequired .name: Required value"]),
        (
            {"name": "A=B", "value": "1"},
            [
                (
                    'FieldValueInvalid .name: Invalid value: "A=B": a valid environment'
                    " variable name must consist only of"
                    " printable ASCII characters other than '='"
                )
            ],
        ),
        (
            {"name": "A", "value": "1", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}},
            ['FieldValueInvalid .valueFrom: Invalid value: "": may not be specified when `value` is not empty'],
        ),
        (
            {"name": "A", "valueFrom": {}},
            [
                (
                    'FieldValueInvalid .valueFrom: Invalid value: "": must specify one of:'
                    " `fieldRef`, `resourceFieldRef`,"
                    " `configMapKeyRef` or `secretKeyRef`"
                )
            ],
        ),
        (
            {
                "name": "A",
                "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}, "resourceFieldRef": {"resource": "c"}},
            },
            ['FieldValueInvalid .valueFrom: Invalid value: "": may not have more than one field specified at a time'],
        ),
        (
            {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": ""}}},
            ["FieldValueRequired .valueFrom.secretKeyRef.key: Required value"],
        ),
    ],
)
def test_environment(variable: Object, said: list[str]) -> None:
    refusals = create_refusals(changed(POD, main(env=[variable])))
    assert refusals == [line.replace(" .", " spec.containers[0].env[0].", 1) for line in said]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (volumes({"name": "w", "emptyDir": {}}, mounts=[{"name": "w", "mountPath": "/work"}]), []),
        (
            volumes(mounts=[{"name": "w", "mountPath": "/work"}]),
            ['FieldValueNotFound spec.containers[0].volumeMounts[0].name: Not found: "w"'],
        ),
        (
            volumes({"name": "w", "emptyDir": {}}, mounts=[{"name": "w", "mountPath": "/a"}] * 2),
            ['FieldValueInvalid spec.containers[0].volumeMounts[1].mountPath: Invalid value: "/a": must be unique'],
        ),
        (
            volumes({"name": "w", "emptyDir": {}}, mounts=[{"name": "w", "mountPath": ""}]),
            ["FieldValueRequired spec.containers[0].volumeMounts[0].mountPath: Required value"],
        ),
        (
            volumes({"name": "w", "emptyDir": {}}, mounts=[{"name": "w", "mountPath": "/a", "subPath": "/b"}]),
            [
                ('FieldValueInvalid spec.containers[0].volumeMounts.subPath: Invalid value: "/b":'
                " must be a relative path")
            ],
        ),
        (
            volumes({"name": "w", "emptyDir": {}}, mounts=[{"name": "w", "mountPath": "/a", "subPath": "b/../.."}]),
            [
                ('FieldValueInvalid spec.containers[0].volumeMounts.subPath: Invalid value: "b/../..":'
                " must not contain '..'")
            ],
        ),
        (
            volumes({"name": "w", "emptyDir": {}}, {"name": "w", "emptyDir": {}}),
            ['FieldValueDuplicate spec.volumes[1].name: Duplicate value: "w"'],
        ),
        (
            volumes({"name": "W", "emptyDir": {}}),
            [f'FieldValueInvalid spec.volumes[0].name: Invalid value: "W": {LABEL}'],
        ),
        (
            volumes({"name": "w", "emptyDir": {}, "configMap": {"name": "s"}}),
            ["FieldValueForbidden spec.volumes[0].configMap: Forbidden: may not specify more than 1 volume type"],
        ),
        (
            volumes({"name": "w", "configMap": {}}),
            ["FieldValueRequired spec.volumes[0].configMap.name: Required value"],
        ),
        (
            volumes({"name": "w", "persistentVolumeClaim": {"claimName": ""}}),
            ["FieldValueRequired spec.volumes[0].persistentVolumeClaim.claimName: Required value"],
        ),
        (
            volumes({"name": "w", "configMap": {"name": "c", "items": [{"key": "k", "path": "/etc"}]}}),
            [
                ('FieldValueInvalid spec.volumes[0].configMap.items[0].path: Invalid value: "/etc":'
                " must be a relative path")
            ],
        ),
        (
            volumes({"name": "w", "configMap": {"name": "c", "defaultMode": 4096}}),
            [
                ("FieldValueInvalid spec.volumes[0].configMap.defaultMode: Invalid value: 4096: must be a number"
                 " between"
                " 0 and 0777 (octal), both inclusive")
            ],
        ),
        (
            volumes({"name": "w", "projected": {"sources": [
                {"configMap": {"name": "c", "items": [{"key": "k", "path": "p"}, {"key": "l", "path": "p"}]}}]}}),
            ['FieldValueInvalid spec.volumes[0].projected: Invalid value: "c": conflicting duplicate paths'],
        ),
        (
            volumes({"name": "w", "projected": {"sources": [
                {"serviceAccountToken": {"path": "t", "expirationSeconds": 60}}]}}),
            [
                ("FieldValueInvalid spec.volumes[0].projected.sources[0].serviceAccountToken.expirationSeconds:"
                " Invalid value: 60: may not specify a duration less than 10 minutes")
            ],
        ),
    ],
)  # fmt: skip
def test_volumes(change: Object, said: list[str]) -> None:
    assert create_refusals(changed(POD, change)) == said


@pytest.mark.parametrize(
    ("change", "fields"),
    [
        ({"spec": {"initContainers": [{"name": "a", "image": "x:1"}]}}, ["spec.initContainers"]),
        ({"spec": {"activeDeadlineSeconds": 60, "dnsConfig": {}}}, ["spec.activeDeadlineSeconds", "spec.dnsConfig"]),
        ({"spec": {"hostAliases": [{"ip": "10.0.0.1"}]}}, ["spec.hostAliases"]),
        (
            main(livenessProbe={"exec": {"command": ["x"]}}, lifecycle={}, ports=[{"containerPort": 80}]),
            ["spec.containers[0].lifecycle", "spec.containers[0].livenessProbe", "spec.containers[0].ports"],
        ),
        (volumes({"name": "w", "hostPath": {"path": "/"}}), ["spec.volumes[0].hostPath"]),
        (
            volumes({"name": "w", "projected": {"sources": [{"secret": {"name": "s"}}]}}),
            ["spec.volumes[0].projected.sources[0].secret"],
        ),
        (
            main(env=[{"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}}]),
            ["spec.containers[0].env[0].valueFrom.fieldRef"],
        ),
        (main(envFrom=[{"configMapRef": {"name": "c"}}]), ["spec.containers[0].envFrom[0].configMapRef"]),
    ],
)
def test_fields_that_the_sandbox_does_not_support_are_refused_by_name(change: Object, fields: list[str]) -> None:
    text = "Forbidden: this local server does not support the field: remove it"
    assert sorted(create_refusals(changed(POD, change))) == [f"FieldValueForbidden {field}: {text}" for field in fields]


UPDATABLE = (
    "FieldValueForbidden spec: Forbidden: pod updates may not change fields other than"
    " `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only"
    " additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was"
    " previously negative)\n"
)


@pytest.mark.parametrize(
    ("before", "change", "said"),
    [
        ({}, main(image="registry.example/trainer:2"), []),
        ({}, {"spec": {"tolerations": [{"key": "gpu", "operator": "Exists"}]}}, []),
        ({}, {"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}}, []),
        ({}, main(command=["other"]), [UPDATABLE + "- spec.containers[0].command[0]: 'train'\n"
                                       "+ spec.containers[0].command[0]: 'other'\n"]),
        (
            {"spec": {"tolerations": [{"key": "gpu", "operator": "Exists"}]}},
            {"spec": {"tolerations": None}},
            [
                ("FieldValueForbidden spec.tolerations: Forbidden:"
                " existing toleration cannot be modified except its tolerationSeconds")
            ],
        ),
        (
            {},
            {"spec": {"containers": [*POD["spec"]["containers"], {"name": "b", "image": "x:1"}]}},
            ["FieldValueForbidden spec.containers: Forbidden: pod updates may not add or remove containers"],
        ),
    ],
)  # fmt: skip
def test_updates_of_pods(before: Object, change: Object, said: list[str]) -> None:
    old = changed(POD, before)
    assert update_refusals(old, changed(old, change)) == said
