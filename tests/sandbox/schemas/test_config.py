import base64

import pytest

from support.kube_schemas import CONFIG_MAP, SECRET, Object, changed, create_refusals, update_refusals

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
        (
            {"type": "kubernetes.io/tls"},
            [
                "FieldValueRequired data[tls.crt]: Required value",
                "FieldValueRequired data[tls.key]: Required value",
            ],
        ),
        (
            {"type": "kubernetes.io/dockerconfigjson", "stringData": {".dockerconfigjson": ""}},
            [
                ('FieldValueInvalid data[.dockerconfigjson]: Invalid value: "<secret contents redacted>":'
                " unexpected end of JSON input")
            ],
        ),
        (
            {"type": "kubernetes.io/basic-auth"},
            [
                "FieldValueRequired data[username]: Required value",
                "FieldValueRequired data[password]: Required value",
            ],
        ),
        (
            {"type": "kubernetes.io/service-account-token"},
            [
                "FieldValueRequired metadata.annotations[kubernetes.io/service-account.name]: Required value",
            ],
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


def test_a_secret_value_is_never_told() -> None:
    bad = changed(SECRET, {"type": "kubernetes.io/dockercfg", "stringData": {".dockercfg": "hunter2"}})
    assert not any("hunter2" in line for line in create_refusals(bad))
