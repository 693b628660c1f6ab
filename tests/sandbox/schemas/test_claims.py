import pytest

from support.checks.kube_schemas import CLAIM, Object, changed, create_refusals, update_refusals

SIZE = {"spec": {"resources": {"requests": {"storage": "30Gi"}}}}
IMMUTABLE = (
    "FieldValueForbidden spec: Forbidden: spec is immutable after creation except resources.requests and"
    " volumeAttributesClassName for bound claims\nchanged: {}\n"
)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        (
            {"spec": {"accessModes": None}},
            ["FieldValueRequired spec.accessModes: Required value: at least 1 access mode is required"],
        ),
        (
            {"spec": {"accessModes": ["WriteOnly"]}},
            [
                (
                    'FieldValueNotSupported spec.accessModes: Unsupported value: "WriteOnly": supported values:'
                    ' "ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"'
                )
            ],
        ),
        (
            {"spec": {"accessModes": ["ReadWriteOncePod", "ReadWriteOnce"]}},
            ["FieldValueForbidden spec.accessModes: Forbidden: may not use ReadWriteOncePod with other access modes"],
        ),
        ({"spec": {"resources": None}}, ["FieldValueRequired spec.resources[storage]: Required value"]),
        (
            {"spec": {"resources": {"requests": {"storage": "0"}}}},
            ['FieldValueInvalid spec.resources[storage]: Invalid value: "0": must be greater than zero'],
        ),
    ],
)
def test_claims(change: Object, said: list[str]) -> None:
    assert create_refusals(changed(CLAIM, change)) == said


@pytest.mark.parametrize(
    ("before", "change", "said"),
    [
        ({}, {"metadata": {"labels": {"a": "b"}}}, []),
        ({}, {"spec": {"volumeName": "pv-1"}}, []),
        ({}, SIZE, [IMMUTABLE.format("resources")]),
        ({"status": {"phase": "Bound"}}, SIZE, []),
        ({}, {"spec": {"accessModes": ["ReadWriteMany"]}}, [IMMUTABLE.format("accessModes")]),
        (
            {"status": {"phase": "Bound", "capacity": {"storage": "20Gi"}}},
            {"spec": {"resources": {"requests": {"storage": "10Gi"}}}},
            [
                (
                    "FieldValueForbidden spec.resources.requests.storage: Forbidden:"
                    " field cannot be less than status.capacity"
                )
            ],
        ),
    ],
)
def test_a_claim_can_only_grow_and_only_once_bound(before: Object, change: Object, said: list[str]) -> None:
    old = changed(CLAIM, before)
    assert update_refusals(old, changed(old, change)) == said
