import pytest

from support.checks.kube_schemas import CONFIG_MAP, Object, changed, create_refusals, update_refusals

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


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({}, {"labels": {"a": "b"}}, []),
        ({}, {"name": "b"}, ['FieldValueInvalid metadata.name: Invalid value: "b": field is immutable']),
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
