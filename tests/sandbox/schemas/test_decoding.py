"""Bodies are decoded as Go decodes them: types are strict, fields known, empty values left out."""

from typing import Any

import pytest

from sftjob_sandbox.apimachinery.errors import ApiError
from support.checks.kube_schemas import CLAIM, CONFIG_MAP, POD, SECRET, Object, changed, schema_of

CONTAINER = POD["spec"]["containers"][0]


def main(**changes: Any) -> Object:
    return {"spec": {"containers": [{**CONTAINER, **changes}]}}


@pytest.mark.parametrize(
    ("obj", "change", "message"),
    [
        (
            POD,
            {"spec": {"containers": {}}},
            "json: cannot unmarshal object into Go struct field PodSpec.spec.containers of type []v1.Container",
        ),
        (
            POD,
            main(image=1),
            "json: cannot unmarshal number into Go struct field Container.spec.containers.image of type string",
        ),
        (
            POD,
            main(tty="yes"),
            "json: cannot unmarshal string into Go struct field Container.spec.containers.tty of type bool",
        ),
        (
            POD,
            {"spec": {"activeDeadlineSeconds": "60"}},
            "json: cannot unmarshal string into Go struct field PodSpec.spec.activeDeadlineSeconds of type int64",
        ),
        (
            POD,
            {"spec": {"priority": 1.5}},
            "json: cannot unmarshal number 1.5 into Go struct field PodSpec.spec.priority of type int32",
        ),
        (
            CONFIG_MAP,
            {"data": {"a": 1}},
            "json: cannot unmarshal number into Go struct field ConfigMap.data of type string",
        ),
        (
            CONFIG_MAP,
            {"metadata": {"labels": {"a": True}}},
            "json: cannot unmarshal bool into Go struct field ObjectMeta.metadata.labels of type string",
        ),
        (SECRET, {"data": {"a": "!"}}, "illegal base64 data at input byte 0"),
        (
            CLAIM,
            {"spec": {"resources": {"requests": {"storage": "big"}}}},
            "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
        ),
        (
            CONFIG_MAP,
            {"metadata": {"creationTimestamp": "yesterday"}},
            'parsing time "yesterday" as "2006-01-02T15:04:05Z07:00": cannot parse "yesterday" as "2006"',
        ),
    ],
)
def test_a_value_of_the_wrong_type_is_a_bad_request(obj: Object, change: Object, message: str) -> None:
    with pytest.raises(ApiError) as refused:
        schema_of(obj).prune(changed(obj, change))
    kind = obj["kind"]
    assert (refused.value.code, refused.value.reason) == (400, "BadRequest")
    assert refused.value.message == f'{kind} in version "v1" cannot be handled as a {kind}: {message}'


@pytest.mark.parametrize(
    ("obj", "change", "unknown"),
    [
        (POD, {"spec": {"foo": 1}}, ["spec.foo"]),
        (POD, main(bar=1, env=[{"name": "A"}, {"name": "B", "baz": 1}]), [
            "spec.containers[0].bar", "spec.containers[0].env[1].baz",
        ]),
        (POD, {"foo": {"bar": 1}, "metadata": {"baz": 1}}, ["metadata.baz", "foo"]),
        (CONFIG_MAP, {"spec": {}}, ["spec"]),
        (CONFIG_MAP, {"data": {"any.key": "x"}}, []),
    ],
)  # fmt: skip
def test_unknown_fields_are_dropped_and_named(obj: Object, change: Object, unknown: list[str]) -> None:
    pruned, paths = schema_of(obj).prune(changed(obj, change))
    assert paths == unknown
    assert schema_of(obj).prune(pruned) == (pruned, [])


@pytest.mark.parametrize(
    ("obj", "change", "read"),
    [
        (POD, {"spec": {"hostNetwork": False, "hostname": "", "tolerations": [], "nodeSelector": {}}}, {}),
        (POD, {"spec": {"enableServiceLinks": False}}, {"enableServiceLinks": False}),
        (POD, {"spec": {"terminationGracePeriodSeconds": 0}}, {"terminationGracePeriodSeconds": 0}),
        (POD, {"spec": {"securityContext": {}}}, {"securityContext": {}}),
        (CLAIM, {"spec": {"storageClassName": ""}}, {"storageClassName": ""}),
        (CLAIM, {"spec": {"volumeName": ""}}, {}),
    ],
)
def test_empty_values_are_kept_only_where_go_keeps_them(obj: Object, change: Object, read: Object) -> None:
    plain, _ = schema_of(obj).prune(obj)
    pruned, _ = schema_of(obj).prune(changed(obj, change))
    assert {key: value for key, value in pruned["spec"].items() if key not in plain["spec"]} == read


@pytest.mark.parametrize(
    ("obj", "change", "path", "read"),
    [
        (POD, main(resources={"limits": {"cpu": "1000m"}}), ("spec", "containers", 0, "resources", "limits", "cpu"),
         "1"),
        (POD, {"metadata": {"creationTimestamp": "2026-01-02T03:04:05.6+01:00"}}, ("metadata", "creationTimestamp"),
         "2026-01-02T02:04:05Z"),
        (SECRET, {"data": {"token": "c2Vj\ncmV0"}}, ("data", "token"), "c2VjcmV0"),
        (POD, {"spec": {"priority": 3.0}}, ("spec", "priority"), 3),
    ],
)  # fmt: skip
def test_values_are_read_in_canonical_form(obj: Object, change: Object, path: tuple[Any, ...], read: Any) -> None:
    value: Any = schema_of(obj).prune(changed(obj, change))[0]
    for step in path:
        value = value[step]
    assert value == read


def test_a_container_always_has_resources() -> None:
    pruned, _ = schema_of(POD).prune(POD)
    assert pruned["spec"]["containers"] == [{**CONTAINER, "resources": {}}]
