"""What is said about bad Pods. Each row: a merge patch of a good Pod, and the causes."""

from typing import Any

import pytest

from sftjob_sandbox.builtin.pods import validate_pod_status
from support.kube_schemas import POD, Object, changed, create_refusals, stored, told, update_refusals

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
            {"spec": {"restartPolicy": "Sometimes"}},
            [
                (
                    'FieldValueNotSupported spec.restartPolicy: Unsupported value: "Sometimes":'
                    ' supported values: "Always", "OnFailure", "Never"'
                )
            ],
        ),
        (
            {"spec": {"dnsPolicy": "Mine"}},
            [
                (
                    'FieldValueNotSupported spec.dnsPolicy: Unsupported value: "Mine": supported values:'
                    ' "ClusterFirstWithHostNet", "ClusterFirst", "Default", "None"'
                )
            ],
        ),
        (
            {"spec": {"activeDeadlineSeconds": 0}},
            [
                (
                    "FieldValueInvalid spec.activeDeadlineSeconds: Invalid value: 0:"
                    " must be between 1 and 2147483647, inclusive"
                )
            ],
        ),
        (
            {"spec": {"containers": [{"name": "a", "image": "x:1"}, {"name": "a", "image": "x:1"}]}},
            ['FieldValueDuplicate spec.containers[1].name: Duplicate value: "a"'],
        ),
        (
            {"spec": {"initContainers": [{"name": "main", "image": "x:1"}]}},
            ['FieldValueDuplicate spec.initContainers[0].name: Duplicate value: "main"'],
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
            {"spec": {"ephemeralContainers": [{"name": "debug", "image": "x:1"}]}},
            ["FieldValueForbidden spec.ephemeralContainers: Forbidden: cannot be set on create"],
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
        (
            resources(limits={"gpu": 1}),
            [
                (
                    'FieldValueInvalid spec.containers[0].resources.limits[gpu]: Invalid value: "gpu":'
                    " must be a standard resource type or fully qualified"
                ),
                (
                    'FieldValueInvalid spec.containers[0].resources.limits[gpu]: Invalid value: "gpu":'
                    " must be a standard resource for containers"
                ),
                (
                    'FieldValueInvalid spec.containers[0].resources.requests[gpu]: Invalid value: "gpu":'
                    " must be a standard resource type or fully qualified"
                ),
                (
                    'FieldValueInvalid spec.containers[0].resources.requests[gpu]: Invalid value: "gpu":'
                    " must be a standard resource for containers"
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
                "valueFrom": {
                    "secretKeyRef": {"name": "s", "key": "k"},
                    "configMapKeyRef": {"name": "s", "key": "k"},
                },
            },
            ['FieldValueInvalid .valueFrom: Invalid value: "": may not have more than one field specified at a time'],
        ),
        (
            {"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": ""}}},
            ["FieldValueRequired .valueFrom.secretKeyRef.key: Required value"],
        ),
        (
            {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "spec.image"}}},
            [
                (
                    'FieldValueInvalid .valueFrom.fieldRef.fieldPath: Invalid value: "spec.image":'
                    " error converting fieldPath: field label not supported: spec.image"
                )
            ],
        ),
        (
            {"name": "A", "valueFrom": {"fieldRef": {"fieldPath": "status.phase"}}},
            [
                (
                    'FieldValueNotSupported .valueFrom.fieldRef.fieldPath: Unsupported value: "status.phase":'
                    ' supported values: "metadata.name", "metadata.namespace", "metadata.uid", "spec.nodeName",'
                    ' "spec.serviceAccountName", "status.hostIP", "status.hostIPs", "status.podIP", "status.podIPs"'
                )
            ],
        ),
        (
            {"name": "A", "valueFrom": {"resourceFieldRef": {"resource": "limits.gpu"}}},
            [
                (
                    'FieldValueNotSupported .valueFrom.resourceFieldRef.resource: Unsupported value: "limits.gpu":'
                    ' supported values: "limits.cpu", "limits.ephemeral-storage", "limits.memory", "requests.cpu",'
                    ' "requests.ephemeral-storage", "requests.memory"'
                )
            ],
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
            volumes({"name": "w", "emptyDir": {}, "secret": {"secretName": "s"}}),
            ["FieldValueForbidden spec.volumes[0].secret: Forbidden: may not specify more than 1 volume type"],
        ),
        (
            volumes({"name": "w", "secret": {}}),
            ["FieldValueRequired spec.volumes[0].secret.secretName: Required value"],
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
    ("change", "said"),
    [
        (main(livenessProbe={"httpGet": {"port": 8080}}), []),
        (
            main(livenessProbe={"httpGet": {"port": 0}, "periodSeconds": -1}),
            [
                (
                    "FieldValueInvalid spec.containers[0].livenessProbe.httpGet.port: Invalid value: 0:"
                    " must be between 1 and 65535, inclusive"
                ),
                (
                    "FieldValueInvalid spec.containers[0].livenessProbe.periodSeconds: Invalid value: -1:"
                    " must be greater than or equal to 0"
                ),
            ],
        ),
        (
            main(livenessProbe={}),
            ["FieldValueRequired spec.containers[0].livenessProbe: Required value: must specify a handler type"],
        ),
        (
            main(livenessProbe={"exec": {"command": ["x"]}, "successThreshold": 2}),
            ["FieldValueInvalid spec.containers[0].livenessProbe.successThreshold: Invalid value: 2: must be 1"],
        ),
        (
            main(ports=[{"containerPort": 70000}]),
            [
                (
                    "FieldValueInvalid spec.containers[0].ports[0].containerPort: Invalid value: 70000:"
                    " must be between 1 and 65535, inclusive"
                )
            ],
        ),
        (
            main(ports=[{"containerPort": 80, "name": "a"}, {"containerPort": 81, "name": "a"}]),
            ['FieldValueDuplicate spec.containers[0].ports[1].name: Duplicate value: "a"'],
        ),
        (
            main(securityContext={"runAsUser": -1}),
            [
                (
                    "FieldValueInvalid spec.containers[0].securityContext.runAsUser: Invalid value: -1:"
                    " must be between 0 and 2147483647, inclusive"
                )
            ],
        ),
        (
            main(securityContext={"seccompProfile": {"type": "Strict"}}),
            [
                (
                    "FieldValueNotSupported spec.containers[0].securityContext.seccompProfile.type: Unsupported value:"
                    ' "Strict": supported values: "Localhost", "RuntimeDefault", "Unconfined"'
                )
            ],
        ),
    ],
)
def test_probes_ports_and_security(change: Object, said: list[str]) -> None:
    assert create_refusals(changed(POD, change)) == said


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
        ({}, {"spec": {"activeDeadlineSeconds": 60}}, []),
        ({}, {"spec": {"tolerations": [{"key": "gpu", "operator": "Exists"}]}}, []),
        ({}, {"metadata": {"labels": {"a": "b"}, "annotations": {"c": "d"}}}, []),
        ({}, main(command=["other"]), [UPDATABLE + "- spec.containers[0].command[0]: 'train'\n"
                                       "+ spec.containers[0].command[0]: 'other'\n"]),
        (
            {"spec": {"activeDeadlineSeconds": 60}},
            {"spec": {"activeDeadlineSeconds": 61}},
            [
                ("FieldValueInvalid spec.activeDeadlineSeconds: Invalid value: 61:"
                " must be less than or equal to previous value")
            ],
        ),
        (
            {"spec": {"activeDeadlineSeconds": 60}},
            {"spec": {"activeDeadlineSeconds": None}},
            [
                ('FieldValueInvalid spec.activeDeadlineSeconds: Invalid value: "null":'
                " must not update from a positive integer to nil value")
            ],
        ),
        (
            {"spec": {"tolerations": [{"key": "gpu", "operator": "Exists"}]}},
            {"spec": {"tolerations": None}},
            [
                ("FieldValueForbidden spec.tolerations: Forbidden:"
                " existing toleration can not be modified except its tolerationSeconds")
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


def test_a_container_that_stopped_for_good_stays_stopped() -> None:
    old = stored(changed(POD, {"status": {"containerStatuses": [status({"terminated": {"exitCode": 1}})]}}))
    new = stored(changed(old, {"status": {"containerStatuses": [status({"running": {}})]}}))
    assert told(validate_pod_status(new, old)) == [
        (
            "FieldValueForbidden status.containerStatuses[0].state: Forbidden:"
            " may not be transitioned to non-terminated state"
        )
    ]
    assert told(validate_pod_status(old, new)) == []


def status(state: Object) -> Object:
    return {"name": "main", "image": "x:1", "imageID": "", "ready": False, "restartCount": 0, "state": state}
