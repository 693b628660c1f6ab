from collections.abc import Callable

import pytest

from sftjob_sandbox.apimachinery import names

SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and"
    " end with an alphanumeric character (e.g. 'example.com', regex used for validation is"
    " '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
LABEL = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with"
    " an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is"
    " '[a-z0-9]([-a-z0-9]*[a-z0-9])?')"
)
DNS1035 = (
    "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character,"
    " and end with an alphanumeric character (e.g. 'my-name',  or 'abc-123', regex used for validation is"
    " '[a-z]([-a-z0-9]*[a-z0-9])?')"
)
NAME_PART = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric"
    " character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is"
    " '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
VALUE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and"
    " end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is"
    " '(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
CONFIG_KEY = (
    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name',  or 'KEY_NAME', "
    " or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')"
)
QUALIFIED = NAME_PART.replace("name part must", "a qualified name must") + (
    " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
)


@pytest.mark.parametrize(
    ("rule", "value", "said"),
    [
        (names.dns1123_subdomain, "a.b-c.1", []),
        (names.dns1123_subdomain, "a" * 253, []),
        (names.dns1123_subdomain, "a" * 254, ["must be no more than 253 characters"]),
        (names.dns1123_subdomain, "A", [SUBDOMAIN]),
        (names.dns1123_subdomain, "a.-b", [SUBDOMAIN]),
        (names.dns1123_subdomain, "a\n", [SUBDOMAIN]),
        (names.dns1123_subdomain, "", [SUBDOMAIN]),
        (names.dns1123_label, "a-1", []),
        (names.dns1123_label, "a_b", [LABEL]),
        (names.dns1123_label, "a.b", ["must not contain dots"]),
        (names.dns1123_label, "-" * 64, ["must be no more than 63 characters", LABEL]),
        (names.dns1035_label, "1a", [DNS1035]),
        (names.qualified_name, "example.com/Name_1.x", []),
        (names.qualified_name, "", ["name part must be non-empty", NAME_PART]),
        (names.qualified_name, "/a", ["prefix part must be non-empty"]),
        (names.qualified_name, "A/a", [f"prefix part {SUBDOMAIN}"]),
        (names.qualified_name, "a/b/c", [QUALIFIED]),
        (names.qualified_name, "n" * 64, ["name part must be no more than 63 characters"]),
        (names.label_value, "", []),
        (names.label_value, "a b", [VALUE]),
        (names.label_value, "v" * 64, ["must be no more than 63 characters"]),
        (names.config_key, "a_b.C-1", []),
        (names.config_key, "a b", [CONFIG_KEY]),
        (names.config_key, ".", ["must not be '.'"]),
        (names.config_key, "..a", ["must not start with '..'"]),
        (names.env_name, "a.b-c 1", []),
        (names.env_name, "", ["environment variable name must be non-empty"]),
        (
            names.env_name,
            "a=b",
            ["a valid environment variable name must consist only of printable ASCII characters other than '='"],
        ),
    ],
)
def test_says_what_is_wrong_with_a_name(rule: Callable[[str], list[str]], value: str, said: list[str]) -> None:
    assert rule(value) == said


@pytest.mark.parametrize(("base", "masked"), [("job-", "joa"), ("job", "job"), ("-", "-")])
def test_judges_a_generate_name_as_if_it_were_complete(base: str, masked: str) -> None:
    assert names.masked(base) == masked
