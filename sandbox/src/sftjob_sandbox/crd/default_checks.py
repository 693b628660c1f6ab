"""Whether the defaults of a schema satisfy it. Source: apiextensions-apiserver's pkg/apiserver/schema/defaulting."""

from collections.abc import Mapping
from typing import Any

from sftjob_sandbox.causes import invalid
from sftjob_sandbox.crd.rules import compile_rules, run_rules
from sftjob_sandbox.crd.structural import compile_schema, prune
from sftjob_sandbox.crd.values import ValueSchema
from sftjob_sandbox.errors import Cause

Schema = Mapping[str, Any]


def check_defaults(schema: Schema, path: str) -> list[Cause]:
    """Defaults with unknown fields, or that break the schema or a rule of the field that they are for."""
    causes: list[Cause] = []
    if schema.get("default") is not None:
        causes += _check_default(schema, f"{path}.default")
    if isinstance(schema.get("items"), dict):
        causes += check_defaults(schema["items"], f"{path}.items")
    for name, part in (schema.get("properties") or {}).items():
        causes += check_defaults(part, f"{path}.properties[{name}]")
    return causes


def _check_default(schema: Schema, path: str) -> list[Cause]:
    value = schema["default"]
    unknown: list[str] = []
    prune(value, compile_schema(schema), "x", unknown)
    causes = [invalid(path, value, "must not have unknown fields")] if unknown else []
    errors = ValueSchema(schema).errors(value, "", root=path)
    if errors:
        return [*causes, *errors]
    return [*causes, *run_rules(compile_rules(schema), value, path)]
