from typing import Any

import pytest

from sftjob_sandbox import names
from sftjob_sandbox.metadata import field_manager, validate_metadata
from support.kube_schemas import CONFIG_MAP, Object, changed, create_refusals, told, update_refusals

OWNER = {"apiVersion": "v1", "kind": "Pod", "name": "a", "uid": "1"}
NAME_PART = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric"
    " character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is"
    " '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)


def owned(*owners: Object) -> Object:
    return {"ownerReferences": list(owners)}


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"name": None}, ["FieldValueRequired metadata.name: Required value: name or generateName is required"]),
        ({"namespace": None}, ["FieldValueRequired metadata.namespace: Required value"]),
        ({"labels": {"a b": "c"}}, [f'FieldValueInvalid metadata.labels: Invalid value: "a b": {NAME_PART}']),
        (
            {"labels": {"a": "v" * 64}},
            [
                f'FieldValueInvalid metadata.labels: Invalid value: "{"v" * 64}": must be no more than 63 characters',
            ],
        ),
        ({"annotations": {"Upper.Case/Key": "x"}}, []),
        ({"annotations": {"": "x"}}, [
            'FieldValueInvalid metadata.annotations: Invalid value: "": name part must be non-empty',
            f'FieldValueInvalid metadata.annotations: Invalid value: "": {NAME_PART}',
        ]),
        (
            {"annotations": {"a": "x" * 262144}},
            ["FieldValueTooLong metadata.annotations: Too long: may not be more than 262144 bytes"],
        ),
        (
            owned({**OWNER, "apiVersion": ""}),
            [
                ('FieldValueInvalid metadata.ownerReferences.apiVersion: Invalid value: "":'
                " version must not be empty")
            ],
        ),
        (
            owned({**OWNER, "kind": "", "name": "", "uid": ""}),
            [
                'FieldValueInvalid metadata.ownerReferences.kind: Invalid value: "": kind must not be empty',
                'FieldValueInvalid metadata.ownerReferences.name: Invalid value: "": name must not be empty',
                'FieldValueInvalid metadata.ownerReferences.uid: Invalid value: "": uid must not be empty',
            ],
        ),
        (
            {"finalizers": ["mine"]},
            [
                ('FieldValueInvalid metadata.finalizers[0]: Invalid value: "mine":'
                " name is neither a standard finalizer name nor is it fully qualified")
            ],
        ),
        ({"finalizers": ["foregroundDeletion", "sftjob.dev/cleanup"]}, []),
    ],
)  # fmt: skip
def test_metadata_of_a_new_object(change: Object, said: list[str]) -> None:
    assert create_refusals(changed(CONFIG_MAP, {"metadata": change})) == said


def test_only_one_owner_is_the_controller() -> None:
    owners = [{**OWNER, "controller": True}, {**OWNER, "name": "b", "controller": True}]
    (line,) = create_refusals(changed(CONFIG_MAP, {"metadata": owned(*owners)}))
    assert line.startswith("FieldValueInvalid metadata.ownerReferences: Invalid value: ")
    assert line.endswith(
        ': Only one reference can have Controller set to true. Found "true" in references for Pod/a and Pod/b'
    )


def test_cluster_scoped_objects_have_no_namespace() -> None:
    causes = validate_metadata({"name": "a", "namespace": "b"}, namespaced=False, name_rule=names.dns1123_subdomain)
    assert told(causes) == ["FieldValueForbidden metadata.namespace: Forbidden: not allowed on this type"]


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({}, {"labels": {"a": "b"}}, []),
        (
            {"uid": "1"},
            {"uid": "2"},
            ['FieldValueInvalid metadata.uid: Invalid value: "2": field is immutable'],
        ),
        (
            {"creationTimestamp": "2026-01-02T03:04:05Z"},
            {"creationTimestamp": "2026-01-02T03:04:06Z"},
            ['FieldValueInvalid metadata.creationTimestamp: Invalid value: "2026-01-02T03:04:06Z": field is immutable'],
        ),
        (
            {"deletionTimestamp": "2026-01-02T03:04:05Z", "finalizers": ["a.b/c"]},
            {"finalizers": ["a.b/c", "a.b/d"]},
            [
                (
                    "FieldValueForbidden metadata.finalizers: Forbidden: no new finalizers"
                    " can be added if the object is"
                    ' being deleted, found new finalizers []string{"a.b/d"}'
                )
            ],
        ),
    ],
)
def test_metadata_of_a_changed_object(before: Object, after: Object, said: list[str]) -> None:
    old = changed(CONFIG_MAP, {"metadata": before})
    assert update_refusals(old, changed(old, {"metadata": after})) == said


@pytest.mark.parametrize(
    ("manager", "said"),
    [
        ("kopf", []),
        ("m" * 129, ["FieldValueTooLong fieldManager: Too long: may not be more than 128 bytes"]),
        (
            "a\nb",
            [
                r'FieldValueInvalid fieldManager: Invalid value: "a\nb": invalid character U+000A (at position 1)',
            ],
        ),
    ],
)
def test_names_of_field_managers(manager: str, said: list[str]) -> None:
    assert told(field_manager(manager)) == said


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"operation": "Apply", "manager": "a"}, []),
        (
            {"operation": "Merge", "manager": "a", "fieldsType": "FieldsV2"},
            [
                (
                    'FieldValueInvalid metadata.managedFields[0].operation: Invalid value: "Merge":'
                    " must be `Apply` or `Update`"
                ),
                'FieldValueInvalid metadata.managedFields[0].fieldsType: Invalid value: "FieldsV2": must be `FieldsV1`',
            ],
        ),
    ],
)
def test_managed_fields(entry: dict[str, Any], said: list[str]) -> None:
    assert create_refusals(changed(CONFIG_MAP, {"metadata": {"managedFields": [entry]}})) == said
