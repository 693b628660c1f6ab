import base64

import pytest

from support.checks.kube_schemas import CONFIG_MAP, SECRET, Object, changed, create_refusals, update_refusals

MIB = 1024 * 1024
KEY = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME', "
    " or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
)
LOCKED = "Forbidden: field is immutable when `immutable` is set"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"data": {"a b": "x"}}, [f'FieldValueInvalid data[a b]: Invalid value: "a b": {KEY}']),
        (
            {"binaryData": {"plan.json": "AA=="}},
            [
                ('FieldValueInvalid data[plan.json]: Invalid value: "plan.json":'
                " duplicate of key present in binaryData")
            ],
        ),
        ({"data": {"plan.json": "x" * MIB}}, []),
        ({"data": {"a": "x"}, "binaryData": {"b": base64.b64encode(b"x" * MIB).decode()}}, [
            "FieldValueTooLong : Too long: may not be more than 1048576 bytes"
        ]),
    ],
)  # fmt: skip
def test_config_maps(change: Object, said: list[str]) -> None:
    assert create_refusals(changed(CONFIG_MAP, change)) == said


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({}, []),
        ({"stringData": {"a b": "x"}}, [f'FieldValueInvalid data[a b]: Invalid value: "a b": {KEY}']),
        (
            {"data": {"big": base64.b64encode(b"x" * (MIB + 1)).decode()}},
            ["FieldValueTooLong data: Too long: may not be more than 1048576 bytes"],
        ),
    ],
)  # fmt: skip
def test_secrets(change: Object, said: list[str]) -> None:
    assert create_refusals(changed(SECRET, change)) == said


@pytest.mark.parametrize(
    ("obj", "change", "said"),
    [
        (CONFIG_MAP, {"data": {"plan.json": "[]"}}, [f"FieldValueForbidden data: {LOCKED}"]),
        (CONFIG_MAP, {"binaryData": {"b": "AA=="}}, [f"FieldValueForbidden binaryData: {LOCKED}"]),
        (CONFIG_MAP, {"immutable": None}, [f"FieldValueForbidden immutable: {LOCKED}"]),
        (CONFIG_MAP, {"metadata": {"labels": {"a": "b"}}}, []),
        (SECRET, {"stringData": {"token": "other"}}, [f"FieldValueForbidden data: {LOCKED}"]),
        (SECRET, {"type": "x"}, ['FieldValueInvalid type: Invalid value: "x": field is immutable']),
    ],
)
def test_what_cannot_change_anymore(obj: Object, change: Object, said: list[str]) -> None:
    old = changed(obj, {"immutable": True})
    assert update_refusals(old, changed(old, change)) == said


def test_no_message_contains_a_value_of_a_secret() -> None:
    bad = changed(SECRET, {"stringData": {"a b": "hunter2"}})
    assert create_refusals(bad)
    assert not any("hunter2" in line for line in create_refusals(bad))
