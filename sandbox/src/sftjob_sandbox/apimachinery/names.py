"""Syntax of names, labels and identifiers, with the sentences of apimachinery's validation package.

Each function returns one sentence for each violation; none for a well-formed value.
"""

import re
from typing import Final

_LABEL: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN: Final = f"{_LABEL}(\\.{_LABEL})*"
_DNS1035: Final = "[a-z]([-a-z0-9]*[a-z0-9])?"
_QUALIFIED: Final = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_CONFIG_KEY: Final = "[-._a-zA-Z0-9]+"

_LABEL_RE: Final = re.compile(_LABEL)
_SUBDOMAIN_RE: Final = re.compile(_SUBDOMAIN)
_DNS1035_RE: Final = re.compile(_DNS1035)
_QUALIFIED_RE: Final = re.compile(_QUALIFIED)
_ENV_RE: Final = re.compile("[ -<>-~]*")
_CONFIG_KEY_RE: Final = re.compile(_CONFIG_KEY)

_QUALIFIED_TEXT: Final = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character"
)


def byte_length(text: str) -> int:
    """Length as Go counts it."""
    return len(text) if text.isascii() else len(text.encode())


def pattern_error(text: str, pattern: str, *examples: str) -> str:
    """`text` with examples and the regular expression."""
    if not examples:
        return f"{text} (regex used for validation is '{pattern}')"
    shown = ",  or ".join(f"'{example}'" for example in examples)  # two blanks, as the real text has
    return f"{text} (e.g. {shown}, regex used for validation is '{pattern}')"


def max_length_error(limit: int) -> str:
    """The sentence for a value that is too long."""
    return f"must be no more than {limit} characters"


def dns1123_label(value: str) -> list[str]:
    """RFC 1123 label: container, volume and namespace names."""
    errors = [max_length_error(63)] if byte_length(value) > 63 else []
    if not _LABEL_RE.fullmatch(value):
        if _SUBDOMAIN_RE.fullmatch(value):
            return [*errors, "must not contain dots"]
        text = (
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', "
            "and must start and end with an alphanumeric character"
        )
        errors.append(pattern_error(text, _LABEL, "my-name", "123-abc"))
    return errors


def dns1123_subdomain(value: str) -> list[str]:
    """RFC 1123 subdomain: names of most objects."""
    errors = [max_length_error(253)] if byte_length(value) > 253 else []
    if not _SUBDOMAIN_RE.fullmatch(value):
        text = (
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
            "and must start and end with an alphanumeric character"
        )
        errors.append(pattern_error(text, _SUBDOMAIN, "example.com"))
    return errors


def dns1035_label(value: str) -> list[str]:
    """RFC 1035 label: Services, plural and singular names of custom resources."""
    errors = [max_length_error(63)] if byte_length(value) > 63 else []
    if not _DNS1035_RE.fullmatch(value):
        text = (
            "a DNS-1035 label must consist of lower case alphanumeric characters or '-', "
            "start with an alphabetic character, and end with an alphanumeric character"
        )
        errors.append(pattern_error(text, _DNS1035, "my-name", "abc-123"))
    return errors


def path_segment(value: str) -> list[str]:
    """Names that only have to fit into a path: those of Roles and their bindings."""
    if value in (".", ".."):
        return [f"may not be '{value}'"]
    return [f"may not contain '{character}'" for character in "/%" if character in value]


def qualified_name(value: str) -> list[str]:
    """Label keys, annotation keys, finalizers: an optional DNS subdomain and '/', then a name."""
    parts = value.split("/")
    errors = []
    if len(parts) > 2:
        text = "a qualified name " + pattern_error(_QUALIFIED_TEXT, _QUALIFIED, "MyName", "my.name", "123-abc")
        return [text + " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"]
    if len(parts) == 2:
        if not parts[0]:
            errors.append("prefix part must be non-empty")
        errors += [f"prefix part {text}" for text in (dns1123_subdomain(parts[0]) if parts[0] else [])]
    name = parts[-1]
    if not name:
        errors.append("name part must be non-empty")
    elif byte_length(name) > 63:
        errors.append(f"name part {max_length_error(63)}")
    if not _QUALIFIED_RE.fullmatch(name):
        errors.append("name part " + pattern_error(_QUALIFIED_TEXT, _QUALIFIED, "MyName", "my.name", "123-abc"))
    return errors


def label_value(value: str) -> list[str]:
    """Values of labels and label selectors."""
    errors = [max_length_error(63)] if byte_length(value) > 63 else []
    if value and not _QUALIFIED_RE.fullmatch(value):
        text = (
            "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', "
            "and must start and end with an alphanumeric character"
        )
        errors.append(pattern_error(text, f"({_QUALIFIED})?", "MyValue", "my_value", "12345"))
    return errors


def env_name(value: str) -> list[str]:
    """Names of environment variables: printable ASCII without '='."""
    errors = [] if value else ["environment variable name must be non-empty"]
    if not _ENV_RE.fullmatch(value):
        text = "a valid environment variable name must consist only of printable ASCII characters other than '='"
        errors.append(text)
    return errors


def config_key(value: str) -> list[str]:
    """Keys of ConfigMaps and Secrets."""
    errors = [max_length_error(253)] if byte_length(value) > 253 else []
    if not _CONFIG_KEY_RE.fullmatch(value):
        text = "a valid config key must consist of alphanumeric characters, '-', '_' or '.'"
        errors.append(pattern_error(text, _CONFIG_KEY, "key.name", "KEY_NAME", "key-name"))
    if value in (".", ".."):
        errors.append(f"must not be '{value}'")
    elif value.startswith(".."):
        errors.append("must not start with '..'")
    return errors


def between(value: int, low: int, high: int) -> list[str]:
    """A number from `low` to `high`, both included."""
    return [] if low <= value <= high else [f"must be between {low} and {high}, inclusive"]


def masked(name: str) -> str:
    """A generateName whose last two characters stand for a valid name's last one, if it ends with a dash."""
    return name[:-2] + "a" if len(name) > 1 and name.endswith("-") else name
