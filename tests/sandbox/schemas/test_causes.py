from typing import Any

import pytest

from sftjob_sandbox.apimachinery import causes
from sftjob_sandbox.apimachinery.errors import Cause


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ("plain", '"plain"'),
        ('a"b\\c', r'"a\"b\\c"'),
        ("line\n\ttab\x01", r'"line\n\ttab\x01"'),
        ("\u00e4\u2028", '"\u00e4\\u2028"'),
        (None, '"null"'),
        (True, "true"),
        (-1, "-1"),
        (12345678901, "12345678901"),
        (0.1, "0.1"),
        (2.0, "2"),
        (0.0001, "0.0001"),
        (0.00001, "1e-05"),
        (123456.0, "123456"),
        (1234567.0, "1.234567e+06"),
        (-0.0, "-0"),
        (
            {"b": True, "a": [None, 1.5, "<"]},
            'map[string]interface {}{"a":[]interface {}{interface {}(nil), 1.5, "<"}, "b":true}',
        ),
        ([], "[]interface {}{}"),
    ],
)
def test_values_are_shown_as_go_prints_them(value: Any, shown: str) -> None:
    assert causes.shown(value) == shown


def test_json_is_written_as_go_writes_it() -> None:
    assert causes.as_json({"b": [1e20, 1e21, 1234567.0, 1e-6, 1e-7], "a": "<&>"}) == (
        '{"a":"\\u003c\\u0026\\u003e","b":[100000000000000000000,1e+21,1234567,0.000001,1e-7]}'
    )


@pytest.mark.parametrize(
    ("cause", "reason", "message"),
    [
        (causes.invalid("f", 3, "too big"), "FieldValueInvalid", "Invalid value: 3: too big"),
        (causes.type_invalid("f", "x", "no"), "FieldValueTypeInvalid", 'Invalid value: "x": no'),
        (causes.required("f"), "FieldValueRequired", "Required value"),
        (causes.required("f", "say it"), "FieldValueRequired", "Required value: say it"),
        (causes.duplicate("f", "x"), "FieldValueDuplicate", 'Duplicate value: "x"'),
        (causes.not_found("f", "x"), "FieldValueNotFound", 'Not found: "x"'),
        (
            causes.not_supported("f", "x", ("a", "b")),
            "FieldValueNotSupported",
            'Unsupported value: "x": supported values: "a", "b"',
        ),
        (causes.forbidden("f", "no"), "FieldValueForbidden", "Forbidden: no"),
        (causes.too_long("f", 5), "FieldValueTooLong", "Too long: may not be more than 5 bytes"),
        (causes.too_many("f", 7, 5), "FieldValueTooMany", "Too many: 7: must have at most 5 items"),
    ],
)
def test_causes_are_worded_as_field_errors(cause: Cause, reason: str, message: str) -> None:
    assert (cause.reason, cause.field, cause.message) == (reason, "f", message)
