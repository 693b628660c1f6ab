"""Write the field reference: `python -m sftjob_operator.api.reference PATH`.

It is generated from the same schema as the CRD, so it documents what the API server enforces.
"""

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from sftjob_contract.names import API_VERSION, KIND
from sftjob_operator.api.crd import Schema, resource_schema

_INTRODUCTION: Final = f"""\
<!-- Generated from sftjob_operator.api by `make generate`. Do not edit. -->

# {KIND} reference

`apiVersion: {API_VERSION}`, `kind: {KIND}`. Fields without a default are optional unless marked required.
The last column is the name under which TRL, PEFT, transformers or AutoTrain know the option.
The API server refuses values outside the bounds, unknown fields, and manifests that break a rule.
"""
_UPSTREAM: Final = re.compile(r"\s*(TRL|PEFT|transformers|AutoTrain): ([a-z0-9_]+(?:, [a-z0-9_]+)*)\.$")
"""End of the description of a field that maps to an upstream option."""


def reference() -> str:
    """Return the whole page as Markdown."""
    root = resource_schema()
    parts = [_INTRODUCTION, *(_rules(root))]
    for name in ("spec", "status"):
        parts += _sections(root["properties"][name], name)
    return "\n".join(parts)


def upstream_names(description: str) -> tuple[str, tuple[str, ...]] | None:
    """Return the library and option names at the end of a field's description, or None."""
    found = _UPSTREAM.search(description)
    return (found[1], tuple(found[2].split(", "))) if found else None


def _sections(schema: Schema, path: str) -> Iterator[str]:
    """Return a section for an object, then one for each nested object."""
    yield f"## {path}\n\n{schema['description']}\n"
    yield from _rules(schema)
    fields = schema.get("properties", {})
    if not fields:
        return
    yield "| field | type | default | bounds | description | stands for |\n|---|---|---|---|---|---|"
    required = schema.get("required", ())
    yield "".join(_row(name, field, path, name in required) for name, field in fields.items())
    for name, field in fields.items():
        nested, suffix = (field["items"], "[]") if field.get("type") == "array" else (field, "")
        if "properties" in nested:
            yield from _sections({**nested, "description": field["description"]}, f"{path}.{name}{suffix}")


def _rules(schema: Schema) -> Iterator[str]:
    own = schema.get("x-kubernetes-validations", [])
    if own:
        yield "Rules:\n\n" + "".join(f"- {_about(entry)}{entry['message']}\n" for entry in own)


def _about(entry: Schema) -> str:
    """Name the field that a rule of an object is about, as the API server prefixes the message with it."""
    field = entry.get("fieldPath", "").removeprefix(".")
    return f"`{field}`: " if field else ""


def _row(name: str, field: Schema, path: str, required: bool) -> str:
    description = field["description"]
    upstream = upstream_names(description)
    cells = (
        f"`{name}`",
        _type(field, f"{path}.{name}"),
        "required" if required else _default(field),
        _bounds(field),
        " ".join([_UPSTREAM.sub("", description), *_own_rules(field)]),
        f"{upstream[0]} {', '.join(f'`{option}`' for option in upstream[1])}" if upstream else "",
    )
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |\n"


def _own_rules(field: Schema) -> list[str]:
    if "properties" in field:
        return []  # documented in the section of that object
    return [f"Rule: {entry['message']}." for entry in field.get("x-kubernetes-validations", [])]


def _type(field: Schema, path: str) -> str:
    if "enum" in field:
        return "one of " + ", ".join(f"`{value}`" if value else '`""`' for value in field["enum"])
    if "additionalProperties" in field:
        return f"map of {_type(field['additionalProperties'], path)}"
    match field.get("type"):
        case "array":
            return f"list of {_type(field['items'], path + '[]')}"
        case "object":
            return f"[object](#{re.sub(r'[^a-z0-9]', '', path.lower())})"
        case kind:
            return _scalar(field, kind)


def _scalar(field: Schema, kind: str | None) -> str:
    if field.get("format") == "date-time":
        return "time"
    return kind or ("quantity" if field.get("x-kubernetes-int-or-string") else "any value")


def _default(field: Schema) -> str:
    value = field.get("default")
    if value is None or value == {}:
        return ""
    return f"`{_text(value)}`"


def _text(value: Any) -> str:
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ", ".join(_text(item) for item in value) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{key}: {_text(item)}" for key, item in value.items()) + "}"
    return str(value)


def _bounds(field: Schema) -> str:
    items = field.get("items", {})
    found = [
        _range(field, "minimum", "maximum", ""),
        _range(field, "minLength", "maxLength", " characters"),
        _range(field, "minItems", "maxItems", " items"),
        _range(field, "minProperties", "maxProperties", " entries"),
        f"`{field['pattern']}`" if "pattern" in field else "",
        f"each {_range(items, 'minLength', 'maxLength', ' characters')}" if "maxLength" in items else "",
    ]
    return ", ".join(part for part in found if part)


def _range(field: Schema, lowest: str, highest: str, unit: str) -> str:
    low, high = field.get(lowest), field.get(highest)
    if field.get("exclusiveMinimum") and lowest == "minimum":
        return f"above {low:g}, at most {high:g}"
    if field.get("exclusiveMaximum") and highest == "maximum":
        return f"{low:g} to below {high:g}"
    if low is not None and high is not None:
        return f"{low} to {high}{unit}"
    return f"at most {high}{unit}" if high is not None else ""


def main() -> None:
    """Write the page to the path on the command line."""
    path = Path(sys.argv[1])
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
