"""Paths such as `.spec.labels['a.b']` that rules and selectable fields name, checked against a schema.

Source: apiextensions-apiserver's pkg/apiserver/schema/cel (ValidFieldPath).
"""

import re
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

_TOKENS: Final = re.compile(r"'(?:\\.|[^'\\])*'|[.\[\]]|[^.\[\]']+")


class FieldPath(NamedTuple):
    """A checked path as field errors write it, and the schema of the field."""

    text: str
    schema: Mapping[str, Any]


def resolve(path: str, schema: Mapping[str, Any], *, brackets: bool = True) -> FieldPath:
    """Check that `path` leads to a field of `schema`.

    Raises:
        ValueError: with what is wrong.
    """
    tokens = _TOKENS.findall(path)
    shown = ""
    while tokens:
        opening = tokens.pop(0)
        if opening not in (".", "["):
            raise ValueError(f"expected [ or . but got: {opening}")
        if opening == "[" and not brackets:
            raise ValueError("array notation is not allowed")
        if not tokens:
            raise ValueError("unexpected end of JSON path")
        name = tokens.pop(0)
        if opening == "[":
            name = _quoted(name)
            if not tokens or tokens.pop(0) != "]":
                raise ValueError("unexpected end of JSON path")
        schema, shown = _step(schema, name, shown)
    return FieldPath(shown, schema)


def _quoted(token: str) -> str:
    if len(token) < 2 or not (token.startswith("'") and token.endswith("'")):
        raise ValueError(f"expected single quoted string but got {token}")
    return re.sub(r"\\(.)", r"\1", token[1:-1])


def _step(schema: Mapping[str, Any], name: str, shown: str) -> tuple[Mapping[str, Any], str]:
    properties, values = schema.get("properties"), schema.get("additionalProperties")
    if properties:
        if name not in properties:
            raise ValueError("does not refer to a valid field")
        return properties[name], f"{shown}.{name}" if shown else name
    if isinstance(values, dict):
        return values, f"{shown}[{name}]"
    raise ValueError("does not refer to a valid field")
